"""The worker's state machine: a local queue, slots that are fed from it, and outcomes kept until acknowledged.

It decides which slot gets what, when a task's time is up, how a task is stopped (SIGINT, then SIGTERM, then SIGKILL, on
its slot alone), and what a slot's death means for the tasks in it. An outcome is safe when the link says that its
message was acknowledged; when a session is lost, the unacknowledged outcomes open the next one.
"""

from __future__ import annotations

import random

from jobrunner.protocol.chunks import kept, may_stop, part_id
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    INITIALIZER_FAILED,
    ConnectionLost,
    DivideChunk,
    DrainRequested,
    Effect,
    Event,
    GiveUp,
    HandshakeFailed,
    InterruptTask,
    Log,
    RecallTasks,
    Received,
    RetractTasks,
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
    SlotTask,
    Stop,
    Tick,
    Unreachable,
)
from jobrunner.protocol.session import Session
from jobrunner.protocol.tuning import RETURN_AFTER, RUNNING_AFTER, UNKNOWN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId, TaskId, call_id
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.announced_capacity import AnnouncedCapacity
from jobrunner.protocol.worker.announcements import Announcements
from jobrunner.protocol.worker.function_store import FunctionStore
from jobrunner.protocol.worker.replacing import Replacing
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.slots import (
    READY,
    Owner,
    Slot,
    WorkerTask,
    filling,
)
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
        self._effects: list[Effect] = []
        """Of the event that is being handled."""
        self.session = Session(self._hello, rng, now, settings.peer_timeout)
        self._unacknowledged = Unacknowledged(self.session, self._effects, settings.unacknowledged_bytes)
        self._stops = Stops()
        self._table = TaskTable(self._stops, self._unacknowledged, self.session, self._effects, now)
        self.tasks = self._table.tasks
        self.queue = self._table.queue
        self._stopping = Stopping(
            self._table, self._stops, self._recall, self.session, self._effects, settings.stop_grace
        )
        self._announcements = Announcements(self.tasks, self.session, self._effects)
        self._capacity = AnnouncedCapacity(settings.slots, self.session, self._effects)
        self._slot_table = SlotTable(settings, self._give_up, self._capacity.note_stuck, self._effects)
        self.slots = self._slot_table.slots
        self.functions = FunctionStore(self.slots, settings.missing)
        self._replacing = Replacing(
            self._slot_table,
            self.queue,
            self._may_feed,
            self.functions.estimate,
            settings.max_tasks_per_slot,
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
        kind = type(event)
        if kind is SlotFinished:
            assert isinstance(event, SlotFinished)
            self._finished(event, now)
        elif isinstance(event, Received):
            self._receive(event.envelope, now)
        elif kind is Tick:
            self._tick(now)
        elif isinstance(event, SlotReady):
            self._slot_table.ready(event)
        elif isinstance(event, SlotReturned):
            self._slot_returned(event, now)
        elif isinstance(event, SlotRetracted):
            self._slot_retracted(event, now)
        elif isinstance(event, SlotSplit):
            self._slot_split(event, now)
        elif isinstance(event, SlotDivided):
            self._slot_divided(event, now)
        elif isinstance(event, SlotPrinted):
            self._printed(event)
        elif isinstance(event, SlotBlocked):
            self._slot_blocked(event, now)
        elif isinstance(event, SlotAwaits):
            self._slot_awaits(event)
        elif isinstance(event, SlotSpoiled):
            self._slot_spoiled(event)
        elif isinstance(event, SlotExited):
            self._slot_exited(event, now)
        elif isinstance(event, SlotNotStarted):
            self._slot_table.not_started(event, now)
        elif isinstance(event, Unreachable):
            self.session.unreachable(now)
        elif isinstance(event, HandshakeFailed):
            self._handshake_failed(event, now)
        elif kind is DrainRequested:
            self._drain(now)
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
        spare = self._spare_for()
        for slot in self.slots.values():
            running = slot.running()
            if running is None:
                times.append(slot.kill_at)
                continue
            times += [slot.recall_at(slot.owner in spare), slot.retract_at()]
            if not running.announced:
                times.append(slot.progress + RUNNING_AFTER)
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
        if isinstance(message, m.Assign):
            self._assigned(message, now)
        elif isinstance(message, m.Cancel):
            self._stopping.cancel(message.requests, now)
        elif isinstance(message, m.Divide):
            self._divide(message.ids, now)
        elif isinstance(message, m.DropFunctions):
            self.functions.may_drop(message.functions)
        elif isinstance(message, m.Welcome):
            self._unacknowledged.session_opened()
            self.functions.session_opened()
            self._slot_table.take_seed(message.hash_seed)
            self._log("info", f"joined coordinator {message.coordinator}")
            if self.draining:
                self._effects.append(self.session.send(m.Drain(), now))
        elif isinstance(message, m.Drain):
            self._drain(now)

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
            self._recall(slot, now)

    def _slot_awaits(self, event: SlotAwaits) -> None:
        slot = self.slots.get(event.slot)
        task = None if slot is None else slot.queue.get(event.number)
        if task is not None:
            self._announcements.awaits(task, event)

    def _recall(self, slot: Slot, now: float, *, bundle: bool = True) -> None:
        slot.recalled, slot.recalled_at = True, now
        self._effects.append(RecallTasks(slot.id, bundle))

    def _slot_returned(self, event: SlotReturned, now: float) -> None:
        slot = self.slots.get(event.slot)
        if slot is None:
            return
        slot.recalled = False
        self._take_back(slot, event.numbers, now)
        running = slot.running()
        if running is not None and running.stop_reason is not None and running.stop_stage == 1:
            # It may have begun after its interrupt had found another one running.
            self._effects.append(InterruptTask(slot.id, running.number))

    def _slot_retracted(self, event: SlotRetracted, now: float) -> None:
        """As if it had returned them, only that it gets no others before it has answered the recall."""
        slot = self.slots.get(event.slot)
        if slot is None:
            return
        self._take_back(slot, event.numbers, now)
        if not slot.queue:
            slot.leave()  # what keeps it from running is nothing that anybody waits for

    def _take_back(self, slot: Slot, numbers: list[int], now: float) -> None:
        """To the head of the queue, in order."""
        tasks = [task for number in numbers if (task := slot.take_back(number)) is not None]
        for task in reversed(tasks):
            self._table.requeue(task)
        self.queue.moved(now)

    def _slot_spoiled(self, event: SlotSpoiled) -> None:
        slot = self.slots.get(event.slot)
        if slot is not None:
            slot.leave()

    def _slot_split(self, event: SlotSplit, now: float) -> None:
        """A bundle ends here; the call that runs goes on as a task of its own, which its client will name."""
        slot = self.slots.get(event.slot)
        task = None if slot is None else slot.queue.get(event.number)
        if slot is None or task is None or not task.bundled:
            return
        bundle = task.assignment
        call = call_id(bundle.id, event.running)
        if task.stop_reason is None and call in self.tasks:
            # The bundle is of before, and its client has named its calls since: one of the two must end.
            self._stopping.stop(task, now)
        if task.stop_reason is not None:
            task.was_split = True
            return
        slot.calls_left += task.elements - event.running - 1
        excess = outcomes.too_large(task, event.payload, self.session.welcome, self.settings)
        self._table.end(task, excess or outcomes.split(task, event.running, event.payload, self.settings))
        self._table.go_on(task, bundle._replace(id=call, attempt=1, payload=b"", span=None, unbegun=0))
        self._announcements.repeat(task)
        if excess is not None:  # its client then begins anew with each of the calls
            self._stopping.stop(task, now)

    def _divide(self, ids: list[TaskId], now: float) -> None:
        """Have slots give back what they have not begun of these chunks, of those that run."""
        for task_id in ids:
            task = self.tasks.get(task_id)
            if task is not None and task.slot is not None and task.is_chunk and task.stop_reason is None:
                task.slot.division, task.slot.division_asked_at = task.number, now
                self._effects.append(DivideChunk(task.slot.id, task.number))

    def _slot_divided(self, event: SlotDivided, now: float) -> None:
        """A chunk ends here; what its slot has begun of it goes on as a task of its own, which its client will name."""
        slot = self.slots.get(event.slot)
        if slot is not None and slot.division == event.number:
            slot.division = 0
        task = None if slot is None else slot.queue.get(event.number)
        if slot is None or task is None or not may_stop(task.assignment, event.stop):
            return
        chunk = task.assignment
        if task.stop_reason is None and part_id(chunk.id, event.stop) in self.tasks:
            # As where a bundle was split: the chunk is of before, and one of the two must end.
            self._stopping.stop(task, now)
        if task.stop_reason is not None:
            task.was_split = True
            return
        stop_at = task.stop_at
        self._table.end(task, outcomes.divided(task, event.stop, self.settings))
        part = kept(chunk, event.stop)._replace(attempt=1, unbegun=0)
        self._table.go_on(task, part)
        slot.calls_left += m.calls_in(chunk.span) - m.calls_in(part.span)
        self._announcements.repeat(task)
        if stop_at is not None and chunk.options.timeout is not None and part.options.timeout is not None:
            self._stops.limit(task, stop_at - (chunk.options.timeout - part.options.timeout))

    def _finished(self, event: SlotFinished, now: float) -> None:
        slot = self.slots.get(event.slot)
        if slot is None:
            return
        slot.progress = now
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
        self._feed(now)
        self._replacing.make_way(now)
        self._watch_slots(now)
        if self.functions.lingering:
            self._effects += self.functions.drop(self.tasks.values())
        if self.queue and now >= self.queue.moved_at + RETURN_AFTER:
            soon = filling(self._slot_table.starting(), self.queue, self.functions.estimate)
            self._table.give_back(now, keep=soon)
        self._send_all(now)
        if self.draining:
            self._maybe_leave(now)

    def _may_feed(self) -> bool:
        if self.draining and self.session.open:
            return False
        return self._unacknowledged.has_room()

    def _feed(self, now: float) -> None:
        """Give queued tasks to slots: one to each idle slot, then short ones behind them, evenly."""
        if not self.queue or not self._may_feed():
            return
        batches: dict[SlotId, list[SlotTask]] = {}
        ready = [s for s in self.slots.values() if s.state == READY and not s.stalled(now)]
        while self.queue and ready:
            still = []
            for slot in sorted(ready, key=lambda s: len(s.queue)):
                if not self.queue:
                    break
                if self._feed_one(slot, batches, now):
                    still.append(slot)
            ready = still
        for slot_id, tasks in batches.items():
            self._effects.append(self.functions.run_tasks(self.slots[slot_id], tasks))

    def _feed_one(self, slot: Slot, batches: dict[SlotId, list[SlotTask]], now: float) -> bool:
        owner = self.queue.neediest(self.slots.values()) if slot.owner is None else slot.owner
        task = self.queue.first(owner)
        if task is None:
            return False
        a = task.assignment
        estimate = self.functions.estimate(task)
        if not slot.has_capacity(estimate, a.options.timeout is not None, task.elements):
            if task.elements > slot.calls_left:
                slot.leave()  # a new process takes it
            return False
        self.queue.pop(owner, now)
        task.estimate = max(estimate, 0.0)
        task.announced = False
        slot.put(task, now)
        if a.options.timeout is not None:
            self._stops.limit(task, now + a.options.timeout)
        name = self.functions.name_of(task)
        entry = SlotTask(
            task.number,
            a.id,
            name,
            a.begun,
            a.function,
            a.payload,
            a.span,
            a.initializer,
            a.depth,
            a.values,
            a.options.retry_on,
        )
        batches.setdefault(slot.id, []).append(entry)
        return True

    def _watch_slots(self, now: float) -> None:
        """Recall what waits behind a task that turns out long, and announce the tasks that run for a while."""
        spare = self._spare_for()
        for slot in self.slots.values():
            running = slot.running()
            if running is None:
                self._slot_table.kill_if_late(slot, now)
                continue
            recall_at = slot.recall_at(slot.owner in spare)
            if recall_at is not None and now >= recall_at:
                self._recall(slot, now, bundle=slot.is_stuck(now))
            retract_at = slot.retract_at()
            if retract_at is not None and now >= retract_at:
                slot.retracted_at = now
                chunks = tuple(number for number, task in slot.queue.items() if task.may_be_divided)
                self._effects.append(RetractTasks(slot.id, chunks))
            if not running.announced and now >= slot.progress + RUNNING_AFTER:
                self._announcements.runs(running)

    def _spare_for(self) -> set[Owner | None]:
        """The owners whose tasks a slot could take that has nothing to do."""
        if self.queue:
            return set()
        idle = {slot.owner for slot in self.slots.values() if slot.has_capacity(UNKNOWN, alone=True)}
        return {slot.owner for slot in self.slots.values()} if None in idle else idle

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
                self._recall(slot, now)

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
