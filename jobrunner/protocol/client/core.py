"""The client's state machine, which handles events and performs turns.

`handle` takes one event and returns effects. A task is kept until its outcome has arrived. Tasks wait here until the
coordinator's window has room for them, highest priority first. At the turn's `Tick`, all tasks for which there is room
are sent in one message. When a session is lost, all unfinished tasks are submitted again under their old ids, and the
coordinator recognizes those that it already has. `_tick` defines the order of a turn, and `_welcomed` that of a new
session.

The client consists of these parts: `pending_tasks` (the tasks without an outcome), `send_window` and
`submission_queue` (the tasks that the coordinator has, and the tasks that are sent next), `functions` (the functions of
the tasks), `endings` (the handling of outcomes), `bundle_tracker` and `bundle_index` (bundles and their calls),
`cancelling` and `cancel_requests` (the tasks that are no longer wanted), `inquiries` (queries and watches), and
`leaving` (the client's end).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jobrunner.protocol.client.bundle_index import BundleIndex
from jobrunner.protocol.client.bundle_tracker import BundleTracker
from jobrunner.protocol.client.cancel_requests import CancelRequests
from jobrunner.protocol.client.cancelling import Cancelling
from jobrunner.protocol.client.endings import Endings
from jobrunner.protocol.client.functions import SubmittedFunctions
from jobrunner.protocol.client.inquiries import Inquiries
from jobrunner.protocol.client.leaving import Leaving
from jobrunner.protocol.client.pending_tasks import PendingTasks
from jobrunner.protocol.client.send_window import SendWindow
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    Accepted,
    AnnounceRunning,
    CancelRequested,
    CapacityChanged,
    Connected,
    ConnectionLost,
    DrainRequested,
    Effect,
    Event,
    HandshakeFailed,
    QueryRequested,
    Received,
    RequestResults,
    ResultReplyRequested,
    ShowOutput,
    SubmitRequested,
    Tick,
    Unreachable,
    WatchRequested,
)
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import batches, of_id, of_outcome
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import payload_size


class ClientCore:
    """The client's core, as the module describes it. It creates the parts, and has the session with the coordinator.

    All parts add their effects to one list, so that these are performed in the order in which they were caused.
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
        self._effects: list[Effect] = []
        """The effects of the event that is being handled; all parts add their effects to this list."""
        effects = self._effects
        session = self.session = Session(
            lambda serial: dataclasses.replace(hello, serial=serial), rng, now, hello.peer_timeout
        )
        self.pending: dict[TaskId, m.TaskSpec] = {}
        """All tasks without an outcome, in the order of submission."""
        bundles = BundleIndex()
        self.functions = SubmittedFunctions()
        self._cancel_requests = CancelRequests(session, effects)
        self._window = SendWindow(self.pending, bundles.bundle_with, self.functions, session, effects)
        self._tasks = PendingTasks(self.pending, bundles, self._window, self.functions, self._cancel_requests)
        self._bundle_tracker = BundleTracker(
            self._tasks, self._window, bundles, self._cancel_requests, effects
        )
        self._cancelling = Cancelling(
            self._tasks, self._window, bundles, self._bundle_tracker, self._cancel_requests, effects
        )
        self._inquiries = Inquiries(self.pending, session, effects)
        self._endings = Endings(
            self._tasks, self._window, self._bundle_tracker, self._cancel_requests, self._inquiries, effects
        )
        self.limits = self._endings.limits
        self._leaving = Leaving(session, effects, connect_timeout, reconnect_timeout)

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
        return earliest([self.session.next_deadline(), self._leaving.give_up_at()])

    def check_invariants(self) -> None:
        self._tasks.check_invariants()

    def leftovers(self) -> list[object]:
        """Return everything that is kept for tasks and answers; for tests."""
        return [
            *self.pending,
            *self._window.leftovers(),
            *self.functions.leftovers(),
            *self._cancel_requests.leftovers(),
            *self._inquiries.leftovers(),
            *self._bundle_tracker.leftovers(),
        ]

    # --- from the program ---

    def _submit(self, event: SubmitRequested, _: float) -> None:
        self.functions.add(event.functions)
        add = self._tasks.add
        for spec in event.tasks:
            add(spec)
        self.functions.drop_unused(event.functions)

    def _reply_with_results(self, event: ResultReplyRequested, now: float) -> None:
        if not self.session.open:
            return  # the coordinator asks again in the next session
        replies = [m.ResultReply(some) for some in batches(event.outcomes, of_outcome)]
        replies += [m.ResultReply([], some) for some in batches(event.unknown, of_id)]
        for reply in replies:
            size = sum(payload_size(o.payload) for o in reply.outcomes)
            self._effects.append(self.session.send(reply, now, size))

    # --- from the coordinator ---

    def _receive(self, event: Received, now: float) -> None:
        was_open = self.session.open
        messages, _ = self.session.receive(event.envelope, now)
        for message in messages:
            handler = self.MESSAGES.get(type(message))
            if handler is not None:
                handler(self, message, now)
        self._note_loss(was_open)

    def _note_loss(self, was_open: bool) -> None:
        if was_open and not self.session.open and not self.session.refusal:
            self._effects.append(ConnectionLost(self.session.loss))

    def _welcomed(self, message: m.Welcome, now: float) -> None:
        """Submit all tasks again that the coordinator may have had before; the tick sends the new ones."""
        self._leaving.session_opened()
        later = self._tasks.session_opened()
        self._effects.append(Connected(message.slots))
        self._send_tasks(now, unlimited=True)
        self._effects.append(self.session.send(m.ResubmissionComplete(), now))
        self._inquiries.session_opened(now)
        for spec in later:
            self._window.enqueue(spec)
        self._cancel_requests.session_opened()

    def _run(self, message: m.Running, _: float) -> None:
        self._tasks.note_running(message.ids)
        running = [t for t in message.ids if t in self._inquiries.watched or self._tasks.is_call(t)]
        if running:
            self._effects.append(AnnounceRunning(running))

    def _cancel(self, message: m.Cancel, _: float) -> None:
        """Cancel calls for another client that knows their ids."""
        for request in message.requests:
            self._cancelling.cancel([request.id], request.running)

    # --- the end of a turn ---

    def _tick(self, _: Tick, now: float) -> None:
        if self._leaving.stopped:
            return
        session = self.session
        was_open = session.open
        self._effects += session.due(now)
        self._cancel_requests.answer(self._bundle_tracker.is_to_stop)
        self._note_loss(was_open)
        if session.open:
            self._send_tasks(now)
            self._cancel_requests.send(now)
            self._inquiries.send(now)
        self._leaving.leave_if_due(now)

    def _send_tasks(self, now: float, *, unlimited: bool = False) -> None:
        while too_large := self._window.send(now, unlimited=unlimited):
            self._endings.take(too_large)  # this queues the calls of a bundle that is too large one by one

    HANDLERS: ClassVar[Mapping[type[Event], Callable[[ClientCore, Any, float], None]]] = {
        SubmitRequested: _submit,
        Received: _receive,
        Tick: _tick,
        CancelRequested: lambda core, event, _: core._cancelling.cancel(
            event.ids, event.running, event.slots
        ),
        QueryRequested: lambda core, event, now: core._inquiries.query(event, now),
        WatchRequested: lambda core, event, _: core._inquiries.watch(event.ids),
        ResultReplyRequested: _reply_with_results,
        Unreachable: lambda core, _, now: core.session.unreachable(now),
        HandshakeFailed: lambda core, event, _: core.session.handshake_failed(event),
        DrainRequested: lambda core, _event, _now: core._leaving.leave(),
    }
    """The handlers of events, by type; a client receives no other types."""

    MESSAGES: ClassVar[Mapping[type[m.Message], Callable[[ClientCore, Any, float], None]]] = {
        m.Outcomes: lambda core, message, _: core._endings.take(message.outcomes),
        m.Welcome: _welcomed,
        m.Running: _run,
        m.CancelRefused: lambda core, message, _: core._cancelling.refused(message.ids),
        m.Cancel: _cancel,
        m.Accepted: lambda core, message, _: core._effects.append(
            Accepted([t for t in message.ids if t in core.pending])
        ),
        m.ResultRequest: lambda core, message, _: core._effects.append(RequestResults(message.ids)),
        m.Output: lambda core, message, _: core._effects.append(ShowOutput(message.chunks)),
        m.Capacity: lambda core, message, _: core._effects.append(CapacityChanged(message.slots)),
        m.Reply: lambda core, message, _: core._inquiries.replied(message),
    }
    """The handlers of messages, by type; messages of other types have no effect."""
