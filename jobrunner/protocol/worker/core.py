"""The worker's state machine: the effects of each event and of each turn.

`handle` takes one event and returns effects. An event changes tasks and slots at once; at the turn's `Tick` slots are
fed, and the coordinator is informed. `_tick` has the order of a turn.

The parts are `local_tasks` (the tasks and the local queue), `slot_table` (the slots and their processes), `feeding`
(tasks go into slots), `recalling` (tasks come back), `replacing` (slots make way), `slot_events` (reports of slots),
`splitting` (bundles and chunks that end while they run), `stops` and `stopping` (cancels and time limits),
`function_store` (functions that are kept for slots), `outcomes` (the contents of outcomes), `unacknowledged` (outcomes
and output that the coordinator has not confirmed), `announcements` and `announced_capacity` (further reports to the
coordinator), and `leaving`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    ConnectionLost,
    DrainRequested,
    Effect,
    Event,
    HandshakeFailed,
    Log,
    Received,
    SlotAwaits,
    SlotBlocked,
    SlotDivided,
    SlotExited,
    SlotFinished,
    SlotNotStarted,
    SlotPrinted,
    SlotReady,
    SlotRetracted,
    SlotReturned,
    SlotSplit,
    SlotSpoiled,
    Tick,
    Unreachable,
)
from jobrunner.protocol.session import Session
from jobrunner.protocol.tuning import RETURN_AFTER
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.announced_capacity import AnnouncedCapacity
from jobrunner.protocol.worker.announcements import Announcements
from jobrunner.protocol.worker.dismissal import filling
from jobrunner.protocol.worker.feeding import Feeding
from jobrunner.protocol.worker.function_store import FunctionStore
from jobrunner.protocol.worker.leaving import Leaving
from jobrunner.protocol.worker.local_tasks import LocalTasks
from jobrunner.protocol.worker.recalling import Recalling
from jobrunner.protocol.worker.replacing import Replacing
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slot_events import SlotEvents
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.slots import WorkerTask
from jobrunner.protocol.worker.splitting import Splitting
from jobrunner.protocol.worker.stopping import Stopping
from jobrunner.protocol.worker.stops import Stops
from jobrunner.protocol.worker.unacknowledged import Unacknowledged

COMPLAIN_EVERY = 60.0
"""Minimum time in seconds between two log lines about the same problem."""


class WorkerCore:
    """A worker's core, which creates the parts and has the session with the coordinator.

    All parts add their effects to one list, so that these are performed in the order in which they were caused.
    """

    def __init__(self, settings: WorkerSettings, rng: random.Random, now: float) -> None:
        self.settings = settings
        self._effects: list[Effect] = []
        """The effects of the event that is being handled; the parts add theirs."""
        effects = self._effects
        session = self.session = Session(self._hello, rng, now, settings.peer_timeout)
        self._unacknowledged = Unacknowledged(session, effects, settings.unacknowledged_bytes)
        self._stops = Stops()
        self._local_tasks = LocalTasks(self._stops, self._unacknowledged, session, effects, now)
        self.tasks, self.queue = self._local_tasks.tasks, self._local_tasks.queue
        self._announcements = Announcements(self.tasks, session, effects)
        self._capacity = AnnouncedCapacity(settings.slots, session, effects)
        self._slot_table = SlotTable(settings, self._give_up, self._capacity.note_stuck, effects)
        self.slots = self._slot_table.slots
        self.functions = FunctionStore(self.slots, settings.missing)
        self._feeding = Feeding(
            self._slot_table,
            self.queue,
            self.functions,
            self._stops,
            self._unacknowledged,
            session,
            effects,
        )
        self._replacing = Replacing(
            self._slot_table,
            self.queue,
            self._feeding.may_feed,
            self.functions.estimate,
            settings.max_tasks_per_slot,
        )
        self._recalling = Recalling(self._slot_table, self._local_tasks, self._announcements, effects)
        self._stopping = Stopping(
            self._local_tasks, self._stops, self._recalling.recall, session, effects, settings.stop_grace
        )
        self._splitting = Splitting(
            self.slots,
            self._local_tasks,
            self._stops,
            self._stopping,
            self._announcements,
            session,
            settings,
            effects,
        )
        self._slot_events = SlotEvents(
            self._slot_table,
            self._local_tasks,
            self.functions,
            self._recalling,
            self._announcements,
            self._unacknowledged,
            session,
            settings,
        )
        self._leaving = Leaving(
            self._slot_table,
            self._local_tasks,
            self._recalling,
            self._unacknowledged,
            session,
            effects,
            settings.drain_timeout,
        )
        self._complaint, self._complain_again = "", now
        """The problem of a handshake that was last logged, and the time from which it is logged again."""

    # --- the interface of a core ---

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._effects.clear()
        if now != self.session.ran_at:
            self.session.runs(now)
        handler = self.HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event, now)
        return self._effects.copy()

    def next_deadline(self) -> float | None:
        if self._leaving.stopped:
            return None
        times = [
            self.session.next_deadline(),
            self._leaving.drain_until,
            self._replacing.look_at,
            self._slot_table.next_start(),
        ]
        if self.queue:
            times.append(self.queue.moved_at + RETURN_AFTER)
        times += self._stops.times()
        times += self._recalling.times()
        return earliest(times)

    def capacity(self) -> int:
        """Return the number of tasks that can run at the same time."""
        return self._slot_table.capacity()

    @property
    def draining(self) -> bool:
        """Whether the worker accepts no new tasks and is about to leave."""
        return self._leaving.draining

    def check_invariants(self) -> None:
        seen: set[TaskId] = set()
        for slot in self.slots.values():
            for task in slot.queue.values():
                assert task.slot is slot
                assert slot.calls_left >= 0
                assert task.owner == slot.owner, f"{task.id} of {task.owner} is in a slot of {slot.owner}"
                assert task.id not in seen, f"{task.id} is in two places"
                seen.add(task.id)
        for task in self.queue:
            assert task.slot is None
            assert task.id not in seen, f"{task.id} is in two places"
            seen.add(task.id)
        assert seen == self.tasks.keys()
        self.functions.check_invariants()

    # --- sessions ---

    def _hello(self, serial: int) -> m.WorkerHello:
        s = self.settings
        held = [
            m.Held(a.id, a.attempt, task.slot is not None, a.unbegun)
            for task in self.tasks.values()
            for a in (task.assignment,)
        ]
        held += self._unacknowledged.held()
        capacity = max(1, self.capacity())
        self._capacity.greets(capacity)
        return m.WorkerHello(
            s.id,
            s.version,
            s.python,
            s.name,
            s.host,
            s.pid,
            s.peer_timeout,
            capacity,
            s.resources,
            held,
            serial,
        )

    def _receive(self, event: Received, now: float) -> None:
        link, was_open = self.session.link, self.session.open
        messages, _ = self.session.receive(event.envelope, now)
        for message in messages:
            self._message(message, now)
        if self.session.refusal:
            self._give_up(self.session.refusal, self.session.refusal_kind)
        if was_open and not self.session.open:
            self._session_lost(link.unacked())

    def _handshake_failed(self, event: HandshakeFailed, now: float) -> None:
        self.session.handshake_failed(event)
        if self.session.refusal:
            self._give_up(self.session.refusal, self.session.refusal_kind)
        elif event.reason != self._complaint or now >= self._complain_again:
            # ZeroMQ tries again many times a second, so the same reason is logged only once a minute.
            self._complaint, self._complain_again = event.reason, now + COMPLAIN_EVERY
            self._log("warning", event.reason)

    def _session_lost(self, unacked: list[m.Message]) -> None:
        """Keep all messages that the coordinator may not have received, because they are the only copies."""
        self._unacknowledged.session_lost(unacked)
        self._announcements.session_lost(self.tasks.values())
        if not self.session.refusal:
            self._effects.append(ConnectionLost(self.session.loss))

    def _message(self, message: m.Message, now: float) -> None:
        handler = self.MESSAGES.get(type(message))
        if handler is not None:
            handler(self, message, now)

    def _welcomed(self, message: m.Welcome, now: float) -> None:
        self._unacknowledged.session_opened()
        self.functions.session_opened()
        self._slot_table.take_seed(message.hash_seed)
        self._log("info", f"joined coordinator {message.coordinator}")
        if self.draining:
            self._effects.append(self.session.send(m.Drain(), now))

    def _assigned(self, message: m.Assign, now: float) -> None:
        for definition in message.functions:
            if not self.functions.knows_parts_of(definition):
                wrong = "has parts that were never sent, or that have parts themselves"
                self._log("warning", f"the function {definition.name} {wrong}")
                self.session.abandon("it sent a function without its parts", now)
                return
            self.functions.learn(definition)
        unable: list[tuple[TaskId, int]] = []
        missing_modules: dict[str, None] = {}
        for assignment in message.tasks:
            present = self.tasks.get(assignment.id)
            if present is not None:
                self._local_tasks.join(present, assignment)
                continue
            if not self.functions.knows_functions_of(assignment):
                self._log("warning", f"task {assignment.id} names a function that was never sent")
                self.session.abandon("it named a function that it had not sent", now)
                return
            missing = self.functions.missing_for(assignment) if self.functions.missing_modules else []
            if missing:
                unable.append((assignment.id, assignment.attempt))
                missing_modules.update(dict.fromkeys(missing))
                continue
            task = WorkerTask(assignment, self.functions.owner_of(assignment, message.owner))
            most = self.settings.max_tasks_per_slot
            if most is not None and task.elements > most:
                self._unacknowledged.add(outcomes.too_many_calls(task, most, self.settings))
                continue
            self._local_tasks.add(task, now)
        if unable:
            self._effects.append(self.session.send(m.TasksReturned(unable, list(missing_modules)), now))
        if self.draining:
            self._local_tasks.give_back(now)

    # --- the end of a turn ---

    def _tick(self, _: Tick, now: float) -> None:
        if self._leaving.stopped:
            return
        self._stopping.check(now)
        self._slot_table.adjust(now)
        self._feeding.feed(now)
        self._replacing.make_way(now)
        self._recalling.watch(now)
        if self.functions.lingering:
            self._effects += self.functions.drop(self.tasks.values())
        if self.queue and now >= self.queue.moved_at + RETURN_AFTER:
            soon = filling(self._slot_table.starting(), self.queue, self.functions.estimate)
            self._local_tasks.give_back(now, keep=soon)
        self._send_all(now)
        self._leaving.leave_if_done(now)

    def _send_all(self, now: float) -> None:
        session = self.session
        link, was_open = session.link, session.open
        self._effects += session.due(now)
        if was_open and not session.open:
            self._session_lost(link.unacked())
        if not session.open:
            return
        self._unacknowledged.send(now)
        self._announcements.send(now)
        if not self.draining:
            self._capacity.send(
                self.capacity(), self._slot_table.is_stuck(), self._slot_table.why_short(), now
            )

    def _give_up(self, error: str, kind: str) -> None:
        self._leaving.give_up(error, kind)

    def _log(self, level: str, text: str) -> None:
        self._effects.append(Log(level, text))

    HANDLERS: ClassVar[Mapping[type[Event], Callable[[WorkerCore, Any, float], None]]] = {
        SlotFinished: lambda core, event, now: core._slot_events.finished(event, now),
        Received: _receive,
        Tick: _tick,
        SlotReady: lambda core, event, _: core._slot_table.ready(event),
        SlotReturned: lambda core, event, now: core._recalling.returned(event, now),
        SlotRetracted: lambda core, event, now: core._recalling.retracted(event, now),
        SlotSplit: lambda core, event, now: core._splitting.bundle_split(event, now),
        SlotDivided: lambda core, event, now: core._splitting.chunk_divided(event, now),
        SlotPrinted: lambda core, event, now: core._slot_events.printed(event, now),
        SlotBlocked: lambda core, event, now: core._slot_events.blocked(event, now),
        SlotAwaits: lambda core, event, now: core._slot_events.awaits(event, now),
        SlotSpoiled: lambda core, event, now: core._slot_events.spoiled(event, now),
        SlotExited: lambda core, event, now: core._slot_events.exited(event, now),
        SlotNotStarted: lambda core, event, now: core._slot_table.not_started(event, now),
        Unreachable: lambda core, _, now: core.session.unreachable(now),
        HandshakeFailed: _handshake_failed,
        DrainRequested: lambda core, _, now: core._leaving.drain(now),
    }
    """The handler of each event; other events are not for a worker."""

    MESSAGES: ClassVar[Mapping[type[m.Message], Callable[[WorkerCore, Any, float], None]]] = {
        m.Assign: _assigned,
        m.Cancel: lambda core, message, now: core._stopping.cancel(message.requests, now),
        m.Divide: lambda core, message, now: core._splitting.divide(message.ids, now),
        m.DropFunctions: lambda core, message, _: core.functions.may_drop(message.functions),
        m.Welcome: _welcomed,
        m.Drain: lambda core, _, now: core._leaving.drain(now),
    }
    """The handler of each message; other messages have no effect."""
