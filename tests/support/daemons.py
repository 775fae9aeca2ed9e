"""Real daemons on free loopback ports, each a process of its own; whatever was started is ended by its pid."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from jobrunner import Executor
from jobrunner.testing.waiting import BOUND, until


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def connected(address: str) -> Iterator[Executor]:
    """An Executor that nobody waits for at the end, so that a test that fails does not hang."""
    executor = Executor(address)
    try:
        yield executor
    finally:
        executor._lifetime.kill()


GUARD = """\
import os, signal, sys
left = set()
for line in sys.stdin:
    sign, pid = line[0], int(line[1:])
    left.add(pid) if sign == "+" else left.discard(pid)
for pid in left:
    os.kill(pid, signal.SIGKILL)
"""
"""A process that ends the daemons of a test whose own process was killed."""


class Daemon:
    """A process of ours: its lines, its signals, its end."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # a signal reaches it alone, as from `kill`
        )
        self.pid = self.popen.pid
        self.lines: list[str] = []
        self.address = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        match = until(lambda: re.search(pattern, self.output) or self.popen.poll() is not None, pattern)
        if match is True:
            self._reader.join(BOUND)
            match = re.search(pattern, self.output)
        assert match, self.output
        return match

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Sends a signal, and gives the exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        code = self.popen.wait(BOUND)
        self._reader.join(BOUND)
        return code

    def slots(self) -> list[int]:
        """The pids of a worker's slots."""
        return [child.pid for child in psutil.Process(self.pid).children()]

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
            self.popen.wait(BOUND)
        self._reader.join(BOUND)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Cluster:
    """Starts the daemons of one test. `peer_timeout` is short, so that losses are found in time."""

    def __init__(self, peer_timeout: str = "2") -> None:
        self.started: list[Daemon] = []
        self.environment = {"JOBRUNNER_PEER_TIMEOUT": peer_timeout}
        self._guard = subprocess.Popen(
            [sys.executable, "-c", GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def _tell_guard(self, line: str) -> None:
        assert self._guard.stdin is not None
        print(line, file=self._guard.stdin, flush=True)

    def run(self, *arguments: str, **environment: str) -> Daemon:
        """Any program in Python."""
        daemon = Daemon(*arguments, **{**self.environment, **environment})
        self.started.append(daemon)
        self._tell_guard(f"+{daemon.pid}")
        return daemon

    def coordinator(self, *options: str, port: int = 0, **environment: str) -> Daemon:
        daemon = self.run(
            "-m", "jobrunner", "coordinator", "start", "--port", str(port), *options, **environment
        )
        daemon.address = daemon.wait_for(r"coordinator at (tcp://\S+)")[1]
        return daemon

    def worker(self, address: str, name: str, *options: str, slots: int = 1, joined: bool = True) -> Daemon:
        arguments = ["--name", name, "--slots", str(slots), "--stop-grace", "0.5", *options]
        daemon = self.run("-m", "jobrunner", "worker", "start", address, *arguments)
        if joined:
            daemon.wait_for("joined coordinator")
        return daemon

    def end(self) -> None:
        for daemon in reversed(self.started):
            self._tell_guard(f"-{daemon.pid}")  # before the end, after which its number may be another's
            daemon.end()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        assert self._guard.wait(BOUND) == 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
