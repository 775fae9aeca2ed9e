"""Runs the interpreter's own tests of `concurrent.futures` on this project's executors; fetches nothing.

    python tests/cpython/run.py                          threads, processes and the embedded cluster
    python tests/cpython/run.py processes -k shutdown    one backend, the tests whose names hold a word

It takes the `test` package of the interpreter that runs it, which needs this project and what that depends on
(`scripts/setup-venv`). In the tests, the standard library's executors, its Future, `wait` and `as_completed` are
replaced by those of this project. Tests that read the private attributes of the standard library's are left out, see
`left_out.py`. A test that leaves a thread or a process behind has failed. Where the interpreter has no such tests, it
says so and ends with 77.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import faulthandler
import importlib
import os
import pkgutil
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import stand_ins  # noqa: E402
from left_out import LEFT_OUT, LEFT_OUT_OF_CLUSTERS  # noqa: E402
from zmq.utils.garbage import gc as pyzmq_garbage  # noqa: E402

import jobrunner  # noqa: E402
from jobrunner.calls.serialization import RemoteTraceback  # noqa: E402

PACKAGE = "test.test_concurrent_futures"
BACKENDS = ("threads", "processes", "cluster")

TEST_SECONDS = 120.0
"""After which a test counts as hanging: every stack is printed, and the run ends."""

NOT_HERE = 77
"""The exit code that says that nothing was run."""

SAME_FUTURES = ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "EXCEPTION", "SUCCESSFUL")
"""Futures in each state, which the tests make once."""


def test_modules() -> list[types.ModuleType]:
    """The modules with the tests: a package since Python 3.12, and one module before. Empty if there are none."""
    try:
        whole = importlib.import_module(PACKAGE)
    except ModuleNotFoundError:
        return []
    if not hasattr(whole, "__path__"):
        return [whole]
    names = [found.name for found in pkgutil.iter_modules(whole.__path__)]
    return [importlib.import_module(f"{PACKAGE}.{name}") for name in sorted(names)]


def module_of_mixins(modules: list[types.ModuleType]) -> Any:
    """The one that defines which executor a test is run on."""
    named = {module.__name__: module for module in modules}
    return named.get(f"{PACKAGE}.util") or modules[0]


def replace(modules: list[types.ModuleType]) -> None:
    """Give the tests what this project has in place of the standard library's."""
    futures = types.ModuleType("concurrent.futures")
    futures.__dict__.update(concurrent.futures.__dict__)
    process = types.ModuleType("concurrent.futures.process")
    process.__dict__.update(importlib.import_module("concurrent.futures.process").__dict__)
    process._RemoteTraceback = RemoteTraceback  # type: ignore[attr-defined]
    futures.process = process  # type: ignore[attr-defined]
    for name in ("ThreadPoolExecutor", "ProcessPoolExecutor"):
        setattr(futures, name, getattr(stand_ins, name))
    for name in ("Future", "wait", "as_completed"):
        setattr(futures, name, getattr(jobrunner, name))
    maker = module_of_mixins(modules)
    made: dict[str, Any] = {}
    for module in modules:
        if getattr(module, "futures", None) is concurrent.futures:
            module.futures = futures  # type: ignore[attr-defined]
        if hasattr(module, "Future"):
            module.Future = jobrunner.Future  # type: ignore[attr-defined]
    for name in (f"{state}_FUTURE" for state in SAME_FUTURES):
        old = getattr(maker, name)
        made[name] = maker.create_future(old._state, old._exception, old._result)
    for module in modules:
        for name in made.keys() & vars(module).keys():
            setattr(module, name, made[name])
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = with_stand_ins(module.assert_python_ok)  # type: ignore[attr-defined]
    maker.ThreadPoolMixin.executor_type = stand_ins.ThreadPoolExecutor
    maker.ProcessPoolSpawnMixin.executor_type = stand_ins.ProcessPoolExecutor


def with_stand_ins(assert_python_ok: Callable[..., Any]) -> Callable[..., Any]:
    """For the tests that start a program: `from concurrent.futures import ...` is replaced there too."""
    opening = f"import sys; sys.path.insert(0, {str(HERE)!r}); import stand_ins; stand_ins.stand_in()\n"

    def run(flag: str, program: str, **settings: Any) -> Any:
        assert flag == "-c", flag
        return assert_python_ok(flag, opening + program, **settings)

    return run


def tests_for(backend: str, modules: list[types.ModuleType], word: str) -> Iterator[unittest.TestCase]:
    """The tests of one backend; those of no executor at all go with the threads."""
    maker = module_of_mixins(modules)
    wanted = maker.ThreadPoolMixin if backend == "threads" else maker.ProcessPoolSpawnMixin
    seen: set[type] = set()
    for module in modules:
        for case in vars(module).values():
            if not isinstance(case, type) or not issubclass(case, unittest.TestCase) or case in seen:
                continue
            seen.add(case)
            plain = not issubclass(case, maker.ExecutorMixin)
            if issubclass(case, wanted) or (plain and backend == "threads"):
                for name in unittest.defaultTestLoader.getTestCaseNames(case):
                    if word.lower() in f"{case.__name__}.{name}".lower():
                        yield case(name)


def defined_name(test: unittest.TestCase) -> str:
    """The class that defines the test, and the test's name."""
    name = test._testMethodName
    owner = next(base for base in type(test).__mro__ if name in vars(base))
    return f"{owner.__name__}.{name}"


class Result(unittest.TextTestResult):
    """What a test leaves behind is its failure, and one that hangs ends the run."""

    def startTest(self, test: unittest.TestCase) -> None:
        from test import support

        support.environment_altered = False
        faulthandler.dump_traceback_later(TEST_SECONDS, exit=True, file=sys.__stderr__)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        from test import support

        faulthandler.cancel_dump_traceback_later()
        if support.environment_altered:
            self.failures.append((test, "it left threads or processes behind, see the warning above"))
        super().stopTest(test)


def suite_for(
    backend: str, modules: list[types.ModuleType], word: str, everything: bool
) -> tuple[unittest.TestSuite, dict[str, str]]:
    """The tests of one backend, and by name why others were left out."""
    suite = unittest.TestSuite()
    left_out: dict[str, str] = {}
    reasons = dict(LEFT_OUT)
    if backend == "cluster":
        reasons |= LEFT_OUT_OF_CLUSTERS
    for test in tests_for(backend, modules, word):
        name = defined_name(test)
        if name in reasons and not everything:
            left_out[name] = reasons[name]
        else:
            # In a suite of its own, which releases it: what a test has made must be gone before its module is
            # cleaned up.
            suite.addTest(unittest.TestSuite([test]))
    return suite, left_out


def run(backend: str, modules: list[types.ModuleType], word: str, verbosity: int, everything: bool) -> bool:
    """Run the tests of one backend, print what was left out, and return whether all others passed."""
    os.environ[stand_ins.BACKEND] = backend
    if backend == "cluster":
        pyzmq_garbage.start()  # a thread of pyzmq's, for large messages: once begun it stays, whoever is shut down
    suite, left_out = suite_for(backend, modules, word, everything)
    print(f"=== {backend}: {suite.countTestCases()} tests of Python {sys.version.split()[0]}", flush=True)
    if not suite.countTestCases():
        return True
    runner = unittest.TextTestRunner(sys.stderr, resultclass=Result, verbosity=verbosity)
    result = runner.run(suite)
    for test, reason in result.skipped:
        print(f"skipped by itself: {test.id().rpartition('.')[2]}: {reason}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    return result.wasSuccessful()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "backends", nargs="*", metavar="BACKEND", help=f"of {', '.join(BACKENDS)}; default: all"
    )
    parser.add_argument("-k", default="", metavar="WORD", help="only tests whose class and name hold this")
    parser.add_argument("-v", action="store_true", help="print each test")
    parser.add_argument("--everything", action="store_true", help="run what is left out, too")
    arguments = parser.parse_args()
    unknown = {*arguments.backends} - {*BACKENDS}
    if unknown:
        parser.error(f"no such backend: {', '.join(sorted(unknown))}")
    modules = test_modules()
    if not modules:
        print(f"Python {sys.version.split()[0]} at {sys.base_prefix} has no {PACKAGE}: nothing was run")
        return NOT_HERE
    replace(modules)
    passed = [
        run(name, modules, arguments.k, 1 + arguments.v, arguments.everything)
        for name in arguments.backends or BACKENDS
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
