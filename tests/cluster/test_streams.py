"""Programs that have closed their standard streams: new descriptors then have their numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys

numbers, when, backend = sys.argv[1], sys.argv[2], sys.argv[3]
answer = os.dup(int(sys.argv[4]))

def close():
    for number in numbers:
        os.close(int(number))

if when == "first":
    close()

from jobrunner import Executor, current_executor

def nested(n):
    return sum(current_executor().map(abs, range(n)))

if __name__ == "__main__":
    with Executor(backend, max_workers=1) as executor:
        results = [executor.submit(abs, -3).result()]
        if when == "later":
            close()
        executor.submit(os._exit, 1).exception()  # and another process takes its place
        results += [executor.submit(abs, -4).result(), executor.submit(nested, 4).result()]
    os.write(answer, repr(results).encode())
"""


@pytest.mark.parametrize(("when", "numbers"), [("first", "012"), ("later", "0")])
@pytest.mark.parametrize("backend", ["processes", "cluster"])
def test_a_program_that_has_closed_its_standard_streams_has_its_slots(tmp_path, backend, when, numbers):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with open(tmp_path / "answer", "wb") as answer:
        subprocess.run(
            [sys.executable, str(path), numbers, when, backend, str(answer.fileno())],
            pass_fds=[answer.fileno()],
            timeout=50,
            check=True,
        )
    assert (tmp_path / "answer").read_text() == "[3, 4, 6]"
