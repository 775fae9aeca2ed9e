"""A coordinator with keys, and workers, on loopback: processes as users start them, to be looked at from outside."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import psutil
from processes import Processes

from jobrunner.keys.identity import Identity
from jobrunner.keys.keyring import default_folder, open_keyring

HERE = Path(__file__).parent
BOUND = 60.0
"""Seconds after which a wait has failed; passing takes a fraction of that."""


def until(condition: Callable[[], bool], what: str, bound: float = BOUND) -> None:
    deadline = time.monotonic() + bound
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what} did not come in {bound:g} s")
        time.sleep(0.01)


class RealCluster(AbstractContextManager["RealCluster"]):
    """Its keys and its logs are in `folder`. From then on this process, too, takes its keys from there."""

    def __init__(self, folder: Path, environment: dict[str, str], workers: int = 1, *options: str) -> None:
        for name in [name for name in os.environ if name.startswith("JOBRUNNER_")]:
            del os.environ[name]
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        self.processes = Processes(folder, {"PYTHONPATH": str(HERE), **environment})
        self.workers = [f"honest-{number}" for number in range(1, workers + 1)]
        try:
            self._start(folder, options)
        except BaseException:
            self.processes.end()
            raise

    def _start(self, folder: Path, options: tuple[str, ...]) -> None:
        start = ("-m", "jobrunner", "coordinator", "start", "--port", "0")
        self.processes.start("coordinator", *start, "--journal", str(folder / "journal"))
        self.address = self._said("coordinator", r"coordinator at (tcp://\S+)")
        self.socket_address = ("127.0.0.1", int(self.address.rpartition(":")[2]))
        self.coordinator = psutil.Process(self.processes.of["coordinator"].pid)
        self.keys = open_keyring(default_folder())
        for name in self.workers:
            self.processes.start(
                name, "-m", "jobrunner", "worker", "start", self.address, "--name", name, *options
            )
        for name in self.workers:
            self._said(name, "(joined coordinator)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.end()

    def identity(self, name: str, role: str) -> Identity:
        """A new key for that role."""
        return self.keys.issue(name, role, [self.address])

    def megabytes(self) -> float:
        """The coordinator's memory."""
        return float(self.coordinator.memory_info().rss) / 1e6

    def descriptors(self) -> int:
        return int(self.coordinator.num_fds())

    def log(self, role: str) -> list[str]:
        return self.processes.output_of(role).read_text(errors="replace").splitlines()

    def alive(self) -> bool:
        """All of it."""
        return all(process.poll() is None for process in self.processes.of.values())

    def problems(self) -> list[str]:
        """Who of them has ended, or wrote of an error of its own."""
        found = []
        for role in ["coordinator", *self.workers]:
            code, lines = self.processes.of[role].poll(), self.log(role)
            if code is not None:
                found.append(f"{role} has ended with exit code {code}")
            if "Traceback (most recent call last):" in lines:
                found.append(f"{role} wrote a traceback")
            if found:
                found.append("\n".join(lines[-50:]))
        return found

    def _said(self, role: str, pattern: str) -> str:
        def found() -> re.Match[str] | None:
            return re.search(pattern, "\n".join(self.log(role)))

        process = self.processes.of[role]
        until(lambda: found() is not None or process.poll() is not None, f"{pattern!r} from {role}")
        match = found()
        if match is None:
            raise RuntimeError(f"{role} has ended:\n" + "\n".join(self.log(role)))
        return match[1]
