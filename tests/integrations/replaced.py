"""Runs a program, or a module, with the standard library's process pool replaced by an Executor.

    python replaced.py BACKEND (-m MODULE | FILE) ARGUMENTS

BACKEND "standard" replaces nothing. The last line on stderr says how many pools the program has made.
"""

from __future__ import annotations

import atexit
import concurrent.futures.process
import runpy
import sys

from jobrunner import Executor

made = []


def replace(backend):
    class Replaced(Executor):
        def __init__(self, max_workers=None, mp_context=None, initializer=None, initargs=(), **more):
            super().__init__(
                backend, max_workers=max_workers, initializer=initializer, initargs=initargs, **more
            )
            made.append(self)

    concurrent.futures.ProcessPoolExecutor = Replaced
    concurrent.futures.process.ProcessPoolExecutor = Replaced
    atexit.register(lambda: print(f"pools: {len(made)}", file=sys.stderr))


if __name__ == "__main__":
    if sys.argv[1] != "standard":
        replace(sys.argv[1])
    if sys.argv[2] == "-m":
        sys.argv[:] = sys.argv[3:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = sys.argv[2:]
        runpy.run_path(sys.argv[0], run_name="__main__")
