"""jobrunner's daemons, each a process of its own on loopback TCP with keys; what is started is ended by its pid.

The environment says where keys go (XDG_CONFIG_HOME): give it a folder that nobody else uses.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

STOP_WAIT = 5.0
"""Seconds that a daemon has to leave before it is killed."""


class JobrunnerDaemons:
    """A coordinator at `address`, and a worker if it has slots."""

    def __init__(self, slots: int, *, journal: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="journal-")
        self.journal = Path(self._folder.name) / "journal"
        keeping = ["--journal", str(self.journal)] if journal else ["--no-journal"]
        self._processes: list[subprocess.Popen[str]] = []
        self.coordinator = self._start("coordinator", "start", "--port", "0", *keeping)
        assert self.coordinator.stdout is not None
        line = self.coordinator.stdout.readline()
        found = re.search(r"coordinator at (tcp://\S+)", line)
        if found is None:
            self.close()
            raise RuntimeError(f"the coordinator said: {line or 'nothing'}")
        self.address = found[1]
        if slots:
            self.worker("w", slots)

    def worker(self, name: str, slots: int) -> None:
        self._start("worker", "start", self.address, "--name", name, "--slots", str(slots))

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobrunner", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """The workers first, then the coordinator."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_WAIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> JobrunnerDaemons:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
