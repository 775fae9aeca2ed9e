"""The coordinator's state machine: sessions with clients and workers around one `Scheduler`.

`handle` takes one event and returns effects. Messages that a turn gives rise to are collected in the peers' outboxes
and leave at the turn's `Tick`: one message per peer, kind and turn, however many tasks it is about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jobrunner.config import MAX_PAYLOAD, MAX_SLOTS
from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Account, Quota
from jobrunner.protocol.coordinator.function_table import key_of
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.rejections import QUIET, TOLERATED, Rejections, printable
from jobrunner.protocol.coordinator.reports import answer
from jobrunner.protocol.coordinator.scheduler import Scheduler
from jobrunner.protocol.coordinator.task import TaskRecord
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import (
    Disconnect,
    DrainRequested,
    Effect,
    Event,
    JoinAnswered,
    JoinRequested,
    JournalFailed,
    JournalWritten,
    Log,
    Received,
    Rejected,
    Revoked,
    Send,
    Source,
    Stop,
    Tick,
    Unreachable,
    WriteJournal,
)
from jobrunner.protocol.journal_records import JournalEntry, JournalState
from jobrunner.protocol.link import LATE, Link, welcomed
from jobrunner.protocol.session import RETRY_LIMIT
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import (
    ENTRY_BYTES,
    batches,
    of_call,
    of_definition,
    of_id,
    of_ids,
    of_outcome,
    of_payload,
    of_value,
)
from jobrunner.protocol.wire.checks import MAX_BUFFERS
from jobrunner.protocol.wire.details import CUT_TEXT, passable
from jobrunner.protocol.wire.ids import TaskId, WorkerId, client_of, is_bound, of_observer, unused_name
from jobrunner.protocol.wire.payloads import Payload, buffer_count, kept_size, payload_size
from jobrunner.protocol.wire.principals import INVITED, OPERATOR, WORKER, Principal

OBSERVING = frozenset((m.Query, m.ResubmissionComplete, m.Goodbye, m.Heartbeat))
"""What an observer may send."""

OBSERVER_SUBMITS = (
    "the key {name!r} is an observer's: it sees the status, and may not submit, cancel or fetch"
)

SWEEP_INTERVAL = 0.25
"""Seconds between two looks at every peer: late acknowledgements, heartbeats, losses."""

REATTACH_SECONDS = 1.4 * RETRY_LIMIT
"""Seconds after the start of a coordinator within which the workers of the one before come back."""

OUTCOME_WINDOW = 64 * 1024 * 1024
"""Bytes of outcomes that a client may leave unacknowledged before its further tasks wait."""

MAX_UNREAD = 1000
"""Answers that a client may leave unacknowledged before it gets no more."""

MAX_CLIENTS = 100_000
MAX_OBSERVERS = 1000
"""Clients of one key that are here at a time, or that have gone without a word and have not been missed yet."""

UNTAKEN_BYTES = 16 * OUTCOME_WINDOW
"""Bytes unacknowledged by a client beyond which it is not answered any more. Calls that run when the window is full may
end, and their results add to it."""

UNTAKEN_REPLIES = 16 * 1024 * 1024
"""As UNTAKEN_BYTES, of an observer, who gets nothing but replies and a number of slots."""

MAX_UNTAKEN_SLOTS = 100
"""As MAX_UNREAD, sizes of the cluster, which nobody asks for: beyond that it gets the last one when it has these."""

OUTPUT_WINDOW = 4 * 1024 * 1024
"""Bytes unacknowledged by a client beyond which what its tasks print is dropped rather than kept."""


@dataclass(frozen=True)
class CoordinatorSettings:
    """What the core is told about itself; times in seconds."""

    id: str
    version: str
    address: str = ""
    host: str = ""
    pid: int = 0
    crash_limit: int = 3
    client_grace: float = 30.0
    drain_timeout: float = 60.0
    window_tasks: int = 100_000
    window_bytes: int = 256 * 1024 * 1024
    max_payload: int = MAX_PAYLOAD
    untaken_outcomes: int = 1_000_000
    quota: Quota = NO_QUOTA
    result_cache: int = 64 * 1024 * 1024
    keep_detached: float = 7 * 24 * 3600.0
    hash_seed: int | None = None
    """Of string hashes in all slots of the cluster; None: each slot has its own."""


class CoordinatorCore:
    """See the module. Peers are known by the transport's `source` and by the session that they opened.

    With a `journal` (what it holds at the start), everything accepted is written to it: `effects.WriteJournal`.
    """

    def __init__(
        self, settings: CoordinatorSettings, now: float, journal: JournalState | None = None
    ) -> None:
        self.settings = settings
        self.started = now
        self.scheduler = Scheduler(
            crash_limit=settings.crash_limit,
            result_cache=settings.result_cache,
            journaling=journal is not None,
            quota=settings.quota,
        )
        self.scheduler.reattach_deadline = now + REATTACH_SECONDS
        self._sessions = 0
        self._writes = 0
        self._unwritten: deque[tuple[int, JournalEntry, list[Link], list[tuple[TaskRecord, int]]]] = deque()
        """Entries on their way into the journal, with the links that wait for them to acknowledge something, and the
        calls that wait for them to begin."""
        self._waiting_links: list[Link] = []
        """Those that wait for the entry of this turn."""
        self.journal_fails = False
        """The last entry could not be written."""
        self.draining = False
        self._drain_until: float | None = None
        self.rejections = Rejections()
        self._intolerable: dict[Source, None] = {}
        self._speaker: Principal | None = None
        """Who sent what is being handled; ANYONE also where a key may not connect any more; None: it is no message."""
        self._peers: dict[Source, Peer] = {}
        self._effects: list[Effect] = []
        self._last_tick = now
        self._next_sweep: float | None = None
        self._announced_slots = 0
        if journal is not None:
            self.scheduler.restore(journal, now)
            if journal.tasks or journal.outcomes:
                self._next_sweep = now
        self._handlers: dict[type, Callable[[Any, Any, float], None]] = {
            m.Submit: self._on_submit,
            m.ResubmissionComplete: self._on_resubmission_complete,
            m.Cancel: self._on_cancel,
            m.Query: self._on_query,
            m.Watch: self._on_watch,
            m.ResultReply: self._on_result_reply,
            m.Outcomes: self._on_outcomes,
            m.Running: self._on_running,
            m.TasksReturned: self._on_tasks_returned,
            m.CancelRefused: self._on_cancel_refused,
            m.Capacity: self._on_capacity,
            m.Stuck: self._on_stuck,
            m.Waits: self._on_waits,
            m.Output: self._on_output,
            m.Drain: self._on_draining,
            m.Goodbye: self._on_goodbye,
            m.Heartbeat: self._on_heartbeat,
        }
        self._roles = {
            ClientSession: frozenset(
                (
                    m.Submit,
                    m.ResubmissionComplete,
                    m.Watch,
                    m.ResultReply,
                    m.Cancel,
                    m.Query,
                    m.Goodbye,
                    m.Heartbeat,
                )
            ),
            WorkerSession: frozenset(
                (
                    m.Outcomes,
                    m.Running,
                    m.TasksReturned,
                    m.CancelRefused,
                    m.Capacity,
                    m.Stuck,
                    m.Waits,
                    m.Output,
                    m.Drain,
                    m.Goodbye,
                    m.Heartbeat,
                )
            ),
        }

    # --- the interface of a core ---

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._effects = []
        self._speaker = event.who if isinstance(event, (Received, Rejected)) else None
        if type(event) is Received:
            self._receive(event, now)
        elif type(event) is Tick:
            self._tick(now)
        elif type(event) is Unreachable:
            self._unreachable(event.source, now)
        elif type(event) is Rejected:
            self._reject(event, now)
        elif isinstance(event, (JournalWritten, JournalFailed)):
            self._journal_answered(event, now)
        elif type(event) is DrainRequested:
            self._drain(now)
        elif type(event) is Revoked:
            self._revoke(event.key, now)
        elif type(event) is JoinAnswered:
            self._answer_join(event, now)
        for source in self._intolerable:
            self._cut_off(source, now)
        self._intolerable.clear()
        return self._effects

    def next_deadline(self) -> float | None:
        times = [self._next_sweep, self._drain_until, self.rejections.next_deadline()]
        if self.scheduler.delayed:
            times.append(self.scheduler.delayed[0][0])
        if not self.draining:
            times.append(self.scheduler.division.next_deadline())
            times.append(self.scheduler.deadlocks.next_deadline())
        return earliest(times)

    @property
    def rejected(self) -> int:
        """Messages that could not be taken: malformed, or not what their author may send."""
        return self.rejections.count

    def check_invariants(self) -> None:
        self.scheduler.check_invariants()
        for worker in self.scheduler.workers.values():
            assert self._peers.get(worker.source) is worker
            assert is_bound(worker.id, worker.who.key), f"{worker.id} is another key's"
        for client in self.scheduler.clients.values():
            assert self._peers.get(client.source) is client or not client.source
            if client.who.submits:
                assert not client.source or is_bound(client.id, client.who.key), (
                    f"{client.id} is another key's"
                )
            else:
                assert not client.submitted, f"{client.id} has calls"

    # --- sessions ---

    def _receive(self, event: Received, now: float) -> None:
        source, envelope, who = event.source, event.envelope, event.who
        message = envelope.message
        kind = type(message)
        peer = self._peers.get(source)
        if self._next_sweep is None:
            self._next_sweep = now + SWEEP_INTERVAL
        if peer is not None and peer.who.key != who.key:
            # Whatever its connection is called, it is not that peer.
            self._note_rejection(source, "a message under the name of somebody else's connection", now)
            return
        if kind is m.ClientHello or kind is m.WorkerHello:
            refusal = self._may_not_greet(message, who)
            if refusal:
                self._refuse(source, envelope.session, refusal, now)
            elif not self._is_early(message, who, now):
                self._greet(source, envelope, peer, who, now)
            return
        if kind is m.Join:
            assert isinstance(message, m.Join)
            self._join(source, envelope.session, who, message, now)
            return
        if peer is None or not envelope.session or peer.link.session != envelope.session:
            if kind is not m.Reset and kind is not m.Goodbye:
                self._effects.append(Send(source, m.Envelope(envelope.session, 0, 0, m.Reset())))
            return
        if peer.who != who:
            self._reset(peer)  # its key has another role by now, with which it is to greet again
            return
        self._heard(peer)
        messages, acked = peer.link.receive(envelope, now)
        if acked and type(peer) is ClientSession:
            self._on_acked(peer, acked, now)
        for message in messages:
            if not peer.who.submits and type(message) not in OBSERVING:
                self._refuse(source, envelope.session, OBSERVER_SUBMITS.format(name=peer.who.name), now)
                self._end(peer, "was shut out", now)
                return
            if type(message) not in self._roles[type(peer)]:
                self._unexpected(
                    peer, f"{type(message).__name__} from a peer that may not send it; its session ends", now
                )
                return
            self._handlers[type(message)](peer, message, now)
            if peer.link.session != envelope.session:
                return  # it was reset meanwhile, and will say all this again

    def _may_not_greet(self, hello: Any, who: Principal) -> str:
        """Why a key may not open that session; empty: it may."""
        if type(hello) is m.WorkerHello:
            if who.role not in (WORKER, OPERATOR):
                return f"the key {who.name!r} is a {who.role}'s, and may not run calls: join as a worker"
        elif who.role == INVITED:
            return "an invitation is no key: join with it first"
        token = hello.worker if type(hello) is m.WorkerHello else hello.client
        if not is_bound(token, who.key):
            # Whether or not its owner is here: this coordinator may have been started a moment ago.
            return (
                f"the id {token!r} was not made with the key {who.name!r}, and an id belongs to the key that made it;"
                " a program that did not choose its id itself needs the coordinator's version of jobrunner"
            )
        return "" if type(hello) is m.WorkerHello else self._too_many_like(hello, who)

    def _too_many_like(self, hello: m.ClientHello, who: Principal) -> str:
        """Why one more client of a key is too much; empty: it is not. Each takes some kilobytes, until it is missed."""
        most = MAX_CLIENTS if who.submits else MAX_OBSERVERS
        here = self.scheduler.accounts.clients_of(who.key)
        known = hello.client if who.submits else of_observer(hello.client)
        if not who.key or here < most or known in self.scheduler.clients:
            return ""
        return f"{here:,} programs with the key {who.name!r} are here, and more may not be: end some of them"

    def _join(self, source: Source, session: str, who: Principal, message: m.Join, now: float) -> None:
        if message.key == who.key:  # so who has a key learns that it is still known
            self._effects.append(Send(source, m.Envelope(session, 0, 0, m.Joined(who.name))))
            return
        if who.role != INVITED:
            self._refuse(source, session, "only who holds an invitation can join; this is a key already", now)
            return
        self._effects.append(JoinRequested(source, session, who, message.key, message.name, message.role))

    def _answer_join(self, event: JoinAnswered, now: float) -> None:
        if event.error:
            self._refuse(event.source, event.session, event.error, now)
        else:
            self._log("info", f"{event.name} has joined: its key is known from now on")
            self._effects.append(Send(event.source, m.Envelope(event.session, 0, 0, m.Joined(event.name))))

    def _refuse(self, source: Source, session: str, error: str, now: float) -> None:
        self._note_rejection(source, error, now)
        self._effects.append(Send(source, m.Envelope(session, 0, 0, m.Refused(error, "AuthenticationError"))))

    def _revoke(self, key: str, now: float) -> None:
        """End the sessions of a key, and what it has under way."""
        for peer in [*self.scheduler.workers.values(), *self.scheduler.clients.values()]:
            if peer.who.key == key:
                if peer.source:
                    self._refuse(
                        peer.source, peer.link.session, f"the key {peer.who.name!r} was revoked", now
                    )
                self._end(peer, "was shut out", now)

    def _end(self, peer: Peer, how: str, now: float) -> None:
        """A peer has left, or may not come back."""
        self._peers.pop(peer.source, None)
        peer.link.session = ""  # whatever it may have said after that, nobody is here to mean it
        if isinstance(peer, WorkerSession):
            self.scheduler.worker_lost(peer, how, now)
        elif isinstance(peer, ClientSession):
            self.scheduler.client_gone(peer, now)

    def _heard(self, peer: Peer) -> None:
        peer.unreachable_since = None
        if type(peer) is ClientSession:
            peer.lost_at = None

    def _greet(
        self, source: Source, envelope: m.Envelope, peer: Peer | None, who: Principal, now: float
    ) -> None:
        hello: Any = envelope.message
        if not who.submits:
            # It owns nothing, not even what was submitted with the same key when that had another role.
            hello = replace(hello, client=of_observer(hello.client))
        if peer is not None and peer.greeting == envelope.session and peer.link.session:
            peer.link.last_heard = now
            self._heard(peer)
        elif hello.serial < self._known_serial(hello):
            return  # delivered late: what it says, of the tasks that a worker has say, is not true any more
        else:
            if peer is not None and peer is not self._known_peer(hello):
                self._replaced(peer, now)
            self._sessions += 1
            session = welcomed(envelope.session, self.settings.id, self._sessions)
            link = Link(session, now, hello.peer_timeout)
            if type(hello) is m.ClientHello:
                peer = self._client_session(hello, source, link, who, now)
            else:
                peer = self._worker_session(hello, source, link, who, now)
            peer.greeting, peer.serial = envelope.session, hello.serial
        slots = self.slots()
        settings = self.settings
        welcome = m.Welcome(
            settings.id,
            settings.version,
            slots,
            settings.window_tasks,
            settings.window_bytes,
            peer.link.session,
            settings.max_payload,
            settings.hash_seed,
        )
        self._effects.append(Send(source, m.Envelope(envelope.session, 0, 0, welcome)))

    def _known_serial(self, hello: m.ClientHello | m.WorkerHello) -> int:
        """That of the latest greeting of the same process."""
        peer = self._known_peer(hello)
        return 0 if peer is None else peer.serial

    def _known_peer(self, hello: m.ClientHello | m.WorkerHello) -> Peer | None:
        if isinstance(hello, m.ClientHello):
            return self.scheduler.clients.get(hello.client)
        return self.scheduler.workers.get(hello.worker)

    def _replaced(self, peer: Peer, now: float) -> None:
        """Another one greets on its connection. No jobrunner does that; who was there before cannot be reached."""
        self._note_rejection(peer.source, "a greeting under another name on the same connection", now)
        del self._peers[peer.source]
        peer.link.session = ""
        if isinstance(peer, WorkerSession):
            self.scheduler.worker_lost(peer, "was replaced on its connection", now)
        elif isinstance(peer, ClientSession):
            peer.source = b""
            self._lose_client(peer, now)

    def _client_session(
        self, hello: m.ClientHello, source: Source, link: Link, who: Principal, now: float
    ) -> ClientSession:
        client = self.scheduler.clients.get(hello.client)
        if client is None:
            account = self._account_for(hello, who, now)
            client = self.scheduler.clients[hello.client] = ClientSession(hello, source, link, account, who)
        else:
            client.is_new = not client.source  # it is known only from the journal
            self._move_peer(client, source, link, who)
            client.hello = hello
            client.lost_at = None
            client.resubmission_complete = False
            client.unacked_replies = 0
            client.untaken_slots = 0
            client.outcomes.clear()
            client.resent.clear()
            client.result_requests.clear()
            client.awaiting_resubmission.clear()
            client.forget_unnamed()
            client.accepted.clear()
            for key in sorted(client.function_refs.values()):
                self.scheduler.functions.drop_ref(key)
            client.function_refs.clear()
            self.scheduler.queue.resume(client.id)
        self._peers[source] = client
        return client

    def _is_early(self, hello: Any, who: Principal, now: float) -> bool:
        """Whether it is inside of a call of which it is not known yet whose it is; then it is to greet again."""
        if type(hello) is m.WorkerHello or hello.within is None or who.role != WORKER:
            return False
        return (
            hello.client not in self.scheduler.clients
            and self.scheduler.owner_of(hello.within, who.key, now) is None
        )

    def _account_for(self, hello: m.ClientHello, who: Principal, now: float) -> Account:
        """Calls of a call count as those of who submitted it, if the worker that runs it says so."""
        owner = None
        if hello.within is not None and who.role == WORKER:
            owner = self.scheduler.owner_of(hello.within, who.key, now)
        return self.scheduler.accounts.open(hello.client, who, owner or "")

    def _worker_session(
        self, hello: m.WorkerHello, source: Source, link: Link, who: Principal, now: float
    ) -> WorkerSession:
        scheduler = self.scheduler
        worker = scheduler.workers.get(hello.worker)
        if worker is None:
            name = unused_name(hello.name, scheduler.worker_names)
            worker = WorkerSession(hello, name, source, link, who)
            scheduler.add_worker(worker)
            self._log(
                "info", f"worker {name} joined from {hello.host} (pid {hello.pid}) with {hello.slots} slots"
            )
        else:
            self._move_peer(worker, source, link, who)
            scheduler.resize(worker, hello.slots)
            worker.assigned.clear()
            worker.cancels.clear()
            scheduler.functions.worker_gone(worker.id)
            self._log("info", f"worker {worker.name} has come back")
        self._peers[source] = worker
        worker.draining = False
        scheduler.workers_with_room[worker] = None
        scheduler.reattach(worker, hello.held, now)
        scheduler.refuse_other_pythons(now)
        return worker

    def _move_peer(self, peer: Peer, source: Source, link: Link, who: Principal) -> None:
        self._peers.pop(peer.source, None)
        peer.source = source
        peer.link = link
        peer.who = who
        peer.unreachable_since = None

    def _unexpected(self, peer: Peer, reason: str, now: float) -> None:
        """Well-formed, but nothing that this peer could have meant: start again with it."""
        self._note_rejection(peer.source, reason, now)
        self._reset(peer)

    def _reset(self, peer: Peer) -> None:
        """End a session from this side; the peer opens a new one and says what it has."""
        self._effects.append(Send(peer.source, m.Envelope(peer.link.session, 0, 0, m.Reset())))
        peer.link.session = ""

    def _unreachable(self, source: Source, now: float) -> None:
        peer = self._peers.get(source)
        if peer is not None:
            peer.link.retransmit_soon(now)
            if peer.unreachable_since is None:
                peer.unreachable_since = now

    def _reject(self, event: Rejected, now: float) -> None:
        self._note_rejection(event.source, event.reason, now)
        if event.version_mismatch:
            text = (
                f"{event.reason}; this coordinator is jobrunner {self.settings.version}: use the same version"
            )
            self._effects.append(Send(event.source, m.Envelope("", 0, 0, m.Refused(text))))

    def _note_rejection(self, source: Source, reason: str, now: float) -> None:
        peer = self._peers.get(source)
        speaker = self._speaker
        foreign = peer is not None and speaker is not None and speaker.key != peer.who.key
        if foreign:
            peer = None  # who has that connection is not to blame for what somebody else says in its name
        if isinstance(peer, WorkerSession):
            who = f"worker {peer.name} on {peer.hello.host}"
        elif isinstance(peer, ClientSession):
            who = f"client {peer.id} on {peer.hello.host}"
        else:
            who = f"connection {source[:4].hex()}"  # the whole name would do to take it over
        key = peer.who.key if peer is not None else "" if speaker is None else speaker.key
        label = key.encode() or source
        for line in self.rejections.note(label, who, reason, now, known=bool(key)):
            self._log("warning", line)
        if self.rejections.intolerable(label) and not foreign:
            self._intolerable[source] = None

    def _cut_off(self, source: Source, now: float) -> None:
        """It went on sending what cannot be taken."""
        peer = self._peers.get(source)
        session = "" if peer is None else peer.link.session
        error = f"{TOLERATED} messages of this peer within {QUIET:g} s made no sense here; it is disconnected"
        self._effects.append(Send(source, m.Envelope(session, 0, 0, m.Refused(error))))
        if peer is not None:
            self._end(peer, "was disconnected", now)
        self._effects.append(Disconnect(source))

    # --- messages from clients ---

    def _on_submit(self, client: ClientSession, message: m.Submit, now: float) -> None:
        scheduler = self.scheduler
        if not client.submitted:
            self._log("info", f"client {client.id} on {client.hello.host} (pid {client.hello.pid}) submits")
        if self._takes_no_answers(client, now):
            return
        refused: dict[m.FunctionKey, str] = {}
        for definition in message.functions:
            if definition.parts and not self._has_parts(client, definition, refused):
                wrong = "has parts that were never sent, or that have parts themselves"
                self._unexpected(client, f"the function {definition.name} {wrong}; its session ends", now)
                return
            excess = self._define(client, definition, refused)
            if excess:
                refused[definition.key] = excess
        for spec in message.tasks:
            if client_of(spec.id) != client.id:
                self._unexpected(client, f"task {spec.id} is not its own; its session ends", now)
                return
            if payload_size(spec.payload) > self.settings.max_payload:
                self._unexpected(client, f"task {spec.id} is larger than max_payload; its session ends", now)
                return
            if refused and (spec.function in refused or spec.initializer in refused):
                scheduler.refuse_new(
                    client, spec.id, refused.get(spec.function) or refused[spec.initializer or b""]
                )
                continue
            if client.account.owner:
                spec = of_owner(client, spec)
            if not scheduler.submit(client, spec, now):
                self._unexpected(
                    client, f"task {spec.id} names a function that was never sent; its session ends", now
                )
                return
        for key in message.drop_functions:
            here = client.function_refs.pop(key, None)
            if here is not None:
                scheduler.functions.drop_ref(here)

    def _has_parts(
        self, client: ClientSession, definition: m.FunctionDef, refused: dict[m.FunctionKey, str]
    ) -> bool:
        """Whether this client has sent all of a function's parts, each of which has none."""
        for part in definition.parts:
            here = client.function_refs.get(part)
            entry = None if here is None else self.scheduler.functions.get(here)
            if part not in refused and (entry is None or entry.parts):
                return False
        return True

    def _define(
        self, client: ClientSession, definition: m.FunctionDef, refused: dict[m.FunctionKey, str]
    ) -> str:
        """Keep a function for a client's calls. Why that is too much; empty: it is not."""
        if definition.key in client.function_refs:
            return ""
        for part in definition.parts:
            if part in refused:
                return refused[part]
        functions = self.scheduler.functions
        key = key_of(client.account.owner, definition.key)
        if functions.get(key) is None:
            size = payload_size(definition.blob)
            if size > self.settings.max_payload:
                return f"its function has {size:,} bytes, and may have {self.settings.max_payload:,} (max_payload)"
            excess = client.account.bytes_excess(kept_size(definition.blob), self.settings.quota)
            if excess:
                return excess
            pieces = buffer_count(definition.blob)
            for part in definition.parts:
                entry = functions.get(client.function_refs[part])
                pieces += 0 if entry is None else buffer_count(entry.definition.blob)
            if pieces > MAX_BUFFERS:
                return f"its function and its parts are of {pieces:,} buffers, and may be of {MAX_BUFFERS:,}"
        parts = tuple([client.function_refs[part] for part in definition.parts])
        functions.define(definition._replace(key=key, parts=parts), client.account).refs += 1
        client.function_refs[definition.key] = key
        return ""

    def _on_watch(self, client: ClientSession, message: m.Watch, now: float) -> None:
        if self._takes_no_answers(client, now):
            return
        for task_id in dict.fromkeys(message.ids):
            self.scheduler.dependencies.watch(client, task_id, now)

    def _on_result_reply(self, client: ClientSession, message: m.ResultReply, now: float) -> None:
        outcomes = [passable(outcome) for outcome in message.outcomes]
        self.scheduler.dependencies.take_reply(client, outcomes, message.unknown, now)

    def _on_resubmission_complete(
        self, client: ClientSession, message: m.ResubmissionComplete, now: float
    ) -> None:
        self.scheduler.resubmission_complete(client.id)

    def _on_cancel(self, client: ClientSession, message: m.Cancel, now: float) -> None:
        if self._takes_no_answers(client, now):
            return
        for request in dict.fromkeys(message.requests):
            self.scheduler.cancel(request.id, request.running, now, client)

    def _on_query(self, client: ClientSession, message: m.Query, now: float) -> None:
        if self._takes_no_answers(client, now):
            return
        client.unacked_replies += 1
        reply = answer(self, client.who, message, now)
        self._send(client, reply, now, of_value(reply.data) + of_value(reply.error))

    def _takes_no_answers(self, client: ClientSession, now: float) -> bool:
        """Whether it asks for more while it leaves too much of what it was told unacknowledged; then it is reset.

        No jobrunner does: acknowledgements come from its I/O thread. Its answers would fill this host's memory.
        """
        left = max(len(client.done), len(client.outcomes), len(client.awaiting_resubmission))
        if (
            left <= self.settings.untaken_outcomes
            and client.unacked_replies <= MAX_UNREAD
            and client.link.unacked_bytes <= (UNTAKEN_BYTES if client.who.submits else UNTAKEN_REPLIES)
        ):
            return False
        told = f"{left} outcomes, {client.unacked_replies} answers"
        self._unexpected(client, f"it does not acknowledge what it is told ({told}); its session ends", now)
        self._give_up_untaken(client, now)
        return True

    def _give_up_untaken(self, peer: Peer, now: float) -> None:
        """It gets nothing more of what it was told in this session."""
        if isinstance(peer, ClientSession):
            self.scheduler.forget_untaken_outcomes(peer)
        peer.link = Link("", now, peer.link.peer_timeout)

    def _on_acked(self, client: ClientSession, acked: list[m.Message], now: float) -> None:
        for message in acked:
            if type(message) is m.Outcomes:
                self.scheduler.acknowledged(client, message.outcomes)
            elif type(message) is m.Reply:
                client.unacked_replies -= 1
            elif type(message) is m.Capacity:
                client.untaken_slots -= 1
                if not client.untaken_slots and message.slots != self._announced_slots:
                    self._tell_slots(client, now)
        if client.link.unacked_bytes < OUTCOME_WINDOW:
            self.scheduler.queue.resume(client.id)

    # --- messages from workers ---

    def _on_outcomes(self, worker: WorkerSession, message: m.Outcomes, now: float) -> None:
        kept = len(self.scheduler.entry.outcomes)
        if any(outcome.status not in m.OF_WORKERS for outcome in message.outcomes):
            self._unexpected(worker, "an outcome that only a coordinator can know; its session ends", now)
            return
        if any(payload_size(outcome.payload) > self.settings.max_payload for outcome in message.outcomes):
            self._unexpected(worker, "a result larger than max_payload; its session ends", now)
            return
        for outcome in message.outcomes:
            self.scheduler.outcome(worker, passable(outcome), now)
        if len(self.scheduler.entry.outcomes) > kept:
            self._acknowledge_once_written(worker)

    def _on_running(self, worker: WorkerSession, message: m.Running, now: float) -> None:
        for task_id in message.ids:
            self.scheduler.started(worker, task_id, now)

    def _on_tasks_returned(self, worker: WorkerSession, message: m.TasksReturned, now: float) -> None:
        if message.missing_modules:
            self.scheduler.missing_modules.report(worker, message.tasks, message.missing_modules, now)
            return
        for task_id, attempt in reversed(message.tasks):
            self.scheduler.returned(worker, task_id, attempt, now, begun=message.begun)

    def _on_cancel_refused(self, worker: WorkerSession, message: m.CancelRefused, now: float) -> None:
        for task_id in message.ids:
            self.scheduler.cancel_refused(worker, task_id)

    def _on_capacity(self, worker: WorkerSession, message: m.Capacity, now: float) -> None:
        if not worker.draining:
            self.scheduler.capacity(worker, min(message.slots, MAX_SLOTS))

    def _on_stuck(self, worker: WorkerSession, message: m.Stuck, now: float) -> None:
        self.scheduler.stuck(worker, message.why[:CUT_TEXT], now)

    def _on_waits(self, worker: WorkerSession, message: m.Waits, now: float) -> None:
        for wait in message.waits:
            self.scheduler.deadlocks.told(worker, wait)

    def _on_output(self, worker: WorkerSession, message: m.Output, now: float) -> None:
        for chunk in message.chunks:
            client = self.scheduler.client_with_task_at(worker, chunk.id)
            if client is None or not client.hello.show_output:
                continue
            room = OUTPUT_WINDOW - client.output_characters
            if room > 0:
                client.output.append(chunk._replace(text=chunk.text[:room]))
                client.output_characters += len(chunk.text) + ENTRY_BYTES
                self.scheduler.pending_flush[client] = None

    def _on_draining(self, worker: WorkerSession, message: m.Drain, now: float) -> None:
        worker.draining = True
        self.scheduler.resize(worker, 0)
        self.scheduler.workers_with_room.pop(worker, None)
        self._log("info", f"worker {worker.name} drains: {len(worker.tasks)} tasks with it")

    # --- from both ---

    def _on_heartbeat(self, peer: Peer, message: m.Heartbeat, now: float) -> None:
        """Its arrival was noted with the envelope."""

    def _on_goodbye(self, peer: Peer, message: m.Goodbye, now: float) -> None:
        if isinstance(peer, WorkerSession):
            self._log("info", f"worker {peer.name} has left")
        elif isinstance(peer, ClientSession) and peer.submitted:
            self._log("info", f"client {peer.id} has left after {peer.submitted} tasks")
        self._end(peer, "has left", now)

    # --- the end of a turn ---

    def _tick(self, now: float) -> None:
        if self._next_sweep is not None:
            late = now - max(self._next_sweep, self._last_tick)
            if late > LATE:
                self._stood_still(late, now)
        self._last_tick = now
        if self._next_sweep is not None and now >= self._next_sweep:
            self._sweep(now)
        for line in self.rejections.due(now):
            self._log("warning", line)
        self.scheduler.due(now)
        if not self.draining:
            self.scheduler.deadlocks.look(now)
            self.scheduler.place(now)
            self.scheduler.division.ask(now)
        self.scheduler.send_withheld()
        self._write_journal()
        self._flush(now)
        self._announce_capacity(now)
        if self._drain_until is not None:
            idle = not any(worker.tasks for worker in self.scheduler.workers.values())
            if (idle and not self._unwritten) or now >= self._drain_until:
                self._leave(now)

    def _stood_still(self, seconds: float, now: float) -> None:
        """This process did not run for so long: nobody else is to blame for the silence, or could have come back."""
        for peer in self._peers.values():
            peer.link.stood_still(seconds, now)
            if peer.unreachable_since is not None:
                peer.unreachable_since += seconds
        for client in self.scheduler.clients.values():
            if client.lost_at is not None:
                client.lost_at += seconds
        self.scheduler.wait_longer(seconds, now)

    # --- the journal ---

    def _acknowledge_once_written(self, worker: WorkerSession) -> None:
        """What was just received, an outcome to be kept, stays the worker's until the journal has it."""
        worker.link.hold(self._writes + 1)
        self._waiting_links.append(worker.link)

    def _write_journal(self) -> None:
        """All that this turn has to keep, as one entry; before anything of it leaves."""
        entry = self.scheduler.entry
        if not entry:
            return
        self.scheduler.entry = JournalEntry()
        defined: dict[m.FunctionKey, None] = {}
        for spec in entry.accepted:
            defined[spec.function] = None
            if spec.initializer is not None:
                defined[spec.initializer] = None
        written: dict[m.FunctionKey, m.FunctionDef] = {}
        for key in defined:
            function = self.scheduler.functions.get(key)
            if function is not None:  # else all tasks that name it have ended within this turn
                written.update((each.definition.key, each.definition) for each in (*function.parts, function))
        entry.functions += written.values()
        self._writes += 1
        self._unwritten.append((self._writes, entry, self._waiting_links, self.scheduler.begins))
        self._waiting_links, self.scheduler.begins = [], []
        self._effects.append(WriteJournal(self._writes, entry))

    def _journal_answered(self, event: JournalWritten | JournalFailed, now: float) -> None:
        number, entry, links, begins = self._unwritten.popleft()
        assert number == event.number
        for link in links:
            link.release(number, now)
        failed_before, self.journal_fails = self.journal_fails, isinstance(event, JournalFailed)
        if isinstance(event, JournalFailed):
            if not failed_before:  # and not each time: a log that grows on a full disk helps nobody
                self._log("error", event.error)
            held_back = self.scheduler.begin_later(begins, now)
            self.scheduler.refuse([spec.id for spec in entry.accepted], event.error, now)
            self.scheduler.note_later(held_back)
        else:
            if failed_before:
                self._log("info", "the journal can be written again")
            self.scheduler.begin(begins)
            self.scheduler.written([spec.id for spec in entry.accepted if spec.options.detach])

    def _flush(self, now: float) -> None:
        scheduler = self.scheduler
        # First what is to be forgotten: a function may have gone and come back within this turn.
        for worker_id, keys in scheduler.functions.take_forgotten().items():
            forgetful = scheduler.workers.get(worker_id)
            if forgetful is not None:
                for some in batches(keys, of_key):
                    self._send(forgetful, m.DropFunctions(some), now)
        while scheduler.pending_flush:
            peer = scheduler.pending_flush.popitem()[0]
            if isinstance(peer, WorkerSession):
                if scheduler.workers.get(peer.id) is peer:
                    self._flush_worker(peer, now)
            elif isinstance(peer, ClientSession) and scheduler.clients.get(peer.id) is peer:
                self._flush_client(peer, now)

    def _flush_client(self, client: ClientSession, now: float) -> None:
        client.resent.clear()
        if not client.source:  # not back yet; it will name what it waits for
            for waiting in (
                client.outcomes,
                client.running,
                client.refused,
                client.result_requests,
                client.accepted,
            ):
                waiting.clear()
            client.output, client.output_characters = [], 0
            return
        if client.accepted:
            self._send_ids(client, m.Accepted, client.accepted, now)
            client.accepted = []
        if client.result_requests:
            unknown = [
                dependency
                for dependency in client.result_requests
                if dependency in self.scheduler.results.unknown_tasks
            ]
            client.result_requests = []
            self._send_ids(client, m.ResultRequest, unknown, now)
        if client.output:
            if client.link.unacked_bytes < OUTPUT_WINDOW:
                size = sum(len(chunk.text) for chunk in client.output)
                self._send(client, m.Output(client.output), now, size)
            client.output, client.output_characters = [], 0
        if client.outcomes:
            for batch in batches(client.outcomes, of_outcome):
                size = sum(payload_size(o.payload) + (of_outcome(o) if o.detail else 0) for o in batch)
                self._send(client, m.Outcomes(batch), now, size)
            client.outcomes = []
            if client.link.unacked_bytes >= OUTCOME_WINDOW:
                self.scheduler.queue.backpressured.add(client.id)
        if client.running:  # behind the outcomes: of one that is divided they tell the name of what runs on
            self._send_ids(client, m.Running, client.running, now)
            client.running = []
        if client.refused:
            self._send_ids(client, m.CancelRefused, client.refused, now)
            client.refused = []
        if client.cancels and client.resubmission_complete:  # before, it might not have named them yet
            requests = [m.CancelRequest(call, running) for call, running in client.cancels.items()]
            self._send_cancels(client, requests, now)
            client.cancels = {}

    def _flush_worker(self, worker: WorkerSession, now: float) -> None:
        # Cancels first: none of them is meant for what is assigned in this very turn.
        if worker.cancels:
            self._send_cancels(worker, worker.cancels, now)
            worker.cancels = []
        if worker.divides:
            self._send_ids(worker, m.Divide, worker.divides, now)
            worker.divides = []
        assigned, worker.assigned = worker.assigned, []
        groups: dict[str, list[TaskRecord]] = {}
        for record in assigned:
            groups.setdefault(record.client.account.owner, []).append(record)
        for owner, records in groups.items():
            for batch in batches(records, lambda record: of_record(record, worker)):
                self._send_assigned(worker, owner, batch, now)

    def _send_assigned(
        self, worker: WorkerSession, owner: str, records: list[TaskRecord], now: float
    ) -> None:
        tasks, size = [], 0
        functions: list[m.FunctionDef] = []
        for record in records:
            for entry in (record.function, record.initializer):
                if entry is not None and worker.id not in entry.known_by:
                    functions += entry.untold(worker.id)
            payload = record.payload
            size += payload_size(payload)
            values: tuple[Payload, ...] = ()
            if record.depends_on:
                assert record.dependency_results is not None
                values = tuple([record.dependency_results[dependency] for dependency in record.depends_on])
                size += sum(map(payload_size, values))
            tasks.append(
                m.Assignment(
                    record.id,
                    record.attempt,
                    record.function.definition.key,
                    payload,
                    record.span,
                    record.options,
                    None if record.initializer is None else record.initializer.definition.key,
                    record.depth,
                    values,
                    record.unbegun,
                )
            )
        size += sum([payload_size(definition.blob) for definition in functions])
        self._send(worker, m.Assign(tasks, functions, owner), now, size)

    def _announce_capacity(self, now: float) -> None:
        if not self.scheduler.resized:
            return
        self.scheduler.resized = False
        slots = self.slots()
        if slots != self._announced_slots:
            self._announced_slots = slots
            for client in self.scheduler.clients.values():
                if client.source and client.untaken_slots < MAX_UNTAKEN_SLOTS:
                    self._tell_slots(client, now)

    def _tell_slots(self, client: ClientSession, now: float) -> None:
        client.untaken_slots += 1
        self._send(client, m.Capacity(self._announced_slots), now)

    def _send_ids(
        self, peer: Peer, kind: Callable[[list[TaskId]], m.Message], ids: list[TaskId], now: float
    ) -> None:
        for some in batches(ids, of_id):
            self._send(peer, kind(some), now, of_ids(some))

    def _send_cancels(self, peer: Peer, requests: list[m.CancelRequest], now: float) -> None:
        for some in batches(requests, lambda request: of_id(request.id)):
            self._send(peer, m.Cancel(some), now, of_ids([request.id for request in some]))

    def _send(self, peer: Peer, message: m.Message, now: float, size: int = 0) -> None:
        self._effects.append(Send(peer.source, peer.link.send(message, now, size)))

    def _sweep(self, now: float) -> None:
        for source, peer in list(self._peers.items()):
            if peer.lost(now):
                if isinstance(peer, WorkerSession):
                    del self._peers[source]
                    self._log(
                        "warning", f"worker {peer.name} is lost; its {len(peer.tasks)} tasks are queued again"
                    )
                    self.scheduler.worker_lost(peer, "was lost", now)
                elif isinstance(peer, ClientSession):
                    self._lose_client(peer, now)
                continue
            if peer.link.stalled(now):
                self._unexpected(peer, "it does not acknowledge what it is told; its session ends", now)
                self._give_up_untaken(peer, now)
            for envelope in peer.link.due(now):
                self._effects.append(Send(source, envelope))
        scheduler = self.scheduler
        for client in [c for c in scheduler.clients.values() if not c.source]:
            self._lose_client(client, now)
        scheduler.forget_orphaned(now, self.settings.client_grace)
        scheduler.forget_outdated_outcomes(now - self.settings.keep_detached)
        scheduler.dependencies.stop_looking(now)
        # Kept outcomes are looked at whenever something else is; they need no timer of their own.
        busy = (
            scheduler.orphaned
            or scheduler.results.unknown_tasks
            or any(not client.source for client in scheduler.clients.values())
            or any(peer.link.next_deadline() is not None for peer in self._peers.values())
        )
        self._next_sweep = now + SWEEP_INTERVAL if busy else None

    def _lose_client(self, client: ClientSession, now: float) -> None:
        if client.lost_at is None:
            client.lost_at = now
            if client.unfinished:
                grace = f"they end after {self.settings.client_grace:g} s unless it comes back"
                self._log("warning", f"client {client.id} is lost, with {client.unfinished} tasks; {grace}")
        if now - client.lost_at >= self.settings.client_grace or not (client.unfinished or client.done):
            self._peers.pop(client.source, None)
            self.scheduler.client_gone(client, now)

    # --- leaving ---

    def _drain(self, now: float) -> None:
        if not self.draining:
            self.draining = True
            self._drain_until = now + self.settings.drain_timeout
            left = sum(len(worker.tasks) for worker in self.scheduler.workers.values())
            self._log("info", f"draining: {left} tasks are with workers; interrupt again to leave at once")

    def _leave(self, now: float) -> None:
        self._drain_until = None
        for peer in self._peers.values():
            self._send(peer, m.Goodbye("the coordinator has stopped"), now)
        self._effects.append(Stop())

    # --- small things ---

    def slots(self) -> int:
        """The size of the cluster."""
        return self.scheduler.slots

    def drain_worker(self, worker: WorkerSession, now: float) -> None:
        """An operator asked for it."""
        self._send(worker, m.Drain(), now)

    def worker_named(self, name: str) -> WorkerSession | None:
        known = self.scheduler.workers.get(
            WorkerId(name)
        )  # first, for anybody may call itself like somebody's id
        if known is not None:
            return known
        return next((worker for worker in self.scheduler.workers.values() if name == worker.name), None)

    def _log(self, level: str, text: str) -> None:
        self._effects.append(Log(level, printable(text)))


def of_record(record: TaskRecord, worker: WorkerSession) -> int:
    """What a task takes of an Assign beside the bytes of its payloads: of the header, and of the number of frames."""
    size = of_call(record.options, record.depends_on) + of_payload(record.payload)
    if record.depends_on:
        assert record.dependency_results is not None
        size += sum([of_payload(record.dependency_results[dependency]) for dependency in record.depends_on])
    for entry in (record.function, record.initializer):
        if entry is not None and worker.id not in entry.known_by:
            size += sum([of_definition(each.definition) for each in (entry, *entry.parts)])
    return size


def of_key(key: m.FunctionKey) -> int:
    return len(key)


UNKNOWN_FUNCTION = b""
"""The key of none."""


def of_owner(client: ClientSession, spec: m.TaskSpec) -> m.TaskSpec:
    """A call of functions that this client has sent, under the keys that these have here."""
    function = client.function_refs.get(spec.function, UNKNOWN_FUNCTION)
    initializer = (
        None if spec.initializer is None else client.function_refs.get(spec.initializer, UNKNOWN_FUNCTION)
    )
    return spec._replace(function=function, initializer=initializer)
