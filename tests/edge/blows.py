"""Signals that come from outside of the program, at times that its plan says."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from edge.plan import PROGRAM, Blow, Plan
from edge.processes import marked, of_kind


class Striker(threading.Thread):
    """Waits until the program says that it has begun, then sends what its plan has.

    `begun` is the end of a pipe: through it the program's process id comes.
    """

    def __init__(self, plan: Plan, begun: int, mark: str) -> None:
        super().__init__(daemon=True)
        self._plan = plan
        self._begun = begun
        self._mark = mark
        self._rng = random.Random(f"blows {plan.seed}")
        self._over = threading.Event()
        self.struck = 0

    def run(self) -> None:
        word = os.read(self._begun, 20)
        for blow in self._plan.signals:
            if not word or self._over.wait(blow.wait):
                return
            self._strike(blow, int(word))

    def end(self) -> None:
        """The program has ended."""
        self._over.set()
        self.join()

    def _strike(self, blow: Blow, program: int) -> None:
        pid = program if blow.process == PROGRAM else self._find(blow.process)
        if pid is None:
            return
        try:
            if blow.name == "SIGINT" and self._plan.group:
                os.killpg(pid, signal.SIGINT)
            else:
                os.kill(pid, signal.Signals[blow.name])
            self.struck += 1
            if blow.name == "SIGSTOP":
                time.sleep(blow.pause)
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def _find(self, kind: str) -> int | None:
        found = [pid for pid in marked(self._mark) if of_kind(pid, kind)]
        return self._rng.choice(sorted(found)) if found else None
