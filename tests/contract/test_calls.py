"""submit and the Future it returns."""

from __future__ import annotations

import concurrent.futures
import functools
import pickle
import sys

import pytest
import zoo

from jobrunner import Future, NotSupportedError, SerializationError, gather


def test_submit_returns_a_future_with_the_result(executor):
    future = executor.submit(zoo.add, 40, right=2)
    assert isinstance(future, Future)
    assert future.result() == 42
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()
    assert not future.running()


def test_isinstance_and_what_libraries_peek_at(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor._max_workers == executor.max_workers == 2
    assert executor.status()


def test_ids_are_unique_and_names_and_durations_known(executor):
    futures = [executor.submit(zoo.echo, i) for i in range(20)]
    gather(futures)
    assert len({future.id for future in futures}) == 20
    assert futures[0].name == "echo"
    assert all(future.duration >= 0 for future in futures)
    assert executor.with_options(name="mine").submit(zoo.echo).name == "mine"


def test_keyword_arguments_may_have_any_name(executor):
    assert executor.submit(dict, fn=1, self=2).result() == {"fn": 1, "self": 2}


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda: 5,
        lambda: functools.partial(zoo.add, 2, 3),
        lambda: zoo.Counter(4),
        lambda: zoo.Counter(4).next,
    ],
    ids=["lambda", "partial", "callable object", "bound method"],
)
def test_every_kind_of_callable(executor, make):
    assert executor.submit(make()).result() == 5


def test_large_arguments_and_results(executor):
    data = bytes(range(256)) * 20_000
    assert executor.submit(zoo.size_and_echo, data).result() == (len(data), data)


def test_many_small_calls(executor):
    futures = [executor.submit(zoo.echo, i) for i in range(2000)]
    assert gather(futures) == list(range(2000))


def test_an_exception_arrives_as_it_was_raised(executor, copies):
    future = executor.submit(zoo.divide, 1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert future.exception() is caught.value
    if copies:
        assert "in divide" in str(caught.value.__cause__)


def test_a_function_that_is_none_fails_in_the_future_or_the_call(executor):
    with pytest.raises((TypeError, SerializationError)):
        executor.submit(None).result()


@pytest.mark.parametrize("specimen", [zoo.FailsOnPickle, zoo.FailsOnUnpickle])
def test_bad_arguments_cost_their_own_call(executor, copies, specimen):
    bad, good = executor.submit(zoo.echo, specimen()), executor.submit(zoo.echo, 1)
    assert good.result() == 1
    if copies:
        with pytest.raises(SerializationError, match=r"will not be (un)?pickled"):
            bad.result()
    else:
        assert isinstance(bad.result(), specimen)


@pytest.mark.parametrize("name", ["FailsOnPickle", "FailsOnUnpickle", "ExitsOnPickle"])
def test_bad_results_cost_their_own_call(executor, copies, name):
    bad, good = executor.submit(zoo.make, name), executor.submit(zoo.echo, 1)
    assert good.result() == 1
    if copies:
        assert isinstance(bad.exception(), (SerializationError, SystemExit))
    else:
        assert type(bad.result()).__name__ == name


@pytest.mark.parametrize(
    ("fn", "kind_of_error", "text"),
    [
        (zoo.raise_two_arguments, "TwoArgumentsError", "7: seven"),
        (zoo.raise_unpicklable, "UnpicklableError", "holds a lock"),
        (zoo.raise_keyboard_interrupt, "KeyboardInterrupt", "from the task"),
    ],
)
def test_odd_exceptions_keep_their_type_and_text(executor, isolated, fn, kind_of_error, text):
    error = executor.submit(fn).exception()
    assert kind_of_error in f"{type(error).__name__}: {error}"
    assert text in str(error)


def test_a_call_that_exits_costs_itself(executor):
    error = executor.submit(zoo.exit_with, 3).exception()
    assert "SystemExit" in f"{type(error).__name__}: {error}"
    assert executor.submit(zoo.echo, 1).result() == 1


def test_chained_exceptions(executor):
    error = executor.submit(zoo.raise_chained).exception()
    assert isinstance(error, ValueError)


# --- nothing stale ------------------------------------------------------------------------------------------


def test_a_closure_is_taken_as_it_is_at_each_submit(executor):
    cell = 1

    def read():
        return cell

    assert executor.submit(read).result() == 1
    cell = 2
    assert executor.submit(read).result() == 2


def test_a_redefined_function_does_not_run_stale(executor):
    results = []
    for number in range(3):
        space = {}
        exec(f"def f(): return {number}", space)
        results.append(executor.submit(space["f"]).result())
    assert results == [0, 1, 2]


def test_a_changed_global_is_seen_by_a_function_that_goes_by_value(executor):
    space = {"value": 1}
    exec("def f(): return value", space)
    assert executor.submit(space["f"]).result() == 1
    space["value"] = 2
    assert executor.submit(space["f"]).result() == 2


def test_an_argument_is_fixed_at_submit(make_executor, copies, tmp_path):
    executor = make_executor(max_workers=1)
    gate = executor.submit(zoo.wait_for, str(tmp_path / "go"))
    data = [1]
    future = executor.submit(zoo.echo, data)
    data.append(2)
    (tmp_path / "go").touch()
    gate.result()
    assert future.result() == ([1] if copies else [1, 2])  # threads share, and say so


# --- states -------------------------------------------------------------------------------------------------


@pytest.mark.promise("cancel")
def test_running_pending_and_cancel(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started, go = tmp_path / "started", tmp_path / "go"
    running = executor.submit(zoo.announce_and_wait, str(started), str(go), "done")
    eventually(started.exists)
    eventually(running.running)
    queued = executor.submit(zoo.append_line, str(tmp_path / "ran"), "x")
    assert not queued.running()
    assert not running.cancel()
    assert queued.cancel()
    assert queued.cancelled()
    assert queued.done()
    assert queued.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        queued.result()
    with pytest.raises(TimeoutError):
        running.result(timeout=0)
    go.touch()
    assert running.result() == "done"
    assert not running.cancel()
    executor.shutdown()
    assert not (tmp_path / "ran").exists()


@pytest.mark.promise("cancel")
def test_cancel_of_a_running_call(make_executor, can, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started, go = tmp_path / "started", tmp_path / "go"
    future = executor.submit(zoo.announce_and_wait, str(started), str(go))
    eventually(started.exists)
    if "stops" in can:
        assert future.cancel(running=True)
        assert future.cancelled()
    else:
        with pytest.raises(NotSupportedError, match="cannot be stopped"):
            future.cancel(running=True)
        go.touch()
        future.result()
    assert executor.submit(zoo.echo, 1).result() == 1


def test_callbacks_run_in_order_and_their_errors_harm_nobody(executor, caplog, tmp_path, eventually):
    seen = []

    def bad(future):
        seen.append("bad")
        raise ValueError("in a callback")

    future = executor.submit(zoo.wait_for, str(tmp_path / "go"), 1)
    future.add_done_callback(lambda future: seen.append("first"))
    future.add_done_callback(bad)
    future.add_done_callback(lambda future: seen.append(future.result()))
    (tmp_path / "go").touch()
    eventually(lambda: len(seen) == 3)
    assert seen == ["first", "bad", 1]
    assert "in a callback" in caplog.text
    late = []
    future.add_done_callback(late.append)
    assert late == [future]
    assert executor.submit(zoo.echo, 3).result() == 3


def test_a_callback_may_submit(make_executor, eventually):
    executor = make_executor()
    second = []
    executor.submit(zoo.echo, 1).add_done_callback(
        lambda future: second.append(executor.submit(zoo.echo, future.result() + 1))
    )
    assert eventually(lambda: second)[0].result() == 2


# --- sending the executor itself ----------------------------------------------------------------------------


@pytest.mark.promise("nested")
def test_an_executor_can_be_sent_to_a_call(make_executor, isolated, can):
    executor = make_executor()

    def inner(executor):
        with executor:
            return executor.submit(zoo.add, 1, 2).result()

    if isolated and "nests" in can:
        assert executor.submit(inner, executor).result() == 3
        assert executor.submit(zoo.echo, 4).result() == 4  # closing the copy closed nothing here
    else:
        with pytest.raises(NotSupportedError, match="cluster"):
            pickle.dumps(executor)


def test_calls_run_where_they_should(executor, isolated):
    import os

    assert (executor.submit(zoo.pid).result() != os.getpid()) == isolated


def test_printing_arrives(make_executor, isolated, capfd):
    with make_executor() as executor:
        executor.submit(zoo.print_lines, "hello from a call").result()
        executor.submit(zoo.print_error, "trouble in a call").result()
    sys.stdout.flush()
    captured = capfd.readouterr()
    assert "hello from a call\n" in captured.out
    assert "trouble in a call\n" in captured.err


def test_a_class_that_a_function_has_made_is_as_it_was_at_submit(executor):
    class Settings:
        rate = 0

    def look():
        return Settings.rate, hasattr(Settings, "extra")

    found = []
    for rate in (1, 2, 1, 2, 2, 1):
        Settings.rate = rate
        if rate == 2:
            Settings.extra = True
        elif hasattr(Settings, "extra"):
            del Settings.extra
        found.append(executor.submit(look).result())
    assert found == [(rate, rate == 2) for rate in (1, 2, 1, 2, 2, 1)]
