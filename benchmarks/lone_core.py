"""The coordinator's core with its peers in this process: messages pass as objects, and only its own time counts."""

from __future__ import annotations

import time

from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import Event, Received, Send
from jobrunner.protocol.link import Link
from jobrunner.protocol.turn import run_turn
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId


class End:
    """A peer of the core: it numbers what it says, and takes note of what it hears."""

    def __init__(self, source: bytes, hello: m.ClientHello | m.WorkerHello) -> None:
        self.source = source
        self.hello = hello
        self.link = Link("", 0.0, 0.0)
        self.assigned: list[m.Assignment] = []
        self.ended = 0

    def says(self, message: m.Message) -> Event:
        return Received(self.source, self.link.send(message, 0.0))

    def hears(self, envelope: m.Envelope) -> None:
        message = envelope.message
        if type(message) is m.Welcome:
            self.link.session = message.session
            return
        for arrived in self.link.receive(envelope, 0.0)[0]:
            if type(arrived) is m.Assign:
                self.assigned += arrived.tasks
            elif type(arrived) is m.Outcomes:
                self.ended += len(arrived.outcomes)


class LoneCore:
    """One client, and workers of one slot. `spent` is in seconds of CPU."""

    def __init__(self, workers: int) -> None:
        self.core = CoordinatorCore(CoordinatorSettings("coordinator", "1.0", window_tasks=10**9), 0.0)
        self.now = 100.0
        self.core.scheduler.orphans.reattach_deadline = 0.0
        self.spent = 0.0
        self.client = End(b"client", m.ClientHello(ClientId("c"), "1.0", "3.11", "host", 1, 0.0))
        self.workers = [
            End(
                f"w{n}".encode(),
                m.WorkerHello(WorkerId(f"w{n}"), "1.0", "3.11", f"w{n}", "host", n, 0.0, 1, {}),
            )
            for n in range(workers)
        ]
        self._ends = {end.source: end for end in (self.client, *self.workers)}
        for number, end in enumerate(self._ends.values()):
            end.link = Link(f"session {number}", 0.0, 0.0)
            self.turn([Received(end.source, end.link.outside(end.hello, 0.0))])

    def turn(self, events: list[Event]) -> None:
        began = time.process_time()
        effects = run_turn(self.core, events, self.now)
        self.spent += time.process_time() - began
        self.now += 0.001
        for effect in effects:
            if type(effect) is Send:
                self._ends[effect.destination].hears(effect.envelope)

    def run(self, tasks: int) -> float:
        """CPU seconds of the core per task, from Submit until the client has the outcome."""
        key = b"key"
        specs = [m.TaskSpec(TaskId(f"c-{n}"), m.CallBody(key, b"payload")) for n in range(tasks)]
        self.spent = 0.0
        functions = [m.FunctionDef(key, "function", b"blob")]
        for first in range(0, tasks, 1000):
            self.turn([self.client.says(m.Submit(specs[first : first + 1000], functions))])
        while self.client.ended < tasks:
            busy = [worker for worker in self.workers if worker.assigned]
            if not busy:
                raise RuntimeError(f"{tasks - self.client.ended} tasks are with no worker")
            # Workers report in groups of 100 a turn, as they would on a busy coordinator.
            for first in range(0, len(busy), 100):
                events = []
                for worker in busy[first : first + 100]:
                    taken, worker.assigned = worker.assigned, []
                    outcomes = [m.Outcome(task.id, task.attempt, m.OK, b"result", 1.0) for task in taken]
                    events.append(worker.says(m.Outcomes(outcomes)))
                self.turn(events)
        return self.spent / tasks
