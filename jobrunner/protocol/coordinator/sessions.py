"""Sessions of clients and workers with the coordinator: greeting, coming back, silence and loss.

A peer is known by its id, which is bound to the key that created it, and by the transport's `source` while a session is
open. A peer that greets again under its id continues where it was; docs/theory.md describes what each side then sends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from jobrunner.protocol.coordinator.accounts import Account, Accounts
from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.client_tasks import ClientTasks
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.offences import Offences
from jobrunner.protocol.coordinator.outgoing import Outgoing
from jobrunner.protocol.coordinator.ownership import Ownership
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.rejections import QUIET, TOLERATED
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.coordinator.submission import Submission
from jobrunner.protocol.effects import Disconnect, Send, Source
from jobrunner.protocol.link import EarlyBudget, Link, welcomed
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import is_bound, of_observer, unused_name
from jobrunner.protocol.wire.principals import INVITED, OPERATOR, WORKER, Principal

MAX_CLIENTS = 100_000
MAX_OBSERVERS = 1000
"""Maximum number of clients of one key that are connected, or have gone without a message and have not been missed yet,
because each takes some kilobytes."""

MAX_WORKERS = 10_000
"""Maximum number of workers of one key."""


class Sessions:
    """The peers that have an open session, and the beginning and end of sessions. Only this class writes `peers`."""

    def __init__(
        self,
        *,
        settings: CoordinatorSettings,
        out: Outgoing,
        offences: Offences,
        peers: dict[Source, Peer],
        roster: Roster,
        accounts: Accounts,
        functions: FunctionTable,
        dispatcher: Dispatcher,
        endings: Endings,
        attempts: Attempts,
        submission: Submission,
        client_tasks: ClientTasks,
        ownership: Ownership,
    ) -> None:
        self.peers = peers
        self._settings = settings
        self._roster = roster
        self._accounts = accounts
        self._functions = functions
        self._dispatcher = dispatcher
        self._endings = endings
        self._attempts = attempts
        self._submission = submission
        self._client_tasks = client_tasks
        self._ownership = ownership
        self._out = out
        self._offences = offences
        self._opened = 0
        """Number of sessions that were ever opened."""
        self._early_budgets: WeakValueDictionary[str, EarlyBudget] = WeakValueDictionary()
        """The budget of each key for early messages, as long as a link has it."""

    # --- their beginning ---

    def greet(
        self, source: Source, envelope: m.Envelope, peer: Peer | None, who: Principal, now: float
    ) -> None:
        """Handle the greeting of a client or worker; `peer` is the one that has a session on this connection."""
        refusal = self._may_not_greet(envelope.message, who)
        if refusal:
            self._offences.refuse(source, envelope.session, refusal, now)
        elif not self._is_early(envelope.message, who, now):
            self._open(source, envelope, peer, who, now)

    def _may_not_greet(self, hello: Any, who: Principal) -> str:
        """Return why a key may not open that session, or an empty string."""
        if type(hello) is m.WorkerHello:
            if who.role not in (WORKER, OPERATOR):
                return f"the key {who.name!r} is a {who.role}'s, and may not run calls: join as a worker"
        elif who.role == INVITED:
            return "an invitation is no key: join with it first"
        token = hello.worker if type(hello) is m.WorkerHello else hello.client
        if not is_bound(token, who.key):
            # This does not depend on whether the id's owner is here, because this coordinator may just have been
            # started.
            return (
                f"the id {token!r} was not made with the key {who.name!r}, and an id belongs to the key that made it;"
                " a program that did not choose its id itself needs the coordinator's version of jobrunner"
            )
        return self._too_many_like(hello, who)

    def _too_many_like(self, hello: m.ClientHello | m.WorkerHello, who: Principal) -> str:
        """Return why one more peer of a key is too much, or an empty string.

        Each peer takes some kilobytes until it is missed.
        """
        roster = self._roster
        if isinstance(hello, m.WorkerHello):
            what, most, here = "workers", MAX_WORKERS, roster.workers_of(who.key)
            known = hello.worker in roster.workers
        else:
            what, most = "programs", MAX_CLIENTS if who.submits else MAX_OBSERVERS
            here = roster.clients_of(who.key)
            known = (hello.client if who.submits else of_observer(hello.client)) in roster.clients
        if not who.key or here < most or known:
            return ""
        return f"{here:,} {what} with the key {who.name!r} are here, and more may not be: end some of them"

    def _open(
        self, source: Source, envelope: m.Envelope, peer: Peer | None, who: Principal, now: float
    ) -> None:
        hello: Any = envelope.message
        if not who.submits:
            # An observer owns nothing, not even tasks that were submitted with the same key when that had another role.
            hello = replace(hello, client=of_observer(hello.client))
        if peer is not None and peer.greeting == envelope.session and peer.link.is_open:
            peer.link.last_heard = now
            self.heard(peer)
        elif hello.serial < self._known_serial(hello):
            return  # the greeting is late, so its contents, such as the tasks of a worker, are outdated
        else:
            if peer is not None and peer is not self._known_peer(hello):
                self._replaced(peer, now)
            self._opened += 1
            session = welcomed(envelope.session, self._settings.id, self._opened)
            link = Link(session, now, hello.peer_timeout, self._early_budget(who))
            if type(hello) is m.ClientHello:
                peer = self._client_session(hello, source, link, who, now)
            else:
                peer = self._worker_session(hello, source, link, who, now)
            peer.greeting, peer.serial = envelope.session, hello.serial
        slots = self._roster.slots
        settings = self._settings
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
        self._out.reply(source, envelope.session, welcome)

    def _early_budget(self, who: Principal) -> EarlyBudget:
        """Return the common budget of all peers of a key, because its holder may open a hundred thousand sessions."""
        budget = self._early_budgets.get(who.key)
        if budget is None:
            budget = EarlyBudget()
            if who.key:
                self._early_budgets[who.key] = budget
        return budget

    def _known_serial(self, hello: m.ClientHello | m.WorkerHello) -> int:
        """Return the serial number of the latest greeting of the same process."""
        peer = self._known_peer(hello)
        return 0 if peer is None else peer.serial

    def _known_peer(self, hello: m.ClientHello | m.WorkerHello) -> Peer | None:
        if isinstance(hello, m.ClientHello):
            return self._roster.clients.get(hello.client)
        return self._roster.workers.get(hello.worker)

    def _client_session(
        self, hello: m.ClientHello, source: Source, link: Link, who: Principal, now: float
    ) -> ClientSession:
        client = self._roster.clients.get(hello.client)
        if client is None:
            account = self._account_for(hello, who, now)
            client = ClientSession(hello, source, link, account, who)
            self._roster.add_client(client)
        else:
            client.is_new = not client.connected  # otherwise it is known only from the journal
            self._move_peer(client, source, link, who)
            client.hello = hello
            client.begin_session()
            for key in client.take_function_refs():
                self._functions.drop_ref(key)
            self._dispatcher.queue.resume(client.id)
        self.peers[source] = client
        return client

    def _is_early(self, hello: Any, who: Principal, now: float) -> bool:
        """Return whether the client is inside of a call whose owner is not known yet, so that it must greet again."""
        if type(hello) is m.WorkerHello or hello.within is None or who.role != WORKER:
            return False
        return (
            hello.client not in self._roster.clients
            and self._ownership.owner_of(hello.within, who.key, now) is None
        )

    def _account_for(self, hello: m.ClientHello, who: Principal, now: float) -> Account:
        """Return the account of a client; calls of a call belong to that call's owner if its worker confirms it."""
        owner = None
        if hello.within is not None and who.role == WORKER:
            owner = self._ownership.owner_of(hello.within, who.key, now)
        return self._accounts.open(hello.client, who, owner or "")

    def _worker_session(
        self, hello: m.WorkerHello, source: Source, link: Link, who: Principal, now: float
    ) -> WorkerSession:
        worker = self._roster.workers.get(hello.worker)
        if worker is None:
            name = unused_name(hello.name, self._roster.worker_names)
            worker = WorkerSession(replace(hello, held=[]), name, source, link, who)
            self._dispatcher.add_worker(worker)
            self._out.log_about(
                worker,
                "info",
                f"worker {name} joined from {hello.host} (pid {hello.pid}) with {hello.slots} slots",
                now,
            )
        else:
            self._move_peer(worker, source, link, who)
            self._roster.resize(worker, hello.slots)
            worker.assigned.clear()
            worker.cancels.clear()
            self._functions.worker_gone(worker.id)
            self._out.log_about(worker, "info", f"worker {worker.name} has come back", now)
        self.peers[source] = worker
        worker.draining = False
        self._roster.may_have_room(worker)
        self._attempts.reattach(worker, hello.held, now)
        self._submission.refuse_other_pythons(now)
        return worker

    def _move_peer(self, peer: Peer, source: Source, link: Link, who: Principal) -> None:
        self.peers.pop(peer.source, None)
        peer.source = source
        peer.renew_link(link)
        peer.who = who
        peer.unreachable_since = None

    # --- their end ---

    def end(self, peer: Peer, how: str, now: float) -> None:
        """End the session of a peer that has left, or may not come back."""
        self.peers.pop(peer.source, None)
        peer.link.close()  # later messages of the peer count for nobody
        if isinstance(peer, WorkerSession):
            self._attempts.worker_lost(peer, how, now)
        elif isinstance(peer, ClientSession):
            self._client_tasks.gone(peer, now)

    def drain(self, worker: WorkerSession) -> None:
        """Give a worker no further tasks, because it is to leave."""
        worker.draining = True
        self._roster.resize(worker, 0)
        self._roster.has_no_room(worker)

    def heard(self, peer: Peer) -> None:
        peer.unreachable_since = None
        if type(peer) is ClientSession:
            peer.lost_at = None

    def _replaced(self, peer: Peer, now: float) -> None:
        """Lose a peer on whose connection another one greets, because it cannot be reached.

        No peer of this package does that.
        """
        self._offences.note(peer.source, "a greeting under another name on the same connection", now)
        del self.peers[peer.source]
        peer.link.close()
        if isinstance(peer, WorkerSession):
            self._attempts.worker_lost(peer, "was replaced on its connection", now)
        elif isinstance(peer, ClientSession):
            peer.disconnect()
            self._lose_client(peer, now)

    def unexpected(self, peer: Peer, reason: str, now: float) -> None:
        """Reset the session of a peer after a well-formed message that it should not have sent."""
        self._offences.note(peer.source, reason, now)
        self.reset(peer)

    def reset(self, peer: Peer) -> None:
        """End a session from this side; the peer opens a new one and names its tasks."""
        self._out.reply(peer.source, peer.link.session, m.Reset())
        peer.link.close()

    def unreachable(self, source: Source, now: float) -> None:
        peer = self.peers.get(source)
        if peer is not None:
            peer.link.retransmit_soon(now)
            if peer.unreachable_since is None:
                peer.unreachable_since = now

    def revoke(self, key: str, now: float) -> None:
        """End the sessions of a key and its tasks."""
        for peer in [*self._roster.workers.values(), *self._roster.clients.values()]:
            if peer.who.key == key:
                if peer.connected:
                    self._offences.refuse(
                        peer.source,
                        peer.link.session,
                        f"the key {peer.who.name!r} was revoked; `jobrunner keys invite` on the coordinator's host"
                        " prints a line to join again with",
                        now,
                    )
                self.end(peer, "was shut out", now)

    def cut_off(self, source: Source, now: float) -> None:
        """Disconnect a peer that continued to send unacceptable messages."""
        peer = self.peers.get(source)
        session = "" if peer is None else peer.link.session
        error = f"{TOLERATED} messages of this peer within {QUIET:g} s made no sense here; it is disconnected"
        self._out.reply(source, session, m.Refused(error))
        if peer is not None:
            self.end(peer, "was disconnected", now)
        self._out.add(Disconnect(source))

    def give_up_untaken(self, peer: Peer, now: float) -> None:
        """Drop the messages of this session that the peer has not acknowledged."""
        if isinstance(peer, ClientSession):
            self._endings.forget_untaken_outcomes(peer)
        peer.renew_link(Link("", now, peer.link.peer_timeout))

    def _lose_client(self, client: ClientSession, now: float) -> None:
        if client.lost_at is None:
            client.lost_at = now
            if client.unfinished:
                grace = f"they end after {self._settings.client_grace:g} s unless it comes back"
                self._out.log_about(
                    client,
                    "warning",
                    f"client {client.id} is lost, with {client.unfinished} tasks; {grace}",
                    now,
                )
        if now - client.lost_at >= self._settings.client_grace or not (client.unfinished or client.done):
            self.peers.pop(client.source, None)
            self._client_tasks.gone(client, now)

    # --- silence ---

    def sweep(self, now: float) -> None:
        """Check every peer for late acknowledgements, due heartbeats and losses."""
        for source, peer in list(self.peers.items()):
            if peer.lost(now):
                if isinstance(peer, WorkerSession):
                    del self.peers[source]
                    self._out.log_about(
                        peer,
                        "warning",
                        f"worker {peer.name} is lost; its {len(peer.tasks)} tasks run again or end",
                        now,
                    )
                    self._attempts.worker_lost(peer, "was lost", now)
                elif isinstance(peer, ClientSession):
                    self._lose_client(peer, now)
                continue
            if peer.link.stalled(now):
                self.unexpected(peer, "it does not acknowledge its messages; its session ends", now)
                self.give_up_untaken(peer, now)
            for envelope in peer.link.due(now):
                self._out.add(Send(source, envelope))
        for client in [c for c in self._roster.clients.values() if not c.connected]:
            self._lose_client(client, now)

    @property
    def need_sweeping(self) -> bool:
        """Whether a peer may need a message, or may be lost, even if no message arrives."""
        return any(not client.connected for client in self._roster.clients.values()) or any(
            peer.link.next_deadline() is not None for peer in self.peers.values()
        )

    def stood_still(self, seconds: float, now: float) -> None:
        """Extend all times by a period in which this process did not run, as no peer is to blame for its silence."""
        for peer in self.peers.values():
            peer.link.stood_still(seconds, now)
            if peer.unreachable_since is not None:
                peer.unreachable_since += seconds
        for client in self._roster.clients.values():
            if client.lost_at is not None:
                client.lost_at += seconds

    def say_goodbye(self, now: float) -> None:
        for peer in self.peers.values():
            self._out.send(peer, m.Goodbye("the coordinator has stopped"), now)

    def check_invariants(self) -> None:
        held: Counter[str] = Counter()
        for peer in (*self._roster.workers.values(), *self._roster.clients.values()):
            held[peer.who.key] += peer.link.early_bytes
        for key, budget in self._early_budgets.items():
            assert budget.held == held[key], f"{key}: {budget.held} bytes held back, of {held[key]}"
        for worker in self._roster.workers.values():
            assert self.peers.get(worker.source) is worker
            assert is_bound(worker.id, worker.who.key), f"{worker.id} is another key's"
        for client in self._roster.clients.values():
            assert self.peers.get(client.source) is client or not client.connected
            if client.who.submits:
                assert not client.connected or is_bound(client.id, client.who.key), (
                    f"{client.id} is another key's"
                )
            else:
                assert not client.submitted, f"{client.id} has calls"
