"""A client that works all the time and checks every result, on a thread of its own."""

from __future__ import annotations

import threading
import time

from jobrunner import Executor

FIRST = 2**31 - 1
"""The highest priority: who has a key may ask for it, and then others wait. With it, they take turns."""

BOUND = 60.0
"""Seconds after which a round counts as hanging."""


def square(n: int) -> int:
    return n * n


class Honest:
    """Submits and maps, in rounds, until `stop`. Its calls need the resource "honest", so nobody else gets them."""

    def __init__(self, address: str) -> None:
        self.calls = 0
        self.slowest = 0.0
        """Seconds of a round."""
        self.wrong: list[str] = []
        self._executor = Executor(address, show_output=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="honest", daemon=True)
        self._round()  # so that the connection stands, and the slots are warm
        # At its first large message, pyzmq opens a few descriptors in the coordinator for good.
        executor = self._executor.with_options(resources={"honest": 1})
        assert executor.submit(len, bytes(1_000_000)).result(BOUND) == 1_000_000
        assert len(executor.submit(bytes, 1_000_000).result(BOUND)) == 1_000_000
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set() and not self.wrong:
            began = time.monotonic()
            try:
                self._round()
            except Exception as exc:  # whatever it is, it must not happen
                self.wrong.append(f"{type(exc).__name__}: {exc}")
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _round(self) -> None:
        executor = self._executor.with_options(resources={"honest": 1}, priority=FIRST)
        futures = [executor.submit(square, self.calls + n) for n in range(20)]
        results = [future.result(BOUND) for future in futures]
        if results != [(self.calls + n) ** 2 for n in range(20)]:
            self.wrong.append(f"of submit: {results}")
        if (results := list(executor.map(square, range(200), timeout=BOUND))) != [n * n for n in range(200)]:
            self.wrong.append(f"of map: {results}")
        self.calls += 220

    def stop(self, *, at_once: bool = False) -> None:
        """After the present round, or `at_once`, where nobody is there any more to end it."""
        self._over.set()
        if not at_once:
            self._thread.join(2 * BOUND)
            if self._thread.is_alive():
                self.wrong.append("it hangs")
        if at_once or self.wrong:
            self._executor._lifetime.kill()
        else:
            self._executor.shutdown()
