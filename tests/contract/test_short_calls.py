"""Many short calls in a row, which backends may well run several at a time: nobody can tell."""

from __future__ import annotations

import gc
import os
import pickle
import weakref

import pytest
import zoo

from jobrunner import TaskLostError, gather

MANY = 300


@pytest.fixture
def known_to_be_short(executor):
    """Has the executor learn that calls of a function take next to no time."""

    def learn(fn, *args):
        for _ in range(3):
            gather([executor.submit(fn, *args) for _ in range(MANY)])

    return learn


@pytest.fixture
def hold_slots(executor, tmp_path, eventually):
    """Occupies both slots until it is called a second time."""
    files = [(str(tmp_path / f"started-{i}"), str(tmp_path / "go on")) for i in range(2)]
    holding = []

    def toggle():
        if holding:
            (tmp_path / "go on").touch()
            gather(holding)
            return
        holding.extend(executor.submit(zoo.announce_and_wait, *pair) for pair in files)
        eventually(lambda: all((tmp_path / f"started-{i}").exists() for i in range(2)))

    yield toggle
    (tmp_path / "go on").touch()


def test_every_call_has_its_own_result(executor, known_to_be_short):
    known_to_be_short(zoo.echo, 0)
    futures = [executor.submit(zoo.echo, i) for i in range(5 * MANY)]
    assert gather(futures) == list(range(5 * MANY))
    assert all(future.duration >= 0 for future in futures)
    assert {future.name for future in futures} == {"echo"}


def test_every_call_raises_for_itself(executor, known_to_be_short):
    known_to_be_short(zoo.divide, 1, 1)
    futures = [executor.submit(zoo.divide, 6, i % 4) for i in range(MANY)]
    for i, future in enumerate(futures):
        if i % 4:
            assert future.result() == 6 / (i % 4)
        else:
            with pytest.raises(ZeroDivisionError) as caught:
                future.result()
            assert "divide" in str(caught.value.__cause__ or caught.getrepr())


@pytest.fixture
def holding(tmp_path):
    """A folder for `zoo.keep_gil_if`, whose gate is open at the end at the latest; `open` opens it."""
    os.mkfifo(tmp_path / "gate")
    opened = []

    class Folder(str):
        def open(self):
            opened.append(os.open(tmp_path / "gate", os.O_RDWR))

    folder = Folder(tmp_path)
    yield folder
    folder.open()
    for fd in opened:
        os.close(fd)


@pytest.mark.own  # other engines have a call of theirs keep up what is with it
def test_a_call_that_keeps_the_interpreter_holds_nobody_up(make_executor, holding):
    """As C code does that does not release the GIL: its slot cannot say what has ended, nor give anything back."""
    executor = make_executor()
    for _ in range(3):
        gather([executor.submit(zoo.keep_gil_if, None, i) for i in range(MANY)])
    futures = [executor.submit(zoo.keep_gil_if, holding if i == 50 else None, i) for i in range(MANY)]
    long = futures.pop(50)
    assert gather(futures, timeout=30) == [i for i in range(MANY) if i != 50]
    assert not long.done()
    holding.open()
    assert long.result(30) == 50


@pytest.mark.own
@pytest.mark.promise("cancel")
def test_such_a_call_can_be_stopped(make_executor, holding, eventually):
    executor = make_executor()
    for _ in range(3):
        gather([executor.submit(zoo.keep_gil_if, None, i) for i in range(MANY)])
    futures = [executor.submit(zoo.keep_gil_if, holding if i == 50 else None, i) for i in range(MANY)]
    long = futures.pop(50)
    eventually(lambda: os.path.exists(f"{holding}/started"))
    assert long.cancel(running=True)
    assert long.cancelled()
    assert gather(futures, timeout=30) == [i for i in range(MANY) if i != 50]


def test_results_of_different_calls_share_nothing(executor, copies, known_to_be_short):
    known_to_be_short(zoo.shared_list)
    first, *others = gather([executor.submit(zoo.shared_list) for _ in range(MANY)])
    assert not copies or all(other is not first for other in others)


def test_a_call_that_turns_out_long_holds_nobody_up(executor, known_to_be_short, tmp_path):
    known_to_be_short(zoo.wait_if, None)
    path = tmp_path / "go on"
    futures = [executor.submit(zoo.wait_if, str(path) if i == 50 else None, i) for i in range(MANY)]
    long = futures.pop(50)
    try:
        gather(futures, timeout=30)
        assert not long.done()
    finally:
        path.touch()
    assert long.result(30) == 50


@pytest.mark.promise("cancel")
@pytest.mark.stops
def test_a_long_one_among_them_can_be_stopped(executor, known_to_be_short, tmp_path, eventually):
    known_to_be_short(zoo.wait_if, None)
    path = tmp_path / "never"
    futures = [executor.submit(zoo.wait_if, str(path) if i == 50 else None, i) for i in range(MANY)]
    long = futures.pop(50)
    gather(futures, timeout=30)
    eventually(long.running)
    assert long.cancel(running=True)
    assert executor.submit(zoo.echo, 1).result() == 1


@pytest.mark.apart
@pytest.mark.tells  # other engines do not look after processes that calls fork
@pytest.mark.parametrize("many", [False, True], ids=["one by one", "map"])
def test_a_process_that_a_call_forks_goes_on_with_nothing(executor, known_to_be_short, tmp_path, many):
    known_to_be_short(zoo.fork_and_note, str(tmp_path / "learning"), 1)
    lines, numbers = tmp_path / "lines", list(range(MANY))
    if many:
        list(executor.map(zoo.fork_and_note, [str(lines)] * MANY, numbers, [3] * MANY, chunksize=50))
    else:
        gather([executor.submit(zoo.fork_and_note, str(lines), number, 3) for number in numbers])
    assert sorted(map(int, lines.read_text().split())) == numbers


@pytest.mark.apart
def test_what_a_call_leaves_changed_does_not_reach_the_next(executor, make_executor, capfd):
    """Its standard output, say, which a slot gives each call anew."""
    executor = make_executor(max_workers=1)
    for _ in range(3):
        gather([executor.submit(zoo.take_stdout, False) for _ in range(MANY)])
    capfd.readouterr()
    gather(
        [
            executor.submit(zoo.take_stdout, True),
            *(executor.submit(zoo.print_lines, "heard") for _ in range(3)),
        ]
    )
    gather([executor.submit(zoo.take_stdout, i == 5, "heard") for i in range(MANY)])
    executor.shutdown()
    assert capfd.readouterr().out.count("heard") >= MANY - 1


def test_large_results_among_small_ones(executor, known_to_be_short):
    known_to_be_short(zoo.zeros, 1)
    sizes = [1_000_000 if i % 60 == 30 else i for i in range(MANY)]
    futures = [executor.submit(zoo.zeros, size) for size in sizes]
    assert [len(result) for result in gather(futures, timeout=60)] == sizes


@pytest.mark.promise("crashes")
@pytest.mark.crashes
@pytest.mark.tells  # where nobody tells whose call it was, others that were with it may pay too
def test_a_crash_costs_only_the_guilty_call(executor, known_to_be_short):
    known_to_be_short(zoo.exit_hard_if, 0, -1)
    futures = [executor.submit(zoo.exit_hard_if, i, 70) for i in range(MANY)]
    guilty = futures.pop(70)
    with pytest.raises(TaskLostError, match="exited with code"):
        guilty.result(60)
    assert gather(futures, timeout=60) == [i for i in range(MANY) if i != 70]


@pytest.mark.promise("cancel")
def test_any_of_those_that_wait_can_be_cancelled(executor, known_to_be_short, hold_slots, tmp_path):
    lines = tmp_path / "lines"
    lines.touch()
    known_to_be_short(zoo.append_line, str(lines), "learning")
    lines.write_text("")
    hold_slots()
    futures = [executor.submit(zoo.append_line, str(lines), str(i)) for i in range(MANY)]
    cancelled = [i for i in range(MANY) if i % 7 == 3 and futures[i].cancel()]
    assert cancelled  # those that an engine has already, it may run
    assert all(futures[i].cancelled() for i in cancelled)
    hold_slots()
    rest = sorted(set(range(MANY)) - set(cancelled))
    gather([futures[i] for i in rest], timeout=60)
    assert sorted(map(int, lines.read_text().split())) == rest


def test_those_that_wait_are_cancelled_at_the_end(make_executor, tmp_path, eventually):
    executor = make_executor()
    for _ in range(3):
        gather([executor.submit(zoo.echo, i) for i in range(MANY)])
    started = [str(tmp_path / f"started-{i}") for i in range(2)]
    holding = [executor.submit(zoo.announce_and_wait, one, str(tmp_path / "go on")) for one in started]
    eventually(lambda: all((tmp_path / f"started-{i}").exists() for i in range(2)))
    futures = [executor.submit(zoo.echo, i) for i in range(MANY)]
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go on").touch()
    gather(holding, timeout=30)
    executor.shutdown()
    # Some may have been on their way into a slot, as they may with the standard library's pool.
    assert all(future.cancelled() or future.result() == i for i, future in enumerate(futures))


def test_ids_are_unique_and_known_to_the_calls(executor, known_to_be_short):
    known_to_be_short(zoo.task_id)
    futures = [executor.submit(zoo.task_id) for _ in range(MANY)]
    assert gather(futures) == [future.id for future in futures]
    assert len({future.id for future in futures}) == MANY


@pytest.mark.promise("dependencies")
def test_they_can_be_arguments_of_others(executor, known_to_be_short, hold_slots):
    known_to_be_short(zoo.echo, 0)
    hold_slots()
    futures = [executor.submit(zoo.echo, i) for i in range(MANY)]
    sums = [executor.submit(zoo.add, future, future) for future in futures[::50]]
    hold_slots()
    assert gather(sums, timeout=30) == [2 * i for i in range(0, MANY, 50)]


@pytest.mark.promise("ids")
@pytest.mark.shared
def test_another_process_can_wait_for_one_of_them(executor, known_to_be_short, hold_slots):
    known_to_be_short(zoo.echo, 0)
    hold_slots()
    futures = [executor.submit(zoo.echo, i) for i in range(MANY)]
    waiting = pickle.loads(pickle.dumps(futures[123]))
    hold_slots()
    assert waiting.result(30) == 123
    afterwards = pickle.loads(pickle.dumps(futures[45]))
    assert afterwards.result(30) == 45


def test_one_of_them_does_not_keep_the_others_in_memory(executor, known_to_be_short):
    known_to_be_short(zoo.echo, 0)
    futures = [executor.submit(zoo.echo, i) for i in range(MANY)]
    gather(futures)
    kept, gone = futures[10], weakref.ref(futures[11])
    del futures
    gc.collect()
    assert kept.done()
    assert gone() is None
