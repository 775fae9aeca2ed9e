"""`__main__` where each thread has its own. Each test is a program, since a process is divided for good."""

from __future__ import annotations

import subprocess
import sys
import textwrap

BEGIN = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from jobrunner.script import per_thread as threads
from jobrunner.script.current import script_module

first = sys.modules["__main__"]
one, other = ModuleType("__main__"), ModuleType("__main__")
one.name, other.name = "one", "other"
"""


def run(text):
    program = [sys.executable, "-W", "error", "-c", BEGIN + textwrap.dedent(text)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_division_nobody_has_one_of_their_own():
    run("""
        assert not threads.enter(one)
        assert sys.modules["__main__"] is script_module() is first
        assert threads.entered() is None
    """)


def test_a_division_alone_leaves_what_is_there():
    run("""
        threads.divide()
        assert sys.modules["__main__"] is script_module() is first
    """)


def test_each_thread_sees_what_it_has_entered():
    run("""
        threads.divide()
        both = threading.Barrier(2)

        def look(module):
            assert threads.enter(module)
            both.wait(10)
            import __main__
            from __main__ import name

            __main__.added = name
            del __main__.name
            both.wait(10)
            assert script_module() is threads.entered() is module
            assert vars(__main__) is vars(module)
            assert "added" in dir(__main__) and not hasattr(__main__, "name")
            return name, __main__.added, sys.modules["__main__"].added

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(look, [one, other])) == [("one",) * 3, ("other",) * 3]
    """)


def test_a_thread_that_has_entered_none_sees_the_last():
    run("""
        threads.divide()
        threads.enter(one)
        threads.enter(other)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(script_module).result() is other
            with threads.within(one):
                assert script_module() is one
                assert pool.submit(script_module).result() is other
        assert script_module() is other
    """)


def test_what_was_there_at_first_is_there_for_who_leaves():
    run("""
        threads.divide()
        threads.enter(one)
        threads.leave()
        assert script_module() is first
    """)
