"""The client's state machine: what was submitted is kept until its outcome has arrived.

Calls wait here until the coordinator's window has room for them, highest priority first; then they are sent, all that
have gathered in one message. When a session is lost, everything unfinished is simply submitted again under its old
id: the coordinator joins what it already has.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import deque

from jobrunner.protocol.bundles import Limits, index_of_call, place_of_call
from jobrunner.protocol.chunks import kept, stop_of
from jobrunner.protocol.client.bundle_tracker import BundleTracker
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    Accepted,
    AnnounceRunning,
    AnswerCancel,
    AnswerQuery,
    CancelRequested,
    CapacityChanged,
    ChunkDivided,
    Connected,
    ConnectionLost,
    DrainRequested,
    Effect,
    Event,
    GiveUp,
    HandshakeFailed,
    InitializerFailed,
    QueryRequested,
    Received,
    RequestResults,
    ResolveTasks,
    ResultReplyRequested,
    ShowOutput,
    Stop,
    SubmitRequested,
    Tick,
    Unreachable,
    WatchRequested,
)
from jobrunner.protocol.known_functions import KnownFunctions
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import BATCH_BYTES, BATCH_ENTRIES, batches, of_id, of_outcome, of_task
from jobrunner.protocol.wire.checks import MAX_DEPENDENCIES
from jobrunner.protocol.wire.ids import TaskId, open_part
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.payloads import payload_size


class Outbox:
    """The calls that wait for room in the window, ordered by priority and then by submission."""

    __slots__ = ("_lanes", "_order")

    def __init__(self) -> None:
        self._lanes: dict[int, deque[m.TaskSpec]] = {}
        self._order: list[int] = []

    def push(self, spec: m.TaskSpec) -> None:
        rank = -spec.body.options.priority
        lane = self._lanes.get(rank)
        if lane is None:
            lane = self._lanes[rank] = deque()
            heapq.heappush(self._order, rank)
        lane.append(spec)

    def peek(self) -> m.TaskSpec | None:
        while self._order:
            lane = self._lanes[self._order[0]]
            if lane:
                return lane[0]
            del self._lanes[heapq.heappop(self._order)]
        return None

    def pop(self) -> m.TaskSpec:
        return self._lanes[self._order[0]].popleft()

    def clear(self) -> None:
        self._lanes.clear()
        self._order.clear()


class ClientCore:
    """The state machine of a client.

    `connect_timeout` and `reconnect_timeout` are in seconds, and None means no limit.
    """

    def __init__(
        self,
        hello: m.ClientHello,
        rng: random.Random,
        now: float,
        *,
        connect_timeout: float | None = None,
        reconnect_timeout: float | None = None,
    ) -> None:
        self.session = Session(
            lambda serial: dataclasses.replace(hello, serial=serial), rng, now, hello.peer_timeout
        )
        self._bundle_ids: dict[str, TaskId] = {}
        """The pending bundles, by the open parts of their ids."""
        self.pending: dict[TaskId, m.TaskSpec] = {}
        """All tasks without an outcome, in the order of submission."""
        self.limits = Limits()
        """The maximum number of calls per bundle, which other threads of the program read, too."""
        self._bundle_tracker = BundleTracker(self)
        self._outbox = Outbox()
        self._regained: list[m.TaskSpec] = []
        """Tasks that the coordinator has had as parts of bundles; they are sent in this turn, regardless of the
        window."""
        self._cancelled_here: list[m.Outcome] = []
        """The outcomes of bundles, and of calls that the coordinator had in bundles, to be reported in this turn."""
        self._sent: set[TaskId] = set()
        """The pending tasks that the coordinator has in this session."""
        self._sent_bytes = 0
        self._followers: dict[TaskId, list[m.TaskSpec]] = {}
        """The tasks that depend on a task which waits to be sent; they are sent after it, so that they do not fill the
        window."""
        self._watched: dict[TaskId, None] = {}
        """The tasks, perhaps of other clients, whose outcomes the program wants to know."""
        self._watches: list[TaskId] = []
        """The watched tasks that have not been sent in this session."""
        self._known = KnownFunctions()
        self._functions: dict[m.FunctionKey, m.FunctionDef] = {}
        self._largest = 0
        """The size in bytes of the largest function so far."""
        self._users: dict[m.FunctionKey, int] = {}
        """The number of unfinished tasks that use each function, and of other functions of which it is a part."""
        self._cancelling: dict[TaskId, bool] = {}
        """The cancel requests without an answer; the value tells whether a running task is to be stopped, too."""
        self._refused: list[TaskId] = []
        """The tasks whose cancelling was refused in this turn, because they run."""
        self._cancels: list[m.CancelRequest] = []
        """The cancel requests that have not been sent in this session."""
        self._running: set[TaskId] = set()
        """The pending tasks that the coordinator has announced as running."""
        self._queries: dict[int, m.Query] = {}
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._was_open = False
        self._given_up = False
        self._leaving = False

    # --- the interface of a core ---

    def handle(self, event: Event, now: float) -> list[Effect]:
        if now != self.session.ran_at:
            self.session.runs(now)
        if type(event) is SubmitRequested:
            self._submit(event)
            return []
        if type(event) is Received:
            return self._receive(event.envelope, now)
        if type(event) is Tick:
            return self._tick(now)
        if type(event) is CancelRequested:
            return self._cancel(event)
        if type(event) is QueryRequested:
            return self._query(event, now)
        if type(event) is WatchRequested:
            return self._watch(event)
        if type(event) is ResultReplyRequested:
            if not self.session.open:
                return []  # it will be asked again
            replies = [m.ResultReply(some) for some in batches(event.outcomes, of_outcome)]
            replies += [m.ResultReply([], some) for some in batches(event.unknown, of_id)]
            return [
                self.session.send(reply, now, sum(payload_size(o.payload) for o in reply.outcomes))
                for reply in replies
            ]
        if type(event) is Unreachable:
            self.session.unreachable(now)
        elif type(event) is HandshakeFailed:
            self.session.handshake_failed(event)
        elif type(event) is DrainRequested:
            self._leaving = True
        return []

    def next_deadline(self) -> float | None:
        if self._given_up:
            return None
        times = [self.session.next_deadline(), self._give_up_at()]
        return earliest(times)

    def check_invariants(self) -> None:
        assert self._sent <= self.pending.keys()
        assert self._running <= self.pending.keys()
        assert self._sent_bytes == sum(payload_size(self.pending[t].body.payload) for t in self._sent)
        needed: dict[m.FunctionKey, int] = {}
        for spec in self.pending.values():
            for key in (spec.body.function, spec.body.initializer):
                if key is not None:
                    needed[key] = needed.get(key, 0) + 1
        for definition in self._functions.values():
            for part in definition.parts:
                needed[part] = needed.get(part, 0) + 1
        assert needed == self._users
        assert needed.keys() == self._functions.keys()

    # --- from the program ---

    def _submit(self, event: SubmitRequested) -> None:
        for definition in event.functions:
            if definition.key not in self._functions:
                self._functions[definition.key] = definition
                self._largest = max(self._largest, payload_size(definition.blob))
                for part in definition.parts:
                    self._users[part] = self._users.get(part, 0) + 1
        for spec in event.tasks:
            self.add(spec)
        for definition in event.functions:
            if definition.key not in self._users:
                self._drop(definition.key)

    def add(self, spec: m.TaskSpec, *, regained: bool = False) -> None:
        """Take charge of a task whose functions are known; `regained`: the coordinator has had it in a bundle.

        Such a task may be running, or another task may depend on it, so it must not wait for a window that other such
        tasks fill.
        """
        self.pending[spec.id] = spec
        if isinstance(spec.body.kind, Bundle):
            self._bundle_ids[open_part(spec.id)] = spec.id
        self._count(spec, +1)
        if not regained:
            self._enqueue(spec)
            return
        self._sent.add(spec.id)
        self._sent_bytes += payload_size(spec.body.payload)
        self._regained.append(spec)

    def _enqueue(self, spec: m.TaskSpec) -> None:
        """Queue a task to be sent, after the tasks on which it depends."""
        for dependency in spec.depends_on:
            unsent = self._unsent(dependency)
            if unsent is not None:
                self._followers.setdefault(unsent, []).append(spec)
                return
        self._outbox.push(spec)

    def _unsent(self, task_id: TaskId) -> TaskId | None:
        """Return the task with which this one will be sent to the coordinator, itself or its bundle.

        None if it was sent.
        """
        if task_id not in self.pending:
            bundle = self.bundle_with(task_id)
            if bundle is None:
                return None
            task_id = bundle[0]
        return None if task_id in self._sent else task_id

    def bundle_with(self, task_id: TaskId) -> tuple[TaskId, int] | None:
        """Return the pending bundle that contains this call, and the call's index in it."""
        place = place_of_call(task_id)
        bundle = None if place is None else self._bundle_ids.get(place[0])
        index = None if bundle is None else index_of_call(bundle, task_id)
        return None if bundle is None or index is None else (bundle, index)

    def _let_follow(self, task_id: TaskId) -> None:
        for spec in self._followers.pop(task_id, ()):
            if spec.id in self.pending:
                self._enqueue(spec)

    def _watch(self, event: WatchRequested) -> list[Effect]:
        for task_id in event.ids:
            if task_id not in self.pending and task_id not in self._watched:
                self._watched[task_id] = None
                self._watches.append(task_id)
        return []

    def _cancel(self, event: CancelRequested) -> list[Effect]:
        outcomes = []
        effects: list[Effect] = []
        ids = self._beyond(event.ids, event.slots) if event.slots else event.ids
        for task_id in ids:
            spec = self.pending.get(task_id)
            if spec is None:
                bundle = self.bundle_with(task_id)
                if bundle is not None:
                    effects += self._bundle_tracker.cancel(*bundle, event.running)
            elif task_id in self._sent:
                self.request_cancel(task_id, event.running)
                if isinstance(spec.body.kind, Bundle):
                    self._bundle_tracker.cancel_whole(task_id)
            else:
                self.forget_task(task_id)
                outcomes.append(m.Outcome(task_id, 0, m.CANCELLED))
        if outcomes:
            effects.append(ResolveTasks(outcomes))
        return effects

    def _beyond(self, ids: list[TaskId], slots: int) -> list[TaskId]:
        """Return those of `ids` that do not run and that no free slot can begin now, in their order of starting."""
        free = max(0, slots - len(self._running))
        waiting = [self.pending[t] for t in ids if t in self.pending and t not in self._running]
        begin = {
            spec.id for spec in heapq.nsmallest(free, waiting, key=lambda spec: -spec.body.options.priority)
        }
        return [t for t in ids if t not in begin]

    def request_cancel(self, task_id: TaskId, running: bool) -> None:
        """Queue a cancel request, which is sent to the coordinator in this turn."""
        self._cancelling[task_id] = running or self._cancelling.get(task_id, False)
        self._cancels.append(m.CancelRequest(task_id, running))

    def tell_cancelled(self, outcomes: list[m.Outcome]) -> None:
        """Tell the coordinator, in this turn, which bundles and which calls of bundles are no longer wanted."""
        self._cancelled_here += outcomes

    def is_sent(self, task_id: TaskId) -> bool:
        """Return whether the coordinator has the task in this session."""
        return task_id in self._sent

    def _query(self, event: QueryRequested, now: float) -> list[Effect]:
        query = m.Query(event.number, event.kind, event.argument)
        self._queries[event.number] = query
        return [self.session.send(query, now)] if self.session.open else []

    # --- from the coordinator ---

    def _receive(self, envelope: m.Envelope, now: float) -> list[Effect]:
        was_open = self.session.open
        messages, _ = self.session.receive(envelope, now)
        effects: list[Effect] = []
        for message in messages:
            effects += self._message(message, now)
        if was_open and not self.session.open:
            effects.append(ConnectionLost(self.session.loss))
        return effects

    def _message(self, message: m.Message, now: float) -> list[Effect]:
        kind = type(message)
        if kind is m.Outcomes:
            assert isinstance(message, m.Outcomes)
            return self._outcomes(message.outcomes)
        if isinstance(message, m.Welcome):
            return self._opened(message, now)
        if isinstance(message, m.Running):
            self._running.update(t for t in message.ids if t in self.pending)
            running = [t for t in message.ids if t in self._watched or self._is_call(t)]
            return [AnnounceRunning(running)] if running else []
        if isinstance(message, m.CancelRefused):
            # A later request that stops running tasks too is still to be answered.
            refused = [t for t in message.ids if not self._cancelling.get(t, False)]
            for task_id in refused.copy():
                self._cancelling.pop(task_id, None)
                refused += self._bundle_tracker.refused(task_id)
            self.note_refused(refused)
            return []
        if isinstance(message, m.Cancel):  # of somebody who was given the ids of these calls
            wanted = [CancelRequested([request.id], request.running) for request in message.requests]
            return [effect for event in wanted for effect in self._cancel(event)]
        if isinstance(message, m.Accepted):
            return [Accepted([t for t in message.ids if t in self.pending])]
        if isinstance(message, m.ResultRequest):
            return [RequestResults(message.ids)]
        if isinstance(message, m.Output):
            return [ShowOutput(message.chunks)]
        if isinstance(message, m.Capacity):
            return [CapacityChanged(message.slots)]
        if isinstance(message, m.Reply) and self._queries.pop(message.number, None) is not None:
            return [AnswerQuery(message.number, message.data, message.error)]
        return []

    def _outcomes(self, outcomes: list[m.Outcome]) -> list[Effect]:
        fresh: list[m.Outcome] = []
        effects: list[Effect] = []
        for outcome in outcomes:
            spec = self.pending.get(outcome.id)
            if (
                spec is not None
                and spec.body.initializer is not None
                and outcome.detail
                and "setup" in outcome.detail
            ):
                effects.append(InitializerFailed(outcome))  # none of the pending ones can run
                continue
            if spec is not None:
                self.limits.learn(spec, outcome)
            if spec is not None and isinstance(spec.body.kind, Bundle):
                effects += self._bundle_tracker.ended(spec, outcome)
            elif spec is not None and outcome.status == m.SPLIT:
                effects += self._divided(spec, outcome)
            elif self._end_interest(outcome.id):
                fresh.append(outcome)
        if fresh:
            effects.append(ResolveTasks(fresh))
        return effects

    def _divided(self, chunk: m.TaskSpec, outcome: m.Outcome) -> list[Effect]:
        """Handle the division of a chunk: wait for the part that continues, and let the program submit the others."""
        stop = stop_of(chunk, outcome)
        if stop is None:
            error = "it was divided where it has no elements"
            self.forget_task(chunk.id)
            return [ResolveTasks([m.Outcome(chunk.id, outcome.attempt, m.LOST, detail={"error": error})])]
        part = kept(chunk, stop)
        wish = self._cancelling.get(chunk.id)
        self.add(part, regained=self.is_sent(chunk.id))
        self.forget_task(chunk.id)
        effects: list[Effect] = [ChunkDivided(chunk.id, part.id, stop)]
        if wish:
            self.request_cancel(part.id, True)
        elif wish is not None:
            self.note_refused([part.id])
        return effects

    def _is_call(self, task_id: TaskId) -> bool:
        """Return whether the task is pending and not a bundle, of whose calls only one can have started."""
        spec = self.pending.get(task_id)
        return spec is not None and not isinstance(spec.body.kind, Bundle)

    def _opened(self, welcome: m.Welcome, now: float) -> list[Effect]:
        """Submit everything again that the coordinator may have had before, then send what the window permits."""
        self._was_open = True
        sent_before, self._sent = self._sent, set()
        self._sent_bytes = 0
        self._running.clear()
        self._known.clear()
        self._outbox.clear()
        self._regained.clear()
        self._cancelled_here.clear()  # who needs them is named again, and then asks
        self._followers.clear()
        later = []
        for spec in self.pending.values():
            if spec.id in sent_before:
                self._outbox.push(spec)
            else:
                later.append(spec)
        effects: list[Effect] = [Connected(welcome.slots)]
        effects += self._send_tasks(now, unlimited=True)
        effects.append(self.session.send(m.ResubmissionComplete(), now))
        effects += [self.session.send(query, now) for query in self._queries.values()]
        for spec in later:
            self._enqueue(spec)
        self._watches = list(self._watched)
        self._cancels = [m.CancelRequest(t, running) for t, running in self._cancelling.items()]
        return effects

    # --- the end of a turn ---

    def _tick(self, now: float) -> list[Effect]:
        if self._given_up:
            return []
        session = self.session
        was_open = session.open
        effects = [*session.due(now), *self._answer_cancels()]
        if was_open and not session.open:
            effects.append(ConnectionLost(session.loss))
        if session.open:
            effects += self._send_tasks(now)
            if self._cancelled_here:
                outcomes, self._cancelled_here = self._cancelled_here, []
                for told in batches(outcomes, of_outcome):
                    effects.append(session.send(m.ResultReply(told, []), now))
            if self._cancels:
                requests, self._cancels = self._cancels, []
                for some in batches(requests, lambda request: of_id(request.id)):
                    effects.append(session.send(m.Cancel(some), now))
            if self._watches:
                watches, self._watches = self._watches, []
                for ids in batches(watches, of_id):
                    effects.append(session.send(m.Watch(ids), now))
            if self._leaving:
                effects += [session.send(m.Goodbye(), now), Stop()]
                self._given_up = True
            return effects
        if self._leaving:
            self._given_up = True
            return [*effects, Stop()]
        return [*effects, *self._maybe_give_up(now)]

    def note_refused(self, tasks: list[TaskId]) -> None:
        """Note that these tasks run and were not cancelled, which is reported in this turn."""
        self._refused += tasks

    def _answer_cancels(self) -> list[Effect]:
        """Report the refusals of this turn, except for tasks with a later request to stop them even if they run."""
        refused = [
            t for t in self._refused if not (self._cancelling.get(t) or self._bundle_tracker.is_to_stop(t))
        ]
        self._refused = []
        return [AnswerCancel(refused)] if refused else []

    def _give_up_at(self) -> float | None:
        if self.session.open:
            return None
        wait = self._reconnect_timeout if self._was_open else self._connect_timeout
        return None if wait is None else self.session.seeking_since + wait

    def _maybe_give_up(self, now: float) -> list[Effect]:
        if self.session.refusal:
            self._given_up = True
            return [GiveUp(self.session.refusal, self.session.refusal_kind)]
        at = self._give_up_at()
        if at is None or now < at:
            return []
        self._given_up = True
        waited = now - self.session.seeking_since
        why = f": {self.session.loss}" if self.session.loss else ""
        return [GiveUp(f"no answer for {waited:.0f} s{why}", "CoordinatorLostError")]

    def _send_tasks(self, now: float, *, unlimited: bool = False) -> list[Effect]:
        """Send all tasks for which the window has room, in one message if possible.

        A task above the window goes alone.
        """
        effects: list[Effect] = []
        too_large: list[m.Outcome] = []
        # What goes on of a chunk may have ended by now.
        regained, self._regained = [s for s in self._regained if s.id in self.pending], []
        effects += [self._submission(tasks, now) for tasks in batches(regained, of_task)]
        while tasks := self._take_tasks(unlimited, too_large):
            effects.append(self._submission(tasks, now))
        if too_large:  # maybe a bundle, whose calls go on their own
            effects += self._outcomes(too_large) + self._send_tasks(now, unlimited=unlimited)
        return effects

    def _submission(self, tasks: list[m.TaskSpec], now: float) -> Effect:
        """Return the message that submits these tasks, with the functions that the coordinator does not know."""
        named = dict.fromkeys([spec.body.function for spec in tasks])
        named.update(
            dict.fromkeys([spec.body.initializer for spec in tasks if spec.body.initializer is not None])
        )
        functions: list[m.FunctionDef] = []
        for key in named:
            definition = self._functions[key]
            functions += self._known.use(definition, [self._functions[part] for part in definition.parts])
        size = sum([payload_size(spec.body.payload) for spec in tasks])
        size += sum([payload_size(definition.blob) for definition in functions])
        return self.session.send(m.Submit(tasks, functions, self._known.overflow(len(named))), now, size)

    def _take_tasks(self, unlimited: bool, too_large: list[m.Outcome]) -> list[m.TaskSpec]:
        """Return the waiting tasks for the next message, as far as the window has room; too large ones end here."""
        welcome = self.session.welcome
        spec = self._outbox.peek()
        if spec is None or welcome is None:
            return []
        tasks: list[m.TaskSpec] = []
        header = 0
        while spec is not None and header < BATCH_BYTES and len(tasks) < BATCH_ENTRIES:
            if spec.id not in self.pending or spec.id in self._sent:
                self._outbox.pop()
                spec = self._outbox.peek()
                continue
            bytes_ = payload_size(spec.body.payload)
            most = welcome.max_payload
            if bytes_ > most or self._largest > most or len(spec.depends_on) > MAX_DEPENDENCIES:
                excess = self._excess(spec, most)
                if excess is not None:
                    self._outbox.pop()
                    too_large.append(excess)
                    spec = self._outbox.peek()
                    continue
            full = len(self._sent) >= welcome.window_tasks or (
                self._sent and self._sent_bytes + bytes_ > welcome.window_bytes
            )
            if full and not unlimited:
                break
            self._outbox.pop()
            self._sent.add(spec.id)
            self._sent_bytes += bytes_
            header += of_task(spec)
            tasks.append(spec)
            if spec.id in self._followers:
                self._let_follow(spec.id)
            spec = self._outbox.peek()
        return tasks

    def _excess(self, spec: m.TaskSpec, most: int) -> m.Outcome | None:
        """Return the outcome of a call of which some part is larger than the coordinator accepts; None if none is."""
        decoded = self.session.link.peer_timeout > 0  # not within one process
        if decoded and len(spec.depends_on) > MAX_DEPENDENCIES:
            error = (
                f"it needs the results of {len(spec.depends_on):,} other calls, and a call may need"
                f" {MAX_DEPENDENCIES:,}: let some calls collect them, and this one need those"
            )
            return m.Outcome(spec.id, 0, m.ERROR, detail={"too_large": True, "final": True, "error": error})
        if payload_size(spec.body.payload) > most:
            return m.quota_exceeded(spec.id, 0, "arguments have", payload_size(spec.body.payload), most)
        for key in (spec.body.function, spec.body.initializer):
            definition = None if key is None else self._functions[key]
            if definition is None:
                continue
            size = max(
                payload_size(self._functions[each].blob) for each in (definition.key, *definition.parts)
            )
            if size > most:
                if definition.ships:
                    return m.shipment_exceeded(spec.id, definition, most)
                return m.quota_exceeded(spec.id, 0, "function has", size, most)
        return None

    # --- accounts ---

    def _end_interest(self, task_id: TaskId) -> bool:
        """Take note of an outcome; return False if nobody here waits for it."""
        watched = task_id in self._watched
        if watched:
            del self._watched[task_id]
        return self.forget_task(task_id) or watched

    def forget_task(self, task_id: TaskId) -> bool:
        """Drop a task that is done; return False if it was dropped before."""
        spec = self.pending.pop(task_id, None)
        if spec is None:
            return False
        if isinstance(spec.body.kind, Bundle):
            self._bundle_ids.pop(open_part(task_id), None)
        if task_id in self._sent:
            self._sent.remove(task_id)
            self._sent_bytes -= payload_size(spec.body.payload)
        self._cancelling.pop(task_id, None)
        self._running.discard(task_id)
        self._count(spec, -1)
        if task_id in self._followers:
            self._let_follow(task_id)
        return True

    def _count(self, spec: m.TaskSpec, step: int) -> None:
        users = self._users
        for key in (spec.body.function, spec.body.initializer):
            if key is None:
                continue
            count = users.get(key, 0) + step
            if count:
                users[key] = count
            else:
                del users[key]
                self._drop(key)

    def _drop(self, key: m.FunctionKey) -> None:
        """Drop a function that no task, and no function of a task, uses any more."""
        definition = self._functions.pop(key, None)
        if definition is None:
            return
        users = self._users
        for part in definition.parts:
            users[part] -= 1
            if not users[part]:
                del users[part]
                self._drop(part)
