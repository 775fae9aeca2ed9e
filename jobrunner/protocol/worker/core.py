"""The worker's state machine: a local queue, slots that are fed from it, and outcomes kept until acknowledged.

It decides which slot gets what, when a task's time is up, how a task is stopped (SIGINT, then SIGTERM, then SIGKILL, on
its slot alone), and what a slot's death means for the tasks in it. An outcome is safe when the link says that its
message was acknowledged; when a session is lost, the unacknowledged outcomes open the next one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    INITIALIZER_FAILED,
    ConnectionLost,
    DrainRequested,
    Effect,
    Event,
    GiveUp,
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
    Stop,
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
from jobrunner.protocol.worker.feeding import Feeding
from jobrunner.protocol.worker.function_store import FunctionStore
from jobrunner.protocol.worker.recalling import Recalling
from jobrunner.protocol.worker.replacing import Replacing
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.slots import (
    WorkerTask,
    filling,
)
from jobrunner.protocol.worker.splitting import Splitting
from jobrunner.protocol.worker.stopping import Stopping
from jobrunner.protocol.worker.stops import Stops
from jobrunner.protocol.worker.task_table import TaskTable
from jobrunner.protocol.worker.unacknowledged import Unacknowledged

COMPLAIN_EVERY = 60.0
"""Seconds between two lines about the same trouble."""


class WorkerCore:
    """See the module."""

    def __init__(self, settings: WorkerSettings, rng: random.Random, now: float) -> None:
        self.settings = settings
        effects = self._effects = cast("list[Effect]", [])
        """Those of the event that is being handled; the parts add theirs."""
        session = self.session = Session(self._hello, rng, now, settings.peer_timeout)
        self._unacknowledged = Unacknowledged(session, effects, settings.unacknowledged_bytes)
        self._stops = Stops()
        self._table = TaskTable(self._stops, self._unacknowledged, session, effects, now)
        self.tasks, self.queue = self._table.tasks, self._table.queue
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
        self._recalling = Recalling(self._slot_table, self._table, self._announcements, effects)
        self._stopping = Stopping(
            self._table, self._stops, self._recalling.recall, session, effects, settings.stop_grace
        )
        self._splitting = Splitting(
            self.slots,
            self._table,
            self._stops,
            self._stopping,
            self._announcements,
            session,
            settings,
            effects,
        )
        self.draining = False
        self._drain_until: float | None = None
        self._complaint, self._complain_again = "", now
        """Of a handshake, as last logged."""
        self._stopped = False

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
        if self._stopped:
            return None
        times = [
            self.session.next_deadline(),
            self._drain_until,
            self._replacing.look_at,
            self._slot_table.next_start(),
        ]
        if self.queue:
            times.append(self.queue.moved_at + RETURN_AFTER)
        times += self._stops.times()
        times += self._recalling.times()
        return earliest(times)

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

    def _receive(self, envelope: m.Envelope, now: float) -> None:
        link, was_open = self.session.link, self.session.open
        messages, _ = self.session.receive(envelope, now)
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
            # ZeroMQ tries again many times a second.
            self._complaint, self._complain_again = event.reason, now + COMPLAIN_EVERY
            self._log("warning", event.reason)

    def _session_lost(self, unacked: list[m.Message]) -> None:
        """Keep what the coordinator may not have: it is the only copy."""
        self._unacknowledged.session_lost(unacked)
        self._announcements.session_lost(self.tasks.values())
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
                self._table.join(present, assignment)
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
            self._table.add(task, now)
        if unable:
            self._effects.append(self.session.send(m.TasksReturned(unable, list(missing_modules)), now))
        if self.draining:
            self._table.give_back(now)

    # --- slots ---

    def capacity(self) -> int:
        """Tasks that can run at the same time."""
        return self._slot_table.capacity()

    def _slot_blocked(self, event: SlotBlocked, now: float) -> None:
        slot = self._slot_table.blocked(event, now)
        if slot is not None and slot.holds_back:
            self._recalling.recall(slot, now)

    def _slot_awaits(self, event: SlotAwaits) -> None:
        slot = self.slots.get(event.slot)
        task = None if slot is None else slot.queue.get(event.number)
        if task is not None:
            self._announcements.awaits(task, event)

    def _slot_spoiled(self, event: SlotSpoiled) -> None:
        slot = self.slots.get(event.slot)
        if slot is not None:
            slot.leave()

    def _finished(self, event: SlotFinished, now: float) -> None:
        slot = self.slots.get(event.slot)
        if slot is None:
            return
        slot.progresses(now)
        self.queue.moved(now)
        for number, status, payload, duration in event.outcomes:
            task = slot.take(number)
            if task is None:
                continue
            self.functions.took(task, duration)
            if task.was_split or (task.stop_reason is not None and status in outcomes.FAILURES):
                outcome = outcomes.stopped(task, duration, None, self.settings)
            else:
                if status == INITIALIZER_FAILED:
                    slot.leave()  # nobody knows what it has left behind there
                excess = outcomes.too_large(task, payload, self.session.welcome, self.settings)
                outcome = excess or outcomes.ended(task, status, payload, duration, self.settings)
            self._table.end(task, outcome)
            slot.last = outcome.id, self.functions.name_of(task)

    def _slot_exited(self, event: SlotExited, now: float) -> None:
        slot = self._slot_table.exited(event, now)
        if slot is None:
            return
        guilty = slot.queue.get(event.number) or slot.running()
        others = [task for task in slot.queue.values() if task is not guilty]
        for task in reversed(others):
            slot.take(task.number)
            self._table.requeue(task)
        if guilty is not None:
            slot.take(guilty.number)
            duration = now - slot.progress
            if guilty.stop_reason is not None:
                self._table.end(guilty, outcomes.stopped(guilty, duration, event, self.settings))
            else:
                self._table.end(guilty, outcomes.crashed(guilty, duration, event, self.settings))
        self.queue.moved(now)

    def _printed(self, event: SlotPrinted) -> None:
        slot = self.slots.get(event.slot)
        if slot is None or not self._unacknowledged.takes_output():
            return
        for number, stream, text in event.printed:
            task = slot.queue.get(number) or slot.running()
            source = slot.last if task is None else (task.id, self.functions.name_of(task))
            if source is not None:
                self._unacknowledged.add_output(source, stream, text)

    # --- the end of a turn ---

    def _tick(self, now: float) -> None:
        if self._stopped:
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
            self._table.give_back(now, keep=soon)
        self._send_all(now)
        if self.draining:
            self._maybe_leave(now)

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

    # --- leaving ---

    def _drain(self, now: float) -> None:
        if self.draining:
            return
        self.draining = True
        self._slot_table.close()
        self._drain_until = now + self.settings.drain_timeout
        running = sum(len(slot.queue) for slot in self.slots.values())
        self._log("info", f"draining: {running} tasks are running; interrupt again to leave at once")
        if self.session.open:
            self._effects.append(self.session.send(m.Drain(), now))
            if self.queue:
                self._table.give_back(now)
        for slot in self.slots.values():
            if len(slot.queue) > 1:
                self._recalling.recall(slot, now)

    def _maybe_leave(self, now: float) -> None:
        if self.queue and self.session.open:
            self._table.give_back(now)
        for slot in self.slots.values():
            if slot.idle and slot.owner is not None and not self.queue:
                self._slot_table.end(slot, now)
        out_of_time = self._drain_until is not None and now >= self._drain_until
        ending = any(slot.kill_at is not None for slot in self.slots.values())
        if (
            (self.tasks or self._unacknowledged.undelivered() or ending) and not out_of_time
        ) or self._stopped:
            return
        if self.tasks and self.session.open:
            self._log("warning", f"{len(self.tasks)} tasks did not finish in time; they run again elsewhere")
            # One that runs and may run but once is not given back: it is lost.
            pairs = [
                (task.id, task.assignment.attempt)
                for task in self.tasks.values()
                if not task.assignment.options.at_most_once
            ]
            self._effects.append(self.session.send(m.TasksReturned(pairs, begun=True), now))
        if self.session.open:
            self._effects.append(self.session.send(m.Goodbye(), now))
        self._stopped = True
        self._effects.append(Stop())

    def _give_up(self, error: str, kind: str) -> None:
        self._stopped = True
        self._effects.append(GiveUp(error, kind))

    def _log(self, level: str, text: str) -> None:
        self._effects.append(Log(level, text))

    HANDLERS: ClassVar[Mapping[type[Event], Callable[[WorkerCore, Any, float], None]]] = {
        SlotFinished: _finished,
        Received: lambda core, event, now: core._receive(event.envelope, now),
        Tick: lambda core, _, now: core._tick(now),
        SlotReady: lambda core, event, _: core._slot_table.ready(event),
        SlotReturned: lambda core, event, now: core._recalling.returned(event, now),
        SlotRetracted: lambda core, event, now: core._recalling.retracted(event, now),
        SlotSplit: lambda core, event, now: core._splitting.bundle_split(event, now),
        SlotDivided: lambda core, event, now: core._splitting.chunk_divided(event, now),
        SlotPrinted: lambda core, event, _: core._printed(event),
        SlotBlocked: _slot_blocked,
        SlotAwaits: lambda core, event, _: core._slot_awaits(event),
        SlotSpoiled: lambda core, event, _: core._slot_spoiled(event),
        SlotExited: _slot_exited,
        SlotNotStarted: lambda core, event, now: core._slot_table.not_started(event, now),
        Unreachable: lambda core, _, now: core.session.unreachable(now),
        HandshakeFailed: _handshake_failed,
        DrainRequested: lambda core, _, now: core._drain(now),
    }
    """What follows an event; any other one is none of a worker's."""

    MESSAGES: ClassVar[Mapping[type[m.Message], Callable[[WorkerCore, Any, float], None]]] = {
        m.Assign: _assigned,
        m.Cancel: lambda core, message, now: core._stopping.cancel(message.requests, now),
        m.Divide: lambda core, message, now: core._splitting.divide(message.ids, now),
        m.DropFunctions: lambda core, message, _: core.functions.may_drop(message.functions),
        m.Welcome: _welcomed,
        m.Drain: lambda core, _, now: core._drain(now),
    }
    """What follows a message; any other one changes nothing."""
