"""The processes of a benchmark: started with a role, ended by their pids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

GUARD = """\
import os, signal, sys
left = set()
for line in sys.stdin:
    sign, pid = line[0], int(line[1:])
    left.add(pid) if sign == "+" else left.discard(pid)
for pid in left:
    os.kill(pid, signal.SIGKILL)
"""
"""Ends all processes when the benchmark has ended, however that was."""


class Processes:
    """What a benchmark has started; each role's output is in a file of its own.

    `environment` is what differs from this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.of: dict[str, subprocess.Popen[bytes]] = {}
        self._guard = subprocess.Popen(
            [sys.executable, "-c", GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, role: str, *arguments: str) -> None:
        """In the place of the one that had this role before, if any."""
        self._forget(role)
        with open(self.output_of(role), "ab") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.of[role] = process
        self._tell_guard(f"+{process.pid}")

    def output_of(self, role: str) -> Path:
        return self.folder / f"{role}.log"

    def send(self, role: str, number: int) -> None:
        self.of[role].send_signal(number)

    def slots(self, role: str) -> list[int]:
        return [child.pid for child in psutil.Process(self.of[role].pid).children()]

    def end(self) -> None:
        for role in reversed(self.of):
            self._forget(role)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def _forget(self, role: str) -> None:
        process = self.of.get(role)
        if process is not None:
            self._tell_guard(f"-{process.pid}")  # before the end, after which its number may be another's
            if process.poll() is None:
                process.kill()
            process.wait()

    def _tell_guard(self, line: str) -> None:
        assert self._guard.stdin is not None
        print(line, file=self._guard.stdin, flush=True)
