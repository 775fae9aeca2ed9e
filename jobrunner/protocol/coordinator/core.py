"""The coordinator's state machine: the effects of each event and of each turn.

`handle` takes one event and returns effects. A received message changes records at once. Messages to peers are
collected in their outboxes, and leave at the turn's `Tick`: one message per peer, kind and turn, however many tasks it
is about. `_tick` has the order of a turn.

The parts are `sessions` (connected peers), `offences` (peers that send unacceptable messages), `admission` (accepted
calls), `scheduler` (tasks), `journal_gate` (entries that must be written before a message leaves) and `outboxes`
(messages to peers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jobrunner.config import MAX_SLOTS
from jobrunner.protocol.coordinator.admission import Admission
from jobrunner.protocol.coordinator.offences import Offences
from jobrunner.protocol.coordinator.outboxes import Outboxes
from jobrunner.protocol.coordinator.outgoing import Outgoing
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.questions import Questions
from jobrunner.protocol.coordinator.reports import answer, looked_at
from jobrunner.protocol.coordinator.scheduler import Scheduler
from jobrunner.protocol.coordinator.sessions import Sessions
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    DrainRequested,
    Effect,
    Event,
    JoinAnswered,
    JoinRequested,
    JournalFailed,
    JournalWritten,
    Received,
    Rejected,
    Revoked,
    Source,
    Stop,
    Tick,
    Unreachable,
)
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.link import LATE
from jobrunner.protocol.session import RETRY_LIMIT
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import of_value
from jobrunner.protocol.wire.details import CUT_TEXT, passable
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import payload_size
from jobrunner.protocol.wire.principals import INVITED, Principal

OBSERVING = frozenset((m.Query, m.ResubmissionComplete, m.Goodbye, m.Heartbeat))
"""The messages that an observer may send."""

OBSERVER_SUBMITS = (
    "the key {name!r} is an observer's: it sees the status, and may not submit, cancel or fetch"
)

SWEEP_INTERVAL = 0.25
"""Time in seconds between two checks of every peer, for late acknowledgements, heartbeats and losses."""

REATTACH_SECONDS = 1.4 * RETRY_LIMIT
"""Time in seconds after a coordinator's start in which the workers of the previous coordinator come back."""


Handler = Callable[[Any, Any, Any, float], None]
"""The handler of a message; its arguments are the core, the peer, the message and the time."""


class CoordinatorCore:
    """A coordinator's core. It identifies peers by the transport's `source` and by the session that they opened.

    With a `journal` (its contents at the start), everything accepted is written to it: `effects.WriteJournal`.
    """

    def __init__(
        self, settings: CoordinatorSettings, now: float, journal: JournalState | None = None
    ) -> None:
        self.settings = settings
        self.started = now
        scheduler = self.scheduler = Scheduler(
            crash_limit=settings.crash_limit,
            result_cache=settings.result_cache,
            journaling=journal is not None,
            quota=settings.quota,
        )
        self.scheduler.orphans.reattach_deadline = now + REATTACH_SECONDS
        self.draining = False
        self._drain_until: float | None = None
        peers: dict[Source, Peer] = {}
        self._out = Outgoing()
        self.offences = Offences(self._out, peers)
        self.sessions = Sessions(
            settings=settings,
            out=self._out,
            offences=self.offences,
            peers=peers,
            roster=scheduler.roster,
            accounts=scheduler.accounts,
            functions=scheduler.functions,
            dispatcher=scheduler.dispatcher,
            endings=scheduler.endings,
            attempts=scheduler.attempts,
            submission=scheduler.submission,
            client_tasks=scheduler.client_tasks,
            ownership=scheduler.ownership,
        )
        self.admission = Admission(
            settings=settings,
            functions=scheduler.functions,
            submission=scheduler.submission,
            out=self._out,
            sessions=self.sessions,
        )
        self._outboxes = Outboxes(
            roster=scheduler.roster,
            functions=scheduler.functions,
            dispatcher=scheduler.dispatcher,
            endings=scheduler.endings,
            results=scheduler.results,
            out=self._out,
        )
        self._questions = Questions()
        self._joined: dict[tuple[str, str], str] = {}
        """The names of the keys that have joined by now, by their invitation and themselves."""
        self._last_tick = now
        self._next_sweep: float | None = None
        if journal is not None:
            self.scheduler.submission.restore(journal, now)
            if journal.tasks or journal.outcomes:
                self._next_sweep = now

    # --- the interface of a core ---

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._out.begin()
        self.offences.begin(event)
        if type(event) is Received:
            self._receive(event, now)
        elif type(event) is Tick:
            self._tick(now)
        elif type(event) is Unreachable:
            self.sessions.unreachable(event.source, now)
        elif type(event) is Rejected:
            self._reject(event, now)
        elif isinstance(event, (JournalWritten, JournalFailed)):
            self._journal_answered(event, now)
        elif type(event) is DrainRequested:
            self._drain(now)
        elif type(event) is Revoked:
            self._joined = {keys: name for keys, name in self._joined.items() if event.key not in keys}
            self.sessions.revoke(event.key, now)
        elif type(event) is JoinAnswered:
            self._answer_join(event, now)
        for source in self.offences.take_intolerable():
            self.sessions.cut_off(source, now)
        return self._out.effects

    def next_deadline(self) -> float | None:
        times = [
            self._next_sweep,
            self._drain_until,
            self.offences.next_deadline(),
            self.scheduler.dispatcher.next_deadline(),
            self._last_tick if self._questions else None,
        ]
        if not self.draining:
            times.append(self.scheduler.dispatcher.next_placement())
            times.append(self.scheduler.division.next_deadline())
            times.append(self.scheduler.deadlocks.next_deadline())
        return earliest(times)

    def check_invariants(self) -> None:
        self.scheduler.check_invariants()
        self.sessions.check_invariants()

    # --- what arrives ---

    def _receive(self, event: Received, now: float) -> None:
        source, envelope, who = event.source, event.envelope, event.who
        message = envelope.message
        kind = type(message)
        peer = self.sessions.peers.get(source)
        if self._next_sweep is None:
            self._next_sweep = now + SWEEP_INTERVAL
        if peer is not None and peer.who.key != who.key:
            # Although the connection has the same name, it is not that peer's.
            self.offences.note(source, "a message under the name of somebody else's connection", now)
            return
        if kind is m.ClientHello or kind is m.WorkerHello:
            self.sessions.greet(source, envelope, peer, who, now)
            return
        if kind is m.Join:
            assert isinstance(message, m.Join)
            self._join(source, envelope.session, who, message, now)
            return
        if peer is None or not peer.link.takes(envelope):
            if kind is not m.Reset and kind is not m.Goodbye:
                self._out.reply(source, envelope.session, m.Reset())
            return
        if peer.who != who:
            self.sessions.reset(peer)  # its key has another role now, with which it must greet again
            return
        self.sessions.heard(peer)
        messages, acked = peer.link.receive(envelope, now)
        if acked and type(peer) is ClientSession:
            self._outboxes.acknowledged(peer, acked, now)
        handlers = self.CLIENT_MESSAGES if type(peer) is ClientSession else self.WORKER_MESSAGES
        for message in messages:
            if not peer.who.submits and type(message) not in OBSERVING:
                self.offences.refuse(
                    source, envelope.session, OBSERVER_SUBMITS.format(name=peer.who.name), now
                )
                self.sessions.end(peer, "was shut out", now)
                return
            handler = handlers.get(type(message))
            if handler is None:
                self.sessions.unexpected(
                    peer, f"{type(message).__name__} from a peer that may not send it; its session ends", now
                )
                return
            handler(self, peer, message, now)
            if not peer.link.takes(envelope):
                return  # the peer was reset meanwhile, and will send all this again

    def _join(self, source: Source, session: str, who: Principal, message: m.Join, now: float) -> None:
        if message.key == who.key:  # so a peer with a key learns that the key is still known
            self._out.reply(source, session, m.Joined(who.name))
            return
        if who.role != INVITED:
            self.offences.refuse(
                source, session, "only who holds an invitation can join; this is a key already", now
            )
            return
        known = self._joined.get((who.key, message.key))
        if known is not None:  # it repeats itself until it has heard the answer
            self._out.reply(source, session, m.Joined(known))
            return
        self._out.add(JoinRequested(source, session, who, message.key, message.name, message.role))

    def _answer_join(self, event: JoinAnswered, now: float) -> None:
        request = event.request
        if event.error:
            self.offences.refuse(request.source, request.session, event.error, now)
            return
        keys = request.who.key, request.key
        if keys not in self._joined:
            self._joined[keys] = event.name
            self._out.log("info", f"{event.name} has joined: its key is known from now on")
        self._out.reply(request.source, request.session, m.Joined(event.name))

    def _reject(self, event: Rejected, now: float) -> None:
        self.offences.note(event.source, event.reason, now)
        if event.version_mismatch:
            text = (
                f"{event.reason}; this coordinator is jobrunner {self.settings.version}: use the same version"
            )
            self._out.reply(event.source, "", m.Refused(text))

    # --- messages from clients ---

    def _on_submit(self, client: ClientSession, message: m.Submit, now: float) -> None:
        self.admission.submit(client, message, now)

    def _on_watch(self, client: ClientSession, message: m.Watch, now: float) -> None:
        if self.admission.takes_no_answers(client, now):
            return
        for task_id in dict.fromkeys(message.ids):
            self.scheduler.dependencies.watch(client, task_id, now)

    def _on_result_reply(self, client: ClientSession, message: m.ResultReply, now: float) -> None:
        outcomes = [passable(outcome) for outcome in message.outcomes]
        self.scheduler.dependencies.take_reply(client, outcomes, message.unknown, now)

    def _on_resubmission_complete(
        self, client: ClientSession, message: m.ResubmissionComplete, now: float
    ) -> None:
        self.scheduler.client_tasks.resubmission_complete(client.id)

    def _on_cancel(self, client: ClientSession, message: m.Cancel, now: float) -> None:
        if self.admission.takes_no_answers(client, now):
            return
        for request in dict.fromkeys(message.requests):
            self.scheduler.cancellation.cancel(request.id, request.running, now, client)

    def _on_query(self, client: ClientSession, message: m.Query, now: float) -> None:
        if self.admission.takes_no_answers(client, now):
            return
        self._outboxes.will_reply(client)
        if not self._questions.ask(client, message):
            self.sessions.unexpected(client, "too many questions of its key wait; its session ends", now)

    # --- messages from workers ---

    def _on_outcomes(self, worker: WorkerSession, message: m.Outcomes, now: float) -> None:
        journal_gate = self.scheduler.journal_gate
        noted = journal_gate.outcomes_noted
        if any(outcome.status not in m.OF_WORKERS for outcome in message.outcomes):
            self.sessions.unexpected(
                worker, "an outcome that only a coordinator can know; its session ends", now
            )
            return
        if any(payload_size(outcome.payload) > self.settings.max_payload for outcome in message.outcomes):
            self.sessions.unexpected(worker, "a result larger than max_payload; its session ends", now)
            return
        if self._are_unheard(worker, [(outcome.id, outcome.attempt) for outcome in message.outcomes], now):
            return
        for outcome in message.outcomes:
            self.scheduler.attempts.outcome(worker, passable(outcome), now)
        if journal_gate.outcomes_noted > noted:
            journal_gate.hold_acknowledgement(worker.link)

    def _on_running(self, worker: WorkerSession, message: m.Running, now: float) -> None:
        for task_id in message.ids:
            self.scheduler.attempts.started(worker, task_id, now)

    def _on_tasks_returned(self, worker: WorkerSession, message: m.TasksReturned, now: float) -> None:
        if self._are_unheard(worker, message.tasks, now):
            return
        if message.missing_modules:
            self.scheduler.missing_modules.report(worker, message.tasks, message.missing_modules, now)
            return
        for task_id, attempt in reversed(message.tasks):
            self.scheduler.attempts.returned(worker, task_id, attempt, now, begun=message.begun)
        if not message.begun:
            self.scheduler.dispatcher.rest(worker, now)

    def _are_unheard(self, worker: WorkerSession, tasks: list[tuple[TaskId, int]], now: float) -> bool:
        """Return whether the worker ends tasks whose assignment it has not acknowledged; then it is reset.

        Assignments are kept until they are acknowledged, and so might be any number of one task.
        """
        if not any(self.scheduler.attempts.is_unheard(worker, *each) for each in tasks):
            return False
        what = "it is done with a task whose assignment it has not acknowledged; its session ends"
        self.sessions.unexpected(worker, what, now)
        return True

    def _on_cancel_refused(self, worker: WorkerSession, message: m.CancelRefused, now: float) -> None:
        for task_id in message.ids:
            self.scheduler.attempts.cancel_refused(worker, task_id)

    def _on_capacity(self, worker: WorkerSession, message: m.Capacity, now: float) -> None:
        if not worker.draining:
            self.scheduler.stuck_workers.resize(worker, min(message.slots, MAX_SLOTS))

    def _on_stuck(self, worker: WorkerSession, message: m.Stuck, now: float) -> None:
        self.scheduler.stuck_workers.note(worker, message.why[:CUT_TEXT])

    def _on_waits(self, worker: WorkerSession, message: m.Waits, now: float) -> None:
        for wait in message.waits:
            self.scheduler.deadlocks.told(worker, wait)

    def _on_output(self, worker: WorkerSession, message: m.Output, now: float) -> None:
        for chunk in message.chunks:
            client = self.scheduler.ownership.client_with_task_at(worker, chunk.id)
            if client is None or not client.hello.show_output:
                continue
            self._outboxes.add_output(client, chunk)

    def _on_draining(self, worker: WorkerSession, message: m.Drain, now: float) -> None:
        self.sessions.drain(worker)
        self._out.log_about(
            worker, "info", f"worker {worker.name} drains: {len(worker.tasks)} tasks with it", now
        )

    # --- from both ---

    def _on_heartbeat(self, peer: Peer, message: m.Heartbeat, now: float) -> None:
        """Do nothing, because the arrival was noted with the envelope."""

    def _on_goodbye(self, peer: Peer, message: m.Goodbye, now: float) -> None:
        if isinstance(peer, WorkerSession):
            self._out.log_about(peer, "info", f"worker {peer.name} has left", now)
        elif isinstance(peer, ClientSession) and peer.submitted:
            self._out.log_about(peer, "info", f"client {peer.id} has left after {peer.submitted} tasks", now)
        self.sessions.end(peer, "has left", now)

    CLIENT_MESSAGES: ClassVar[Mapping[type, Handler]] = {
        m.Submit: _on_submit,
        m.ResubmissionComplete: _on_resubmission_complete,
        m.Watch: _on_watch,
        m.ResultReply: _on_result_reply,
        m.Cancel: _on_cancel,
        m.Query: _on_query,
        m.Goodbye: _on_goodbye,
        m.Heartbeat: _on_heartbeat,
    }
    """The handlers of the messages that a client may send in its session."""

    WORKER_MESSAGES: ClassVar[Mapping[type, Handler]] = {
        m.Outcomes: _on_outcomes,
        m.Running: _on_running,
        m.TasksReturned: _on_tasks_returned,
        m.CancelRefused: _on_cancel_refused,
        m.Capacity: _on_capacity,
        m.Stuck: _on_stuck,
        m.Waits: _on_waits,
        m.Output: _on_output,
        m.Drain: _on_draining,
        m.Goodbye: _on_goodbye,
        m.Heartbeat: _on_heartbeat,
    }
    """The handlers of the messages that a worker may send in its session."""

    # --- a turn ---

    def _tick(self, now: float) -> None:
        if self._next_sweep is not None:
            late = now - max(self._next_sweep, self._last_tick)
            if late > LATE:
                self._stood_still(late, now)
        self._last_tick = now
        if self._next_sweep is not None and now >= self._next_sweep:
            self._sweep(now)
        self.offences.log_due(now)
        self._answer_questions(now)
        self.scheduler.due(now)
        if not self.draining:
            self.scheduler.deadlocks.look(now)
            self.scheduler.place(now)
            self.scheduler.division.ask(now)
        self.scheduler.attempts.send_withheld()
        self._write_journal()
        self._outboxes.flush(now)
        self._outboxes.announce_capacity(now)
        if self._drain_until is not None:
            idle = not any(worker.tasks for worker in self.scheduler.roster.workers.values())
            if (idle and self.scheduler.journal_gate.idle) or now >= self._drain_until:
                self._leave(now)

    def _answer_questions(self, now: float) -> None:
        def reply(client: ClientSession, query: m.Query) -> int:
            if self.admission.takes_no_answers(client, now):  # it may have got very much since it asked
                return 1
            told = answer(self, client.who, query, now)
            self._out.send(client, told, now, of_value(told.data) + of_value(told.error))
            return looked_at(self, query)

        self._questions.answer(reply)

    def _write_journal(self) -> None:
        """Write the entry of this turn before any message of the turn leaves."""
        write = self.scheduler.journal_gate.take_entry(self.scheduler.functions)
        if write is not None:
            self._out.add(write)

    def _journal_answered(self, event: JournalWritten | JournalFailed, now: float) -> None:
        scheduler = self.scheduler
        failed_before = scheduler.journal_gate.fails
        answered = scheduler.journal_gate.answered(event, now)
        accepted = answered.entry.accepted
        if isinstance(event, JournalFailed):
            # only the first failure is logged, because a growing log does not help on a full disk
            if not failed_before:
                self._out.log("error", event.error)
            held_back = scheduler.attempts.begin_later(answered.begins, now)
            scheduler.submission.refuse([spec.id for spec in accepted], event.error, now)
            scheduler.attempts.note_later(held_back)
        else:
            if failed_before:
                self._out.log("info", "the journal can be written again")
            scheduler.submission.written([spec.id for spec in accepted if spec.body.options.detach])

    def _sweep(self, now: float) -> None:
        """Make the changes that depend on time alone."""
        self.sessions.sweep(now)
        scheduler = self.scheduler
        scheduler.orphans.forget(now, self.settings.client_grace)
        scheduler.endings.forget_outdated_outcomes(now - self.settings.keep_detached)
        scheduler.dependencies.stop_looking(now)
        # Kept outcomes are checked together with other events, so they need no timer of their own.
        busy = scheduler.orphans or scheduler.results.unknown_tasks or self.sessions.need_sweeping
        self._next_sweep = now + SWEEP_INTERVAL if busy else None

    def _stood_still(self, seconds: float, now: float) -> None:
        """Extend all times by a period in which this process did not run, as no peer is to blame for its silence."""
        self.sessions.stood_still(seconds, now)
        self.scheduler.wait_longer(seconds, now)

    # --- leaving ---

    def _drain(self, now: float) -> None:
        if not self.draining:
            self.draining = True
            self._drain_until = now + self.settings.drain_timeout
            left = sum(len(worker.tasks) for worker in self.scheduler.roster.workers.values())
            self._out.log(
                "info", f"draining: {left} tasks are with workers; interrupt again to leave at once"
            )

    def _leave(self, now: float) -> None:
        self._drain_until = None
        self.sessions.say_goodbye(now)
        self._out.add(Stop())

    def drain_worker(self, worker: WorkerSession, now: float) -> None:
        """Drain a worker for an operator."""
        self._out.send(worker, m.Drain(), now)
