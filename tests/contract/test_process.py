"""The process that runs a call: options, arguments, folder, sys.path, hashes, streams, and what it does at its end."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket

import pytest
import zoo

pytestmark = [pytest.mark.own]

LEAVE = """
    import atexit, sys, threading, time, weakref
    from programs import open_executor

    class Held: pass
    held = Held()

    def late(path, word):
        time.sleep(0.3)
        with open(path, "a") as file:
            file.write(word + "\\n")
        print("late", word)

    def leave(path):
        threading.Thread(target=late, args=(path, "thread")).start()
        atexit.register(late, path, "atexit")
        weakref.finalize(held, late, path, "finalize")
        import builtins, warnings
        warnings.simplefilter("ignore", ResourceWarning)
        builtins.kept_open = open(path + ".kept", "w")
        builtins.kept_open.write("kept")

    if __name__ == "__main__":
        executor = open_executor(max_workers=1)
        executor.submit(leave, sys.argv[1]).result()
"""


@pytest.mark.parametrize("how", ["executor.shutdown()", "pass"])
def test_what_a_call_leaves_for_the_end_of_its_process_is_done(run_program, how, tmp_path):
    """Threads that go on, atexit, finalizers, files that nobody has closed; and what they print is heard."""
    path = tmp_path / "trace"
    out = run_program(LEAVE + f"        {how}\n", path)
    assert path.read_text().split() == ["thread", "finalize", "atexit"]
    assert (tmp_path / "trace.kept").read_text() == "kept"
    assert sorted(out.splitlines()) == ["late atexit", "late finalize", "late thread"]


def test_shutdown_returns_after_the_end_of_the_processes(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    executor.submit(zoo.note_at_exit, str(tmp_path / "trace"), 0.5).result()
    executor.shutdown()
    assert (tmp_path / "trace").read_text() == "exit\n"


def test_an_end_that_takes_too_long_is_cut_short(run_program, tmp_path, monkeypatch):
    monkeypatch.setenv("JOBRUNNER_EXIT_WAIT", "0.5")
    text = """
        import threading, sys
        from programs import open_executor

        def hang():
            threading.Thread(target=threading.Event().wait).start()
            return "left"

        if __name__ == "__main__":
            with open_executor(max_workers=1) as executor:
                print(executor.submit(hang).result())
    """
    assert run_program(text) == "left\n"


def test_ctrl_c_does_not_wait_for_what_calls_have_left(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    executor.submit(zoo.note_at_exit, str(tmp_path / "trace"), 60).result()
    executor._lifetime.kill()
    assert not (tmp_path / "trace").exists()


# --- the interpreter ------------------------------------------------------------------------------------------------


LOOK = """
    import json, os, sys
    from programs import open_executor

    def look():
        asserts = "on" if __debug__ else "off"
        try:
            assert False
        except AssertionError:
            asserts += ", checked"
        flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name in type(sys.flags).__match_args__}
        variables = {name: os.environ.get(name) for name in ("PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONPATH")}
        return [
            asserts, flags, sys.warnoptions, dict(sys._xoptions), sys.argv, sys.executable, variables, os.getcwd()
        ]

    if __name__ == "__main__":
        executor = open_executor()
        for here, there in zip(look(), executor.submit(look).result()):
            if here != there:
                print(here, there)
        print(json.dumps(sys.argv[1:]))
        executor.shutdown()
"""


@pytest.mark.parametrize(
    "options",
    [
        ["-O"],
        ["-OO", "-B", "-bb", "-W", "ignore::DeprecationWarning", "-W", "error::UserWarning"],
        ["-s", "-X", "dev", "-X", "utf8", "-X", "mine=3"],
        ["-E"],
    ],
    ids=" ".join,
)
def test_a_call_has_the_options_and_arguments_of_the_program(
    start_with_options, options, monkeypatch, tmp_path
):
    monkeypatch.setenv("PYTHONWARNINGS", "default::ImportWarning")
    arguments = ["two words", "", "-O", "é", "\udcff"]
    assert json.loads(start_with_options(options, LOOK, arguments)) == arguments


@pytest.fixture
def start_with_options(kind, tmp_path):
    import subprocess
    import sys
    import textwrap

    from programs import environment

    def run(options, text, arguments):
        path = tmp_path / "program.py"
        here = os.path.dirname(zoo.__file__)
        path.write_text(f"import sys; sys.path.insert(0, {here!r})\n" + textwrap.dedent(text))
        done = subprocess.run(
            [sys.executable, *options, str(path), *arguments],
            env=environment(kind) | {"PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


HASHES = """
    import time
    from programs import open_executor

    def hashes(number):
        time.sleep(0.3)
        return hash("a"), hash(b"b"), list({"x", "y", "z", "u", "v"})

    if __name__ == "__main__":
        with open_executor(max_workers=3) as executor:
            found = list(executor.map(hashes, range(6), chunksize=1))
        assert all(one == found[0] for one in found), found
        print(found[0][0], hash("a"))
"""


@pytest.mark.parametrize("options", [[], ["-I"]], ids=" ".join)
def test_a_string_has_one_hash_in_all_calls(start_with_options, options):
    first, again = (start_with_options(options, HASHES, []).split() for _ in range(2))
    assert first[0] != again[0], "it is random"


def test_a_string_has_the_programs_hash_where_a_seed_is_given(start_with_options, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    there, here = start_with_options([], HASHES, []).split()
    assert there == here


def test_a_call_finds_what_the_program_was_when_the_first_one_came(run_program, tmp_path):
    text = """
        import os, sys, time
        from programs import open_executor

        def look():
            return (
                [os.environ.get(name) for name in ("ADDED", "GONE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")],
                os.path.basename(os.getcwd()), sys.argv, time.tzname, os.path.exists("here"),
            )

        if __name__ == "__main__":
            os.environ |= {"GONE": "1", "MKL_NUM_THREADS": "2"}
            with open_executor(max_workers=2) as executor:
                os.makedirs("later")
                os.chdir("later")
                open("here", "w").close()
                del os.environ["GONE"], os.environ["MKL_NUM_THREADS"]
                os.environ |= {"ADDED": "\\udcff", "OMP_NUM_THREADS": "3", "TZ": "XYZ3"}
                sys.argv[1:] = ["other", "words"]
                first = executor.submit(look)
                os.environ["ADDED"] = "too late"
                sys.argv[1:] = []
                there = [first.result(), *executor.map(lambda _: look(), range(2), chunksize=1)]
            assert there == [there[0]] * 3, there
            variables, folder, arguments, names, found = there[0]
            print(ascii(variables), folder, arguments[1:], names[0], found)
    """
    assert run_program(text) == "['\\udcff', None, '3', '1'] later ['other', 'words'] XYZ True\n"


# --- sys.path and the folder ----------------------------------------------------------------------------------------


def test_modules_and_folders_that_come_after_the_first_call_are_found(run_program, tmp_path):
    text = """
        import importlib, os, sys
        from programs import open_executor

        def number_in(name):
            return importlib.import_module(name).NUMBER

        if __name__ == "__main__":
            os.makedirs("there")
            with open_executor(max_workers=1) as executor:
                for i in range(3):  # in the folder of the script, which calls have looked into before
                    with open(f"written_{i}.py", "w") as file:
                        file.write(f"NUMBER = {i}\\ndef function(): return NUMBER")
                    importlib.invalidate_caches()
                    print(executor.submit(importlib.import_module(f"written_{i}").function).result())
                with open("there/added.py", "w") as file:
                    file.write("NUMBER = 7")
                sys.path.append("there")
                print(executor.submit(number_in, "added").result())
                sys.path[-1] = ""
                os.makedirs("other")
                os.chdir("other")
                with open("current.py", "w") as file:
                    file.write("NUMBER = 8")
                print(executor.submit(number_in, "current").result())
                print(executor.submit(os.getcwd).result() == os.path.dirname(os.getcwd()))
    """
    assert run_program(text) == "0\n1\n2\n7\n8\nTrue\n"


# --- streams --------------------------------------------------------------------------------------------------------


def test_streams_can_be_reconfigured_and_replaced(run_program):
    text = """
        import contextlib, io, logging, sys
        from programs import open_executor

        def speak():
            print("one", flush=True)
            sys.stdout.buffer.write(b"two\\n")
            sys.stdout.write("three\\n")
            sys.stdout.reconfigure(encoding="latin-1", errors="replace", line_buffering=True, write_through=True)
            print("caf\\xe9 \\u20ac")
            sys.stdout.reconfigure(encoding="utf-8", newline="\\n")
            sys.stdout.writelines(["four\\n", "five\\n"])
            with contextlib.redirect_stdout(io.StringIO()) as hidden:
                print("hidden")
            assert hidden.getvalue() == "hidden\\n"
            assert isinstance(sys.stdout, io.TextIOWrapper)
            for forbidden in (sys.stdout.read, sys.stdout.tell, lambda: next(sys.stdout), lambda: sys.stdout.seek(0)):
                try:
                    forbidden()
                except io.UnsupportedOperation:
                    pass
                else:
                    raise AssertionError(forbidden)
            return sys.stdout.name, sys.stdout.mode, sys.stdout.closed, sys.stdout.fileno(), sys.stdout.isatty()

        def wrap():
            sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8", errors="replace")
            print("wrapped \\u00fc")

        def close():
            sys.stdout.close()
            print("x")

        if __name__ == "__main__":
            with open_executor(max_workers=1) as executor:
                print(executor.submit(speak).result())
                executor.submit(wrap).result()
                print(type(executor.submit(close).exception()).__name__)
                executor.submit(print, "after").result()
    """
    expected = "one|two|three|café ?|four|five|('<stdout>', 'w', False, 1, False)|wrapped ü|ValueError|after|"
    assert run_program(text).replace("\n", "|") == expected


CONFIGURED = """
    import decimal, logging, sys, warnings
    import numpy
    from programs import open_executor

    decimal.getcontext().prec = 40
    decimal.getcontext().rounding = decimal.ROUND_DOWN
    numpy.seterr(all="raise")
    numpy.set_printoptions(precision=2)
    sys.setrecursionlimit(4321)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(message)s", stream=sys.stdout)
    logging.getLogger("own").setLevel(logging.DEBUG)

    def third():
        return decimal.Decimal(2) / 3

    def divide():
        try:
            return numpy.ones(2) / numpy.zeros(2)
        except FloatingPointError as error:
            return "raised"

    def show():
        return str(numpy.array([1 / 3]))

    def log():
        logging.info("hello")
        logging.debug("too much")
        logging.getLogger("own").debug("from own")
        sys.stdout.flush()

    def change():
        decimal.getcontext().prec = 5

    if __name__ == "__main__":
        with open_executor(max_workers=1) as executor:
            for fn in (third, divide, show, sys.getrecursionlimit, log):
                print(executor.submit(fn).result(), flush=True)
            sys.path.append("/nowhere")
            executor.submit(change).result()
            print(executor.submit(third).result())
"""


def test_what_the_script_has_configured_holds_in_its_calls(run_program):
    """As where the processes are forked; what a call configures stays, as where they are of any kind."""
    out = run_program(CONFIGURED).splitlines()
    assert out[:4] == ["0." + "6" * 40, "raised", "[0.33]", "4321"]
    assert sorted(out[4:7]) == ["DEBUG:from own", "INFO:hello", "None"]
    assert out[7:] == ["0.66666"]


def send(connection, value):
    connection.send(value)


def send_and_return(connection, value):
    connection.send(value)
    return connection


def send_bytes(a_socket, value):
    a_socket.sendall(value)


def test_connections_and_sockets_can_be_arguments(executor):
    """As in the standard library's pools: each process gets a descriptor of its own, and closes that alone."""
    here, there = multiprocessing.Pipe()
    with here, there:
        executor.submit(send, there, 1).result()
        list(executor.map(send, [there] * 4, range(2, 6)))
        executor.submit(send, connection=there, value=6).result()
        assert sorted(here.recv() for _ in range(6)) == [1, 2, 3, 4, 5, 6]
        with executor.submit(send_and_return, there, 7).result() as returned:
            returned.send(8)
        assert [here.recv(), here.recv()] == [7, 8]
        there.send(9)
        assert here.recv() == 9
    first, second = socket.socketpair()
    with first, second:
        executor.submit(send_bytes, second, b"x").result()
        assert first.recv(1) == b"x"
