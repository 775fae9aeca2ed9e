"""The processes of a simulated cluster: one core each, driven as `transport.driver` drives it."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jobrunner.protocol.client.core import ClientCore
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.coordinator.task import ACTIVE, TaskRecord, TaskState
from jobrunner.protocol.effects import (
    Accepted,
    AnnounceRunning,
    AnswerCancel,
    AnswerQuery,
    BundleSplit,
    CancelRequested,
    ChunkDivided,
    Disconnect,
    DivideChunk,
    DrainRequested,
    Effect,
    EndSlot,
    Event,
    GiveUp,
    InterruptTask,
    JournalFailed,
    JournalWritten,
    QueryRequested,
    RecallTasks,
    Received,
    RequestResults,
    ResolveTasks,
    ResultReplyRequested,
    RetractTasks,
    RunTasks,
    Send,
    SignalSlot,
    Source,
    SpawnSlot,
    Stop,
    SubmitRequested,
    Unreachable,
    WatchRequested,
    WriteJournal,
)
from jobrunner.protocol.journal_records import JournalState, Owed
from jobrunner.protocol.turn import run_turn
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId, bound, client_of, task_id
from jobrunner.protocol.wire.principals import ANYONE, CLIENT, WORKER, Principal
from jobrunner.protocol.worker.core import WorkerCore
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.testing.simulation.laws import RIGHT, Violation, names_of
from jobrunner.testing.simulation.simulated_slots import SimulatedSlots

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World

C = TypeVar("C", bound="CoordinatorCore | WorkerCore | ClientCore")

TURN_DELAY = 0.00002
"""Time in seconds from an event's arrival to the turn that takes it, with all that has arrived by then."""

GRANULARITY = 0.0001
"""Maximum delay of a timer in seconds, as in a real loop."""

MAX_STALL = 0.2
"""Maximum duration of a stall in seconds."""

RESTART_DELAY = 0.5
"""Time in seconds until a process that has left in an orderly way is started again."""

WORKERS = Principal("key-of-workers", "workers", WORKER)
"""The principal as which all workers connect."""

IDLE_SPINS = 50
"""Maximum number of turns in a row that a core may request without an event in them."""


class Node(Generic[C]):
    """One incarnation of one role: a restart makes a new Node."""

    def __init__(self, world: World, name: str, core: C) -> None:
        self.world = world
        self.name = name
        self.core = core
        self.alive = True
        self.frozen = False
        self.finished = False
        """True if it has stopped by itself."""
        self.inbox: list[Event] = []
        self._turn_at: float | None = None
        self._spins = 0
        self._arrange(world.now)

    def post(self, event: Event) -> None:
        """Give the core an event; it is handled in the next turn."""
        if self.alive:
            self.inbox.append(event)
            self._arrange(self.world.now + TURN_DELAY)

    def crash(self) -> None:
        self.alive = False
        self.inbox.clear()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self._turn_at = None
        self._arrange(self.world.now)

    def _arrange(self, at: float) -> None:
        if not self.frozen and (self._turn_at is None or at < self._turn_at):
            self._turn_at = at
            self.world.at(at, lambda: self._due(at))

    def _due(self, at: float) -> None:
        if not self.alive or self.frozen or self._turn_at != at:
            return
        rng = self.world.rng_of_stalls
        if self.world.scenario.stalls and rng.random() < self.world.scenario.stalls:
            self._turn_at = -math.inf  # nothing brings it forward
            self.world.at(self.world.now + rng.uniform(0, MAX_STALL), self._go_on)
        else:
            self.turn()

    def _go_on(self) -> None:
        """Continue after a stall."""
        if self.alive and not self.frozen:
            self.turn()

    def turn(self) -> None:
        """Take a turn, as in the driver: all events that have arrived, a Tick, then the effects."""
        self._turn_at = None
        now = self.world.now
        events, self.inbox = self.inbox, []
        effects = run_turn(self.core, map(self._noted, events), now)
        self._perform_all(effects)
        if not self.alive:
            return
        self.core.check_invariants()
        deadline = self.core.next_deadline()
        self._spins = self._spins + 1 if not events and not effects else 0
        if self._spins > IDLE_SPINS:
            raise Violation(f"{self.name} spins: nothing to do at {now}, next deadline {deadline}")
        if deadline is not None:
            self._arrange(max(deadline, now) + GRANULARITY)

    def _noted(self, event: Event) -> Event:
        """Note an event that the core is about to handle."""
        self.world.note(self.name, "gets", event.envelope if type(event) is Received else event)
        return event

    def _perform_all(self, effects: list[Effect]) -> None:
        for effect in effects:
            if not self.alive:
                return
            if type(effect) is Send:
                if not self.send(effect):
                    failed = Unreachable(effect.destination)
                    self._perform_all(self.core.handle(failed, self.world.now))
            elif type(effect) is Stop:
                self.finished = True
                self.world.note(self.name, "stops", "")
                self.crash()
                self.world.at(self.world.now + RESTART_DELAY, self.world.revive)
            else:
                if type(effect) is GiveUp:
                    raise Violation(f"{self.name} gives up: {effect.error}")
                self.perform(effect)

    def send(self, effect: Send) -> bool:
        raise NotImplementedError

    def perform(self, effect: Any) -> None:
        """Perform an effect that is not a message."""


def note_told(world: World, told: set[m.FunctionKey], whom: str, functions: list[m.FunctionDef]) -> None:
    """Note the functions that `whom` is sent; `told` has those that it knows from before."""
    for definition in functions:
        world.truth.check(definition.key not in told, f"{whom} is sent {definition.key!r} again")
        told.add(definition.key)


def key_at(world: World, who: Principal) -> str:
    """Return the key under which a peer's messages arrive; without owners nobody has a proved identity."""
    return who.key if world.scenario.owners else ""


class PeerNode(Node[C]):
    """A worker or a client, which reaches the coordinator through its `source`."""

    own_id: str
    """The id under which it greets."""

    def __init__(self, world: World, name: str, core: C, who: Principal) -> None:
        self.source: Source = name.encode()
        self.who = who if world.scenario.owners else ANYONE
        super().__init__(world, name, core)
        world.peers[self.source] = self

    def send(self, effect: Send) -> bool:
        self.world.network.to_coordinator(self.source, effect.envelope)
        return True


class CoordinatorNode(Node[CoordinatorCore]):
    """The coordinator; its scheduler is watched for facts that only it knows."""

    def __init__(self, world: World, number: int) -> None:
        scenario = world.scenario
        settings = CoordinatorSettings(
            id=f"coordinator{number}",
            version="1",
            crash_limit=scenario.crash_limit,
            client_grace=scenario.client_grace,
            window_tasks=scenario.window_tasks,
            window_bytes=scenario.window_bytes,
            result_cache=scenario.result_cache,
        )
        journal = world.journal if scenario.journal else None
        core = CoordinatorCore(settings, world.now, None if journal is None else journal.load())
        self._watch(core)
        super().__init__(world, f"coordinator{number}", core)

    def send(self, effect: Send) -> bool:
        return self.world.network.to_peer(effect.destination, effect.envelope)

    def perform(self, effect: Any) -> None:
        if isinstance(effect, WriteJournal):
            self.world.journal.write(self, effect)
        elif isinstance(effect, Disconnect):
            if effect.source in self.world.peers:
                raise Violation(f"{effect.source!r} is disconnected")
            self.world.network.strangers[effect.source] = lambda source, envelope: None

    def crash(self) -> None:
        scheduler = self.core.scheduler
        for node in self.world.workers:
            peer = scheduler.roster.workers.get(node.core.settings.id)
            node.detach((*node.core.tasks, *(peer.tasks if peer is not None else ())))
        super().crash()

    def _watch(self, core: CoordinatorCore) -> None:
        self._watch_functions(core)
        scheduler = core.scheduler
        attempts = scheduler.attempts
        outcome, returned, goes_on = attempts.outcome, attempts.returned, attempts.goes_on
        reattach, worker_lost = attempts.reattach, attempts.worker_lost
        gone, finish = scheduler.client_tasks.gone, scheduler.endings.finish

        def watched_outcome(worker: WorkerSession, arrived: m.Outcome, now: float) -> None:
            record = scheduler.tasks.get(arrived.id)
            if record is None:
                outcome(worker, arrived, now)
                return
            present = record.worker is worker and record.attempt == arrived.attempt and record.state in ACTIVE
            before = (record.state, record.attempt, record.worker)
            outcome(worker, arrived, now)
            if not present and (record.state, record.attempt, record.worker) != before:
                raise Violation(
                    f"{arrived.id}: a stale outcome (attempt {arrived.attempt}) changed something"
                )

        def watched_reattach(worker: WorkerSession, held: list[m.Held], now: float) -> None:
            tasks = [*worker.tasks, *(entry.id for entry in held), *self._tasks_at(worker)]
            reattach(worker, held, now)
            for task in tasks:
                record = scheduler.tasks.get(task)
                if record is None or record.worker is not worker or record.state not in ACTIVE:
                    self._detach(worker, [task])

        def watched_departure(client: ClientSession, now: float) -> None:
            gone(client, now)
            self.world.truth.forgotten(client.id, set(scheduler.tasks))

        def watched_loss(worker: WorkerSession, reason: str, now: float) -> None:
            self._detach(worker, [*worker.tasks, *self._tasks_at(worker)])
            worker_lost(worker, reason, now)

        def watched_going_on(worker: WorkerSession, split: m.Outcome, now: float) -> None:
            fenced = len(worker.cancels)
            goes_on(worker, split, now)
            # The part that continues may have ended elsewhere, where an earlier coordinator had lost sight of it.
            self._detach(worker, [request.id for request in worker.cancels[fenced:]])

        def watched_finish(record: TaskRecord, ended: m.Outcome, state: TaskState, now: float) -> None:
            if ended.detail and "deadlock" in ended.detail:
                self.world.check_refusal(record.id)
            finish(record, ended, state, now)

        def watched_return(worker: WorkerSession, task: TaskId, *rest: Any, **options: Any) -> None:
            self.world.truth.returned(task)
            returned(worker, task, *rest, **options)

        vars(scheduler.client_tasks).update(gone=watched_departure)
        vars(scheduler.endings).update(finish=watched_finish)
        vars(attempts).update(
            outcome=watched_outcome,
            returned=watched_return,
            goes_on=watched_going_on,
            reattach=watched_reattach,
            worker_lost=watched_loss,
        )

    def _watch_functions(self, core: CoordinatorCore) -> None:
        """Check that no client sends a function or part twice in a session, unless it said that it may be dropped."""
        submit = core.admission.submit
        told: dict[str, set[m.FunctionKey]] = {}

        def watched_submit(client: ClientSession, message: m.Submit, now: float) -> None:
            known = told.setdefault(client.link.session, set())
            note_told(self.world, known, f"the coordinator by {client.id}", message.functions)
            submit(client, message, now)
            known.difference_update(message.drop_functions)

        core.admission.submit = watched_submit  # type: ignore[method-assign]

    def _tasks_at(self, worker: WorkerSession) -> list[TaskId]:
        return [
            task
            for node in self.world.workers
            if node.core.settings.id == worker.id
            for task in node.core.tasks
        ]

    def _detach(self, worker: WorkerSession, tasks: list[TaskId]) -> None:
        for node in self.world.workers:
            if node.core.settings.id == worker.id:
                node.detach(tasks)


class WorkerNode(PeerNode[WorkerCore]):
    """A worker's daemon and its slots; the slots continue while the daemon is frozen, and die with it."""

    def __init__(self, world: World, name: str, base: str, slots: int) -> None:
        scenario = world.scenario
        settings = WorkerSettings(
            id=WorkerId(bound(f"id-{name}", key_at(world, WORKERS))),
            name=base,
            version="1",
            python="3",
            host=base,
            pid=1,
            slots=slots,
            resources=dict(scenario.resources),
            stop_grace=scenario.stop_grace,
            drain_timeout=scenario.drain_timeout,
            peer_timeout=scenario.peer_timeout,
            max_tasks_per_slot=scenario.max_tasks_per_slot,
            missing=lambda names: [name for name in names if name in self.missing_modules],
        )
        self.missing_modules = scenario.missing_modules.get(base, ())
        self.base = base
        self.slots = SimulatedSlots(self)
        self.stand_ins = False
        """True if a slot was ever blocked."""
        self.detached: set[TaskId] = set()
        """Tasks of this worker that the coordinator has lost sight of; they may run on, and elsewhere too."""
        core = WorkerCore(settings, random.Random(world.rng.getrandbits(64)), world.now)
        self._watch_functions(core)
        self.own_id = settings.id
        super().__init__(world, name, core, WORKERS)

    def _watch_functions(self, core: WorkerCore) -> None:
        """Check that the coordinator sends no function or part twice in a session, unless it said that it drops it."""
        take = core._message
        told: set[m.FunctionKey] = set()

        def watched_message(message: m.Message, now: float) -> None:
            if isinstance(message, m.Welcome):
                told.clear()
            elif isinstance(message, m.Assign):
                note_told(self.world, told, self.name, message.functions)
            elif isinstance(message, m.DropFunctions):
                told.difference_update(message.functions)
            take(message, now)

        core._message = watched_message  # type: ignore[method-assign]

    def perform(self, effect: Any) -> None:
        slots = (SpawnSlot, RunTasks, RecallTasks, DivideChunk, InterruptTask, EndSlot, SignalSlot)
        if isinstance(effect, (*slots, RetractTasks)):
            self.slots.perform(effect)

    def crash(self) -> None:
        super().crash()
        self.slots.stop()

    def detach(self, tasks: Any) -> None:
        self.detached.update(tasks)

    def lost_sight_of(self, task: TaskId) -> bool:
        """Return whether the coordinator has lost sight of this task, or of the bundle from which it comes."""
        return any(name in self.detached for name in names_of(task))


class SimulatedJournal:
    """A journal that outlives the coordinators.

    A write takes its time, or fails; one that a dead coordinator had ordered is lost.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.state = JournalState()
        self._owed = Owed()
        self._written_at = 0.0

    def load(self) -> JournalState:
        self._owed = Owed()
        return self.state.copy()

    def at_last(self) -> JournalState:
        """Return its content at the time when the next entry is written."""
        state = self.state.copy()
        state.apply(self._owed.part(1_000_000, 1_000_000))
        return state

    def write(self, node: CoordinatorNode, effect: WriteJournal) -> None:
        scenario, rng, now = self.world.scenario, self.world.rng, self.world.now
        if not scenario.journal_delay:
            self._answer(node, effect)
            return
        self._written_at = max(self._written_at, now + rng.random() * scenario.journal_delay)
        self.world.at(self._written_at, lambda: self._answer(node, effect) if node.alive else None)

    def _answer(self, node: CoordinatorNode, effect: WriteJournal) -> None:
        world, entry = self.world, effect.entry
        fails = world.rng.random() < world.scenario.journal_failures and not world.calm_now
        world.note("journal", "fails" if fails else "keeps", entry)
        if fails:  # as in the real one, the rest is written before the next entry
            self._owed.add(entry, self.state)
        else:
            while self._owed:
                part = self._owed.part(1000, 1_000_000)
                self.state.apply(part)
                self._owed.written(part)
            self.state.apply(entry)
        node.post(JournalFailed(effect.number, "no space left") if fails else JournalWritten(effect.number))


class ClientNode(PeerNode[ClientCore]):
    """A client and the program that uses it."""

    def __init__(
        self, world: World, name: str, who: Principal | None = None, within: TaskId | None = None
    ) -> None:
        if who is None:
            owner = len(world.clients) % max(1, world.scenario.owners)
            who = Principal(f"key-{owner}", f"owner {owner}", CLIENT)
        self.id = ClientId(bound(name, key_at(world, who)))
        self.own_id = self.id
        hello = m.ClientHello(self.id, "1", "3", "host", 1, world.scenario.peer_timeout, within=within)
        core = ClientCore(hello, random.Random(world.rng.getrandbits(64)), world.now)
        self.epoch = 0
        """Number of times that the program has reloaded its modules."""
        self._number = 0
        self._queries: set[int] = set()
        self._query_number = 0
        self.answers = 0
        self.told_running: set[TaskId] = set()
        """Tasks of which it has heard that they run."""
        self.watching: dict[TaskId, int] = {}
        """By task of others, the number of unanswered questions."""
        super().__init__(world, name, core, who)

    # --- what a program does ---

    def new_id(self) -> TaskId:
        self._number += 1
        return task_id(self.id, self._number, RIGHT)

    def submit(self, specs: list[m.TaskSpec], functions: list[m.FunctionDef]) -> None:
        self.world.truth.definitions.update((definition.key, definition) for definition in functions)
        for spec in specs:
            self.world.truth.submitted(spec)
        self.post(SubmitRequested(specs, functions))

    def cancel(self, tasks: list[TaskId], running: bool) -> None:
        truth = self.world.truth
        tasks = [piece for task in tasks for piece in truth.pieces_of(task)]
        wanted = [t for t in tasks if t in self.core.pending or t not in truth.bundles]
        wanted = [t for t in wanted if t in truth.bundles or truth.expected[t].outcome is None]
        for task in wanted:
            for call in truth.calls_of(task) if task in truth.bundles else [task]:
                if truth.expected[call].outcome is None:
                    truth.cancel_asked(call, running)
        if wanted:
            self.post(CancelRequested(wanted, running))

    def watch(self, task: TaskId) -> None:
        if client_of(task) != self.id and task not in self.watching:
            self.watching[task] = 1
            self.post(WatchRequested([task]))

    def ask(self, kind: str, argument: str = "") -> None:
        self._query_number += 1
        self._queries.add(self._query_number)
        self.post(QueryRequested(self._query_number, kind, argument))

    def leave(self) -> None:
        self.post(DrainRequested())

    def crash(self) -> None:
        self.world.truth.abandoned.add(self.id)
        super().crash()

    # --- what it is told ---

    def perform(self, effect: Any) -> None:
        truth = self.world.truth
        if isinstance(effect, ResolveTasks):
            for outcome in effect.outcomes:
                self.world.note(self.name, "resolves", outcome)
                if outcome.id in self.watching:
                    del self.watching[outcome.id]
                    truth.watched(outcome)
                else:
                    truth.resolved(outcome)
        elif isinstance(effect, AnnounceRunning):
            self.told_running.update(effect.ids)
        elif isinstance(effect, BundleSplit):
            self.world.note(self.name, "splits", effect)
            truth.split(effect.id, effect.results, effect.start)
        elif isinstance(effect, ChunkDivided):
            self.world.note(self.name, "divides", effect)
            self._submit_rest(effect)
        elif isinstance(effect, Accepted):
            truth.accepted.update(effect.ids)
        elif isinstance(effect, RequestResults):
            self._reply_with_results(effect.ids)
        elif isinstance(effect, AnswerCancel):
            for task in effect.refused:
                if task in truth.bundles or task in truth.pieces:
                    continue  # its fate was answered for
                if truth.expected[task].outcome is None:
                    truth.cancel_refused(task)
        elif isinstance(effect, AnswerQuery):
            truth.check(effect.number in self._queries, f"{self.name}: query {effect.number} answered twice")
            self._queries.remove(effect.number)
            self.answers += 1

    def _submit_rest(self, effect: ChunkDivided) -> None:
        """Submit the elements that a chunk gave back as chunks of one element or more, as `map` does."""
        truth = self.world.truth
        parts = truth.parted(effect, self.new_id)
        for spec in parts:
            truth.submitted(spec)
        keys = {
            key for spec in parts for key in (spec.body.function, spec.body.initializer) if key is not None
        }
        functions = [truth.definitions[key] for key in sorted(keys)]
        needed = {key: truth.definitions[key] for definition in functions for key in definition.parts}
        if parts:
            self.post(SubmitRequested(parts, [*needed.values(), *functions]))

    def _reply_with_results(self, ids: list[TaskId]) -> None:
        told: list[m.Outcome] = []
        unknown: list[TaskId] = []
        for task in ids:
            expected = self.world.truth.expected.get(task)
            if expected is not None and expected.outcome is not None and client_of(task) == self.id:
                told.append(expected.outcome)
            else:
                unknown.append(task)
        self.post(ResultReplyRequested(told, unknown))

    def waits_for_answers(self) -> bool:
        return bool(self._queries or self.watching)

    def leftovers(self) -> list[str]:
        core = self.core
        left = [f"{self.name}: keeps {what!r:.200}" for what in core.leftovers()]
        if core.session.link.unacked() or core.session.link.unacked_bytes:
            left.append(f"{self.name}: unacknowledged {core.session.link.unacked()!r:.200}")
        return left
