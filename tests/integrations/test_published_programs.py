"""Published programs, with the class of their pool replaced: they print what they print with the standard one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPLACED = Path(__file__).with_name("replaced.py")

SOURCE = "import os\nx = {  'a':%d }\ndef f( a ):\n  return a+x [ 'a' ]\n"

PROCESS_MAP = """
import io
from tqdm.contrib.concurrent import process_map

def square(x):
    return x * x

if __name__ == "__main__":
    bar = io.StringIO()
    print(process_map(square, range(50), max_workers=2, chunksize=5, file=bar))
"""

LOGGING = """
import concurrent.futures, logging, logging.handlers, multiprocessing

def begin(queue):
    root = logging.getLogger()
    root.handlers[:] = [logging.handlers.QueueHandler(queue)]
    root.setLevel(logging.INFO)

def job(number):
    logging.getLogger().info("job %d", number)
    return number

if __name__ == "__main__":
    queue = multiprocessing.Queue(-1)
    with concurrent.futures.ProcessPoolExecutor(2, initializer=begin, initargs=(queue,)) as executor:
        print(list(executor.map(job, range(5))))
        print(sorted(queue.get(timeout=30).getMessage() for _ in range(5)))
"""

PROGRESS = """
import concurrent.futures, multiprocessing

def long(progress, task):
    for step in range(20):
        progress[task] = {"progress": step + 1}
    return task

if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(2) as executor, multiprocessing.Manager() as manager:
        progress = manager.dict()
        print([future.result() for future in [executor.submit(long, progress, task) for task in range(4)]])
        print(sorted((task, seen["progress"]) for task, seen in progress.items()))
"""

PROGRAMS = {
    "black": ["-m", "black", "--diff", "-q", "."],
    "yapf": ["-m", "yapf", "--parallel", "--diff", "-r", "."],
    "pylint": [
        "-m",
        "pylint",
        "-sn",
        "-j2",
        "--disable=all",
        "--enable=unused-import",
        "a.py",
        "b.py",
        "c.py",
    ],
    "tqdm": PROCESS_MAP,
    "logging from processes": LOGGING,
    "progress of processes": PROGRESS,
}


@pytest.fixture
def run(tmp_path):
    """Runs a program; its exit code, and the lines that it has printed, in any order."""
    sources = tmp_path / "sources"
    sources.mkdir()
    for number, name in enumerate("abcd"):
        (sources / f"{name}.py").write_text(SOURCE % number)

    def run(backend, program):
        arguments = program
        if isinstance(program, str):
            (tmp_path / "program.py").write_text(program)
            arguments = [str(tmp_path / "program.py")]
        done = subprocess.run(
            [sys.executable, str(REPLACED), backend, *arguments],
            cwd=sources,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert backend == "standard" or done.stderr.splitlines()[-1] == "pools: 1", done.stderr
        # The header of a difference has the time of the file, or now.
        return done.returncode, sorted(line.partition("\t")[0] for line in done.stdout.splitlines())

    return run


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_published_program_says_the_same(run, name):
    right = run("standard", PROGRAMS[name])
    assert right[1]
    for backend in ("processes", "cluster"):
        assert run(backend, PROGRAMS[name]) == right, backend
