"""shutdown, the end of the program, Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import CancelledError

import pytest
import zoo


def test_shutdown_waits_and_takes_nothing_new(make_executor, tmp_path):
    executor = make_executor()
    futures = [executor.submit(zoo.echo, i) for i in range(20)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    executor.shutdown()
    for late in (lambda: executor.submit(zoo.echo), lambda: executor.map(zoo.echo, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            late()


@pytest.mark.parametrize("others", ["calls", "a map"])
def test_shutdown_in_a_callback_waits_for_nothing_that_waits_for_it(make_executor, tmp_path, others):
    executor = make_executor(max_workers=2)
    go, on = str(tmp_path / "go"), str(tmp_path / "on")
    ended = threading.Event()

    def end(_):
        executor.shutdown()
        ended.set()

    first = executor.submit(zoo.wait_for, go, 0)
    first.add_done_callback(end)
    if others == "calls":
        futures = [executor.submit(zoo.wait_for, on, number) for number in range(6)]
        results = (future.result() for future in futures)
    else:
        results = executor.map(zoo.wait_for, [on] * 6, range(6))
    (tmp_path / "go").touch()
    assert ended.wait(20)
    (tmp_path / "on").touch()
    assert list(results) == list(range(6))
    executor.shutdown()  # here it waits


def test_shutdown_in_a_callback_of_a_call_that_shutdown_cancels_waits_for_nothing(
    make_executor, tmp_path, eventually
):
    """The callback comes from within the first shutdown, which has yet to cancel the map."""
    executor = make_executor(max_workers=1)
    started, go = tmp_path / "started", tmp_path / "go"
    running = executor.submit(zoo.announce_and_wait, str(started), str(go), 5)
    eventually(started.exists)
    waiting = executor.submit(zoo.echo, 1)
    waiting.add_done_callback(lambda _: executor.shutdown())
    results = executor.map(zoo.echo, range(3))
    ending = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ending.start()
    eventually(waiting.done)
    go.touch()
    ending.join(20)
    assert not ending.is_alive()
    assert running.result() == 5
    with pytest.raises(CancelledError):
        list(results)


def test_shutdown_without_waiting_returns_at_once(make_executor, tmp_path):
    executor = make_executor()
    future = executor.submit(zoo.wait_for, str(tmp_path / "go"), 5)
    executor.shutdown(wait=False)
    assert not future.done()
    (tmp_path / "go").touch()
    assert future.result() == 5


def test_shutdown_can_cancel_what_waits(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started, go = tmp_path / "started", tmp_path / "go"
    running = executor.submit(zoo.announce_and_wait, str(started), str(go), 5)
    eventually(started.exists)
    queued = [executor.submit(zoo.append_line, str(tmp_path / "trace"), "x") for _ in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in queued))
    assert not running.done()
    go.touch()
    executor.shutdown()
    assert running.result() == 5
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("how", ["executor.shutdown(wait=False)", "del executor", "pass"])
def test_the_program_does_not_end_before_its_work(run_program, how, tmp_path):
    text = f"""
        from programs import open_executor
        from zoo import wait_for

        def work(number):
            wait_for({str(tmp_path / "go")!r})
            print(f"call {{number}}\\n", end="")  # in one piece, whoever else prints

        if __name__ == "__main__":
            executor = open_executor()
            for number in range(4):
                executor.submit(work, number)
            {how}
            open({str(tmp_path / "go")!r}, "w").close()
            print("end of main\\n", end="", flush=True)
    """
    lines = run_program(text).splitlines()
    assert sorted(lines) == ["call 0", "call 1", "call 2", "call 3", "end of main"]


@pytest.mark.parametrize("how", ["executor.shutdown(wait=False)", "del executor", "pass"])
def test_a_map_completes_after_the_end_of_main(run_program, how, tmp_path):
    text = f"""
        from programs import open_executor
        from zoo import append_line

        if __name__ == "__main__":
            executor = open_executor()
            executor.map(append_line, [{str(tmp_path / "trace")!r}] * 500, map(str, range(500)))
            {how}
    """
    run_program(text)
    assert len((tmp_path / "trace").read_text().split()) == 500


@pytest.mark.parametrize(
    "work", ["executor.submit(time.sleep, 0.05)", "list(executor.map(time.sleep, [0.05] * 4, chunksize=1))"]
)
def test_a_thread_that_goes_on_for_ever_does_not_keep_the_program_from_its_end(run_program, work):
    text = f"""
        import threading, time
        from programs import open_executor

        def go_on():
            try:
                while True:
                    {work}
                    time.sleep(0.01)
            except RuntimeError as exc:
                print(f"{{exc}}\\n", end="")  # in one piece, whoever else prints

        if __name__ == "__main__":
            executor = open_executor()
            last = executor.submit(abs, -1)
            for _ in range(3):
                threading.Thread(target=go_on, daemon=True).start()
            last.result()
            time.sleep(0.2)  # so that there is always one at work; without it the program ends all the more
    """
    assert {*run_program(text).splitlines()} <= {"cannot schedule new futures after shutdown"}


def test_a_script_without_a_main_guard(run_program):
    text = """
        from programs import open_executor
        def double(x):
            return 2 * x
        with open_executor() as executor:
            print(list(executor.map(double, range(5))))
    """
    assert run_program(text) == "[0, 2, 4, 6, 8]\n"


@pytest.mark.alone
@pytest.mark.parametrize("how", ["in a with block", "without one"])
def test_ctrl_c_ends_the_program_soon(start_program, can, how, tmp_path, eventually):
    started, go = tmp_path / "started", tmp_path / "go"
    text = f"""
        import concurrent.futures.thread, contextlib, sys, threading, time
        from programs import open_executor
        from zoo import announce_and_wait

        if __name__ == "__main__":
            if {"ends" not in can}:  # a thread cannot be stopped: the two that run may end once the rest is given up
                threading._register_atexit(lambda: open(sys.argv[2], "w").close())
            executor = open_executor()
            with executor if {how == "in a with block"} else contextlib.nullcontext():
                futures = [executor.submit(announce_and_wait, *sys.argv[1:3]) for _ in range(6)]
                time.sleep(100)
    """
    program = start_program(text, started, go)
    eventually(lambda: started.exists() and len(started.read_text().split()) == 2)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=30)
    assert program.returncode != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert len(started.read_text().split()) == 2  # those that waited never started


@pytest.mark.alone
def test_ctrl_c_does_not_wait_for_a_map(start_program, can, tmp_path, eventually):
    started, go = tmp_path / "started", tmp_path / "go"
    text = f"""
        import concurrent.futures.thread, sys, threading, time
        from programs import open_executor
        from zoo import announce_and_wait

        if __name__ == "__main__":
            if {"ends" not in can}:
                threading._register_atexit(lambda: open(sys.argv[2], "w").close())
            executor = open_executor()
            results = executor.map(announce_and_wait, sys.argv[1:2] * 500, sys.argv[2:3] * 500, chunksize=1)
            open(sys.argv[3], "w").close()
            time.sleep(100)
    """
    program = start_program(text, started, go, tmp_path / "mapped")
    eventually(lambda: started.exists() and len(started.read_text().split()) == 2)
    eventually((tmp_path / "mapped").exists)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=30)
    assert program.returncode != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert len(started.read_text().split()) == 2


def test_a_map_that_was_interrupted_is_waited_for_by_nobody(run_program):
    text = """
        from programs import open_executor
        from zoo import echo

        if __name__ == "__main__":
            executor = open_executor()
            backend = executor._lifetime.backend
            real = type(backend).submit_chunk

            def interrupted(self, *args):
                real(self, *args)
                raise KeyboardInterrupt  # as if Ctrl-C came on the way out, so the caller never has the Future

            type(backend).submit_chunk = interrupted
            try:
                executor.map(echo, range(100))
            except KeyboardInterrupt:
                print("interrupted")
            type(backend).submit_chunk = real
            print(list(executor.map(echo, range(3))))
    """
    assert run_program(text) == "interrupted\n[0, 1, 2]\n"


@pytest.mark.tidy
def test_an_executor_that_nobody_holds_goes_away(make_executor, run_program):
    text = """
        import gc, threading
        from programs import open_executor
        from zoo import echo

        if __name__ == "__main__":
            for _ in range(3):
                executor = open_executor()
                assert executor.submit(echo, 1).result() == 1
            del executor
            gc.collect()
            for thread in threading.enumerate():
                if thread is not threading.main_thread():
                    thread.join(20)
            print(threading.active_count())
    """
    assert run_program(text) == "1\n"


def test_shutdown_lets_calls_begin_that_a_free_slot_can_begin(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    begun = [executor.submit(zoo.append_line, str(tmp_path / "trace"), "x") for _ in range(2)]
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in begun] == [False, False]
    assert (tmp_path / "trace").read_text() == "x\nx\n"


def test_shutdown_cancels_what_no_free_slot_can_begin(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    futures = [executor.submit(zoo.wait_for, str(tmp_path / "go"), n) for n in range(20)]
    urgent = executor.with_options(priority=1).submit(zoo.wait_for, str(tmp_path / "go"), "urgent")
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    executor.shutdown()
    went_on = [future for future in (*futures, urgent) if not future.cancelled()]
    assert all(future.done() and future.exception() is None for future in went_on)
    assert 2 <= len(went_on) <= 6  # an engine has some at hand
    assert futures[-1].cancelled()


def test_a_slot_is_free_once_the_result_is_there(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    for _ in range(20):
        executor.submit(zoo.echo).result()
    last = executor.submit(zoo.append_line, str(tmp_path / "trace"), "x")
    executor.shutdown(wait=False, cancel_futures=True)
    assert last.exception() is None
    assert (tmp_path / "trace").read_text() == "x\n"


def test_shutdown_lets_the_first_elements_of_a_map_begin(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    results = executor.map(zoo.wait_for, [str(tmp_path / "go")] * 20, range(20), chunksize=1)
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(CancelledError):
        list(results)


def test_shutdown_cancels_calls_that_wait_for_futures(make_executor, tmp_path):
    executor = make_executor(max_workers=3)
    first = executor.submit(zoo.wait_for, str(tmp_path / "go"), 1)
    second = executor.submit(zoo.echo, first)
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    executor.shutdown()
    assert first.result() == 1
    assert second.cancelled()


def test_a_program_prints_what_it_submitted_before_it_shut_down(run_program):
    text = """
        from programs import open_executor
        if __name__ == "__main__":
            executor = open_executor()
            executor.submit(print, "apple")
            executor.shutdown(wait=False, cancel_futures=True)
    """
    assert run_program(text) == "apple\n"


@pytest.mark.alone
def test_a_process_that_the_program_forks(run_program, can):
    # What an engine leaves in a program for its end is not made for a forked process, which ends without it then.
    text = f"""
        import os, threading, warnings
        from programs import open_executor
        from zoo import echo

        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)  # to fork with threads is what is tried
            executor = open_executor()
            assert list(executor.map(echo, range(10))) == list(range(10))
            waiting = threading.Event()
            unfinished = executor.submit(waiting.wait) if {"apart" not in can} else None
            child = os.fork()
            try:
                answer = executor.submit(echo, "ran").result(20)
            except RuntimeError:
                answer = "refused"
            os.write(1, (("child " if child == 0 else "parent ") + answer + "\\n").encode())  # in one piece
            if child:
                assert os.waitpid(child, 0)[1] == 0
            elif {"tidy" not in can}:
                os._exit(0)
            waiting.set()
    """
    lines = run_program(text).splitlines()
    assert lines in (["parent ran", "child ran"], ["child ran", "parent ran"]) or (
        "copies" in can and sorted(lines) == ["child refused", "parent ran"]
    )


@pytest.mark.skipif(sys.platform != "linux", reason="forking a process with threads is not safe there")
def test_a_process_that_the_program_forks_waits_for_no_answer_to_a_cancel(run_program, tmp_path):
    text = f"""
        import os, signal, warnings
        os.environ["JOBRUNNER_CANCEL_WAIT"] = "1000"
        from programs import open_executor
        from zoo import wait_for

        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)  # to fork with threads is what is tried
            executor = open_executor()
            queued = [executor.submit(wait_for, {str(tmp_path / "go")!r}) for _ in range(10)][-1]
            child = os.fork()
            if not child:
                signal.alarm(20)  # so that it ends where this fails
                queued.cancel()
                os._exit(0)
            print(os.waitpid(child, 0)[1])
            open({str(tmp_path / "go")!r}, "w").close()
            queued.result()
    """
    assert run_program(text) == "0\n"
