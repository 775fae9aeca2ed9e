"""A whole cluster in one thread: real cores, a virtual clock, a simulated network and simulated slots.

Everything that happens is an action on one heap of times, and all chance comes from one random number generator. So a
seed determines all, and a failure can be repeated as often as needed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from jobrunner.protocol.coordinator.peers import CLIENT_PATIENCE
from jobrunner.protocol.effects import DrainRequested, SlotTask, Source
from jobrunner.protocol.known_functions import KnownFunctions
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.messages import Envelope
from jobrunner.testing.simulation import announcements, idleness, nested
from jobrunner.testing.simulation.announcements import AnnouncementWatch
from jobrunner.testing.simulation.attacker import Attacker, NameWatch
from jobrunner.testing.simulation.held_up import HeldUpWatch
from jobrunner.testing.simulation.idleness import ConservationWatch, IdleWatch
from jobrunner.testing.simulation.laws import Truth, Violation
from jobrunner.testing.simulation.nested import DeadlockWatch, Nest, NestedClient, NestWait
from jobrunner.testing.simulation.network import Network
from jobrunner.testing.simulation.nodes import (
    ClientNode,
    CoordinatorNode,
    PeerNode,
    SimulatedJournal,
    WorkerNode,
)
from jobrunner.testing.simulation.scenario import KILL_SLOT, Incident, Scenario, draw_scenario
from jobrunner.testing.simulation.simulated_program import start_program
from jobrunner.testing.simulation.simulated_slots import SlotProcess
from jobrunner.testing.simulation.watch import Watch

LOOK_INTERVAL = 0.25
"""Virtual time in seconds between two checks whether all is done."""

SETTLE_SECONDS = 150.0
"""Maximum virtual time in seconds for recovery from the last fault, beyond the time that the work takes."""

TRACE_LENGTH = 300
"""Number of lines of a failure's history."""


class World:
    """A simulated cluster. Without a scenario it draws one; with `trace_length` None it keeps the whole history."""

    truth_class = Truth
    slot_class = SlotProcess
    client_class = ClientNode

    def __init__(
        self, seed: int, scenario: Scenario | None = None, *, trace_length: int | None = TRACE_LENGTH
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.rng_of_stalls = random.Random(seed)
        self.rng_of_strangers = random.Random(seed)
        """A generator of its own, so that all else of a seed is the same without them."""
        self.rng_of_nests = random.Random(seed)
        """A generator of its own, so that all else of a seed is the same without calls of calls."""
        self.rng_of_holds = random.Random(seed)
        self.scenario = draw_scenario(self.rng) if scenario is None else scenario
        self.now = 1000.0
        self.truth = self.truth_class(self)
        self.network = Network(self, self.scenario.conditions)
        self.peers: dict[Source, PeerNode[Any]] = {}
        self.coordinator: CoordinatorNode | None = None
        self.journal = SimulatedJournal(self)
        self.attackers: list[Attacker] = []
        self.epoch = 0
        """Number of coordinators that came and went."""
        self.calm_now = self.scenario.profile == "calm"
        self.nothing_goes_wrong = False
        """True if nobody, including a test, does anything to this world beyond its calm scenario."""
        self.workers_are_safe = self.scenario.workers_are_safe
        self.workers: list[WorkerNode] = []
        """All workers that ever existed, in the order in which they started."""
        self.clients: list[ClientNode] = []
        self.nested: list[NestedClient] = []
        """The clients of processes whose calls have made calls."""
        self.nested_are_safe = True
        """True if none of them has ended with its slot's process before the others."""
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = 0
        self._serial = 0
        self._notes: deque[tuple[float, str, str, Any]] = deque(maxlen=trace_length)
        self.start_coordinator()
        self.seats = [self.start_worker(f"w{n}", slots) for n, slots in enumerate(self.scenario.workers)]
        for _ in range(self.scenario.clients):
            self.start_client(self.scenario.tasks)
        self.attackers += [Attacker(self, number) for number in range(self.scenario.attackers)]
        self._watches: list[Watch] = [NameWatch(self)] if self.attackers else []
        if idleness.is_lawful(self.scenario):
            self._watches.append(IdleWatch(self))
        if idleness.is_conserving(self.scenario):
            self._watches.append(ConservationWatch(self))
        if nested.is_lawful(self.scenario):
            self._watches.append(DeadlockWatch(self))
        if announcements.is_lawful(self.scenario):
            self._watches += [AnnouncementWatch(self), HeldUpWatch(self)]
        for incident in self.scenario.incidents:
            self.at(self.now + incident.at, lambda incident=incident: self._strike(incident))  # type: ignore[misc]

    # --- time ---

    def at(self, time: float, action: Callable[[], Any]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, action))

    def step(self) -> None:
        """Perform the next action."""
        time, _, action = heapq.heappop(self._heap)
        self.now = max(self.now, time)
        self.steps += 1
        action()
        for watch in self._watches:
            watch.look()

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.now = end

    def run_until(self, done: Callable[[], bool], within: float, what: Callable[[], str]) -> None:
        """Continue until `done`; raise a Violation, which says `what`, if that takes longer than `within` seconds."""
        deadline = self.now + within
        while not done():
            if self.now >= deadline:
                raise Violation(f"after {within:.0f} s without faults: {what()}")
            self.run_for(LOOK_INTERVAL)

    # --- the whole history ---

    def run(self) -> None:
        """Run with faults and work; then without faults until all is done; then all leave, and nothing may be left."""
        self.nothing_goes_wrong = self.calm_now
        self.run_for(self.scenario.faults_until)
        self.heal()
        self.finish_work()
        self.finish_clients()
        if self.nothing_goes_wrong:
            self._check_calm()

    def finish_work(self) -> None:
        """Continue until every task has its outcome, and every question its answer."""
        truth = self.truth
        work = sum(
            min(sum(e.call.seconds), 100.0) * (e.spec.body.options.retries + 2)
            for e in truth.expected.values()
        )
        self.run_until(self._work_is_done, SETTLE_SECONDS + work, self._describe_unfinished)

    def finish_clients(self) -> None:
        """Let the clients leave; memory must return to its baseline."""
        self._have_leave(self.clients)
        silence = CLIENT_PATIENCE * self.scenario.peer_timeout
        within = SETTLE_SECONDS + self.scenario.client_grace + silence
        self.run_until(self.truth.detached_are_done, within, self.truth.describe_detached)
        self._have_leave(self.nested)  # a detached call may have made calls until now
        self.run_until(self._is_empty, within, lambda: f"left behind: {list(self.truth.leftovers())}")

    def _have_leave(self, clients: Iterable[ClientNode]) -> None:
        for client in clients:
            if client.alive:
                self.run_until(
                    lambda client=client: not (client.alive and client.leftovers()),  # type: ignore[misc]
                    SETTLE_SECONDS,
                    lambda client=client: f"left behind: {client.leftovers()}",  # type: ignore[misc]
                )
                client.leave()

    def _is_empty(self) -> bool:
        """Return whether nothing is left after detached outcomes were fetched and forgotten."""
        self.truth.check_kept()
        return next(iter(self.truth.leftovers()), None) is None

    def _work_is_done(self) -> bool:
        if any(client.alive and client.waits_for_answers() for client in self.clients):
            return False
        return not self.truth.unresolved()

    def _describe_unfinished(self) -> str:
        lines = []
        for task in self.truth.unresolved()[:5]:
            where = [node.name for node in self.workers if node.alive and task in node.core.tasks]
            record = None if self.coordinator is None else self.coordinator.core.scheduler.tasks.get(task)
            state = "unknown to the coordinator"
            if record is not None:
                worker = "no worker" if record.worker is None else record.worker.id
                state = f"state {record.state}, attempt {record.attempt}, {worker}"
            runs = [execution.ending or "runs" for execution in self.truth.executions.get(task, ())]
            lines.append(f"{task}: {state}; at {where or 'no worker'}; executions: {runs}")
        return f"{len(self.truth.unresolved())} tasks are not done\n  " + "\n  ".join(lines)

    def make_calls(self, process: SlotProcess, task: SlotTask, nest: Nest) -> None:
        """Let a task that runs there make calls, and perhaps wait for them."""
        if process.client is None or not process.client.alive:
            process.client = NestedClient(process, task.id)
            self.nested.append(process.client)
        children = process.client.submit_children(nest.children, task.depth + 1)
        if nest.waits:
            process.wait = NestWait(process, task, nest, children)

    def check_refusal(self, task: TaskId) -> None:
        """Check that a refused call could not begin."""
        if self.scenario.profile == "calm":
            nested.check_refusal(self, task)

    def _check_calm(self) -> None:
        """Check that without faults nothing is repeated, given up or done twice."""
        network, truth = self.network, self.truth
        if self.nested_are_safe:
            truth.check(network.repeated == 0, f"{network.repeated} messages were sent again")
        # On a connection that has not greeted yet, an attacker's message is answered with a Reset.
        for kind in ("Refused",) if self.attackers else ("Reset", "Refused"):
            truth.check(kind not in network.kinds, f"{network.kinds.get(kind)} times {kind}")
        assert self.coordinator is not None
        stale = self.coordinator.core.scheduler.attempts.stale_outcomes
        truth.check(stale == 0 or not self.nested_are_safe, "there were stale outcomes")

    # --- who is there ---

    def start_coordinator(self) -> None:
        if self.coordinator is None:
            self.epoch += 1
            self.note("world", "starts", f"coordinator{self.epoch}")
            self.coordinator = CoordinatorNode(self, self.epoch)
            for attacker in self.attackers:
                attacker.pounce(at_once=True)
            self.network.coordinator_is_back()

    def start_worker(self, base: str, slots: int) -> WorkerNode:
        node = WorkerNode(self, f"{base}.{len(self.workers)}", base, slots)
        self.note("world", "starts", node.name)
        self.workers.append(node)
        return node

    def start_client(self, tasks: int = 0) -> ClientNode:
        client = self.client_class(self, f"c{len(self.clients)}")
        client.core.functions.known = KnownFunctions(self.scenario.remembered)
        self.clients.append(client)
        start_program(self, client, tasks)
        return client

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    @property
    def progress_is_safe(self) -> bool:
        """Whether a coordinator's knowledge of attempts cannot be lost by an unlucky crash."""
        return not (self.scenario.journal_delay or self.scenario.journal_failures)

    @property
    def detached_are_safe(self) -> bool:
        """Whether nothing that was accepted may be lost: there is a journal, or the coordinator never died."""
        return self.scenario.journal or self.epoch == 1

    def is_detached(self, worker: str, task: TaskId) -> bool:
        """Return whether the coordinator lost sight of a task at this worker, which may then run it in spite of all."""
        return any(
            node.name == worker and (not node.alive or node.lost_sight_of(task)) for node in self.workers
        )

    def revive(self) -> None:
        """Start what is missing; called some time after each crash and each orderly end."""
        if self.coordinator is not None and not self.coordinator.alive:
            self.coordinator = None
        self.start_coordinator()
        for number, node in enumerate(self.seats):
            if not node.alive:
                self.seats[number] = self.start_worker(node.base, node.core.settings.slots)

    # --- faults ---

    def heal(self) -> None:
        """Stop the faults."""
        self.note("world", "heals", "")
        self.calm_now = True
        self.network.heal()
        self.revive()
        for node in [self.coordinator, *self.seats, *self.clients]:
            if node is not None and node.frozen:
                node.thaw()
        for attacker in self.attackers:
            attacker.stop()

    def _strike(self, incident: Incident) -> None:
        self.note("world", incident.kind, f"{incident.duration:.2f} s")
        kind, _, role = incident.kind.partition(" ")
        until = self.now + incident.duration
        if incident.kind in ("partition", "one way"):
            self._partition(incident.kind == "one way", until)
        elif incident.kind == "loss":
            conditions, before = self.network.conditions, self.network.conditions.drop
            conditions.drop = 0.5
            self.at(until, lambda: setattr(conditions, "drop", 0.0 if self.calm_now else before))
        elif incident.kind == KILL_SLOT:
            processes = [process for node in self.seats for process in node.slots.processes.values()]
            if processes:
                self.rng.choice(processes).die(None, "SIGKILL")
        else:
            self._strike_node(kind, role, until)

    def _strike_node(self, kind: str, role: str, until: float) -> None:
        node = self._victim(role)
        if node is None or not node.alive:
            return
        self.note("world", kind, node.name)
        if kind == "freeze":
            node.freeze()
            self.at(until, node.thaw)
        elif kind == "leave":
            self.truth.abandoned.add(node.id)
            node.post(DrainRequested())
        elif kind in ("drain", "stop"):
            node.post(DrainRequested())
        else:
            node.crash()
            self.at(until, self.revive)

    def _victim(self, role: str) -> Any:
        if role == "coordinator":
            return self.coordinator
        return self.rng.choice(self.seats if role == "worker" else self.clients)

    def _partition(self, one_way: bool, until: float) -> None:
        """Cut some peers off."""
        nodes: list[PeerNode[Any]] = [*self.seats, *self.clients]
        sources = [node.source for node in nodes if node.alive]
        rng = self.rng
        chosen = [source for source in sources if rng.random() < 0.5] or sources[:1]
        up = not one_way or rng.random() < 0.5
        how = rng.choice(("drop", "hold"))
        for source in chosen:
            self.network.cut(source, up=up, down=not one_way or not up, how=how)
            self.at(until, lambda source=source: self.network.mend(source))  # type: ignore[misc]

    # --- the history ---

    def note(self, who: str, what: str, about: Any) -> None:
        self._notes.append((self.now, who, what, about))

    def trace(self) -> str:
        """Return the last actions, one per line."""
        return "\n".join(
            f"{time - 1000:10.5f}  {who:16} {what:8} {describe(about)}"
            for time, who, what, about in self._notes
        )


def describe(about: Any) -> str:
    if isinstance(about, Envelope):
        return f"{about.session[:4]} #{about.seq} ack {about.ack} {about.message!r:.240}"
    return f"{about!r:.240}"
