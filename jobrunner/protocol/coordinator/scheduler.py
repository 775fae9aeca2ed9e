"""The coordinator's decisions about tasks: accept, place, retry, cancel, finish.

It knows tasks, clients and workers, and leaves what is to be sent in their outboxes; sessions and messages are the
business of `coordinator_core`. The order of a turn: everything received changes the records, then `place` binds what
can be bound, then the core sends each outbox as one message.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque

from jobrunner.protocol import retry
from jobrunner.protocol.bundles import index_of_call, place_of_call, whole_of
from jobrunner.protocol.chunks import chunk_of, part_id
from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Account, Accounts, Quota
from jobrunner.protocol.coordinator.deadlocks import Deadlocks
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.division import Division
from jobrunner.protocol.coordinator.finished_tasks import FinishedTask, Results, beyond_quota
from jobrunner.protocol.coordinator.function_table import FunctionEntry, FunctionTable
from jobrunner.protocol.coordinator.missing_modules import MissingModules
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.placement import Permit, ReadyQueue, has_capacity
from jobrunner.protocol.coordinator.reservations import Reservations
from jobrunner.protocol.coordinator.resources import Requirements, requirements_of
from jobrunner.protocol.coordinator.task import (
    ACTIVE,
    ASSIGNED,
    CANCELLED,
    CANCELLING,
    FAILED,
    QUEUED,
    RUNNING,
    STATE_NAMES,
    SUCCEEDED,
    WAITING,
    TaskRecord,
    call_size,
    required_of,
)
from jobrunner.protocol.estimates import updated_estimate
from jobrunner.protocol.journal_records import JournalEntry, JournalState, KeptOutcome, Progress
from jobrunner.protocol.link import Link
from jobrunner.protocol.tuning import UNKNOWN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.details import brief, passable
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId, call_id, client_of, open_part
from jobrunner.protocol.wire.principals import ANYONE, CLIENT, Principal

RECENT = 1000
"""Finished tasks that `jobrunner tasks` still shows."""


BEGIN_AGAIN_AFTER = 1.0
"""Seconds after which it is tried again to write that a call begins which is to run at most once."""

LEFT_OVER = 1000
"""Calls that have ended while they waited (for a slot, or for a time) stay in line until it is their turn, which may
never come. They are looked for when so many more have been put in line than there are calls."""

LOOKS_PER_GRACE = 4
"""How often it is asked, within a client's grace, whether it may yet name a task that some worker has."""

LATEST_REATTACHED = 2**30
"""Attempts go on from the number that a worker comes back with, so it must leave room for them in a message."""


def written_owner(client: ClientSession) -> str:
    """As the journal has it."""
    key, owner = client.who.key, client.account.owner
    return key if key == owner else f"{key} {owner}"


def read_owner(state: JournalState, client: ClientId) -> tuple[str, str]:
    """The key under which that client came, and that of the owner of its calls; empty, where nobody knows."""
    key, _, owner = state.owners.get(client, "").partition(" ")
    return key, owner or key


def drop_payload(record: TaskRecord) -> None:
    """Nobody gets its result from it any more; what else is known of its end, in brief, is for the curious."""
    outcome = record.outcome
    if outcome is None:
        return
    detail = None if outcome.detail is None else brief(outcome.detail)
    if outcome.payload or detail != outcome.detail:
        record.outcome = outcome._replace(payload=b"", detail=detail)


def drop_wishes(record: TaskRecord) -> None:
    """It has ended, and nobody's account has what it asked for: that may be megabytes, of each of very many."""
    options = record.options
    if options.retry_on or options.resources:
        record.options = m.TaskOptions(options.name, options.priority, options.retries)
        record.amounts = ()
    record.depends_on = record.requirements = ()


class OrphanedTask:
    """A task that a worker has though no client has named it since this coordinator started."""

    __slots__ = ("attempt", "look_at", "outcome", "running", "since", "unbegun", "wait", "worker")

    def __init__(self, worker: WorkerSession, held: m.Held, now: float) -> None:
        self.worker = worker
        self.attempt = held.attempt
        self.unbegun = held.unbegun
        self.since = now
        self.look_at = now
        """When it is asked again whether somebody may yet name it."""
        self.outcome: m.Outcome | None = None
        self.running = False
        """The worker has announced that it runs, which it does only once."""
        self.wait: m.Wait | None = None
        """What it waits for, as the worker has told."""


class Scheduler:
    """All unfinished tasks and where they are."""

    def __init__(
        self,
        *,
        crash_limit: int,
        result_cache: int = 64 * 1024 * 1024,
        journaling: bool = False,
        quota: Quota = NO_QUOTA,
    ) -> None:
        self.crash_limit = crash_limit
        self.quota = quota
        self.accounts = Accounts()
        self.results = Results(result_cache)
        self.journaling = journaling
        self.entry = JournalEntry()
        """What is to be kept of this turn."""
        self.unwritten: set[TaskId] = set()
        """Detached tasks that the journal does not have yet."""
        self.withheld: dict[TaskRecord, None] = {}
        """Calls that are to run at most once, with a worker that has not heard of them: the journal does not have it
        yet that they begin. Else a coordinator after this one could have them run again."""
        self.begins: list[tuple[TaskRecord, int]] = []
        """Those that begin with `entry`, and their attempts."""
        self._written_begins: list[tuple[TaskRecord, int]] = []
        self.dependencies = Dependencies(self)
        self.missing_modules = MissingModules(self)
        self.division = Division(self)
        self.deadlocks = Deadlocks(self)
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.clients: dict[ClientId, ClientSession] = {}
        self.workers: dict[WorkerId, WorkerSession] = {}
        self.worker_names: set[str] = set()
        self.slots = 0
        """Of all workers. Names and slots are kept account of, for thousands of workers may join at once."""
        self.functions = FunctionTable()
        self.queue = ReadyQueue()
        self.reservations = Reservations()
        self.counts = [0] * len(STATE_NAMES)
        self.recent: deque[TaskRecord] = deque(maxlen=RECENT)
        self.bundles: dict[str, TaskRecord] = {}
        """The bundles among `tasks`, by the open part of their ids."""
        self.orphaned: dict[TaskId, OrphanedTask] = {}
        self._orphaned_of: dict[ClientId, dict[TaskId, None]] = {}
        """The same by those who may name them: a thousand clients may come back at once."""
        self.workers_with_room: dict[WorkerSession, None] = {}
        """Workers that may have room."""
        self.pending_flush: dict[Peer, None] = {}
        """Peers with something in their outbox."""
        self.delayed: list[tuple[float, int, TaskRecord]] = []
        self._tie_breaker = 0
        self.reattach_deadline = 0.0
        """When every worker of an earlier coordinator must have come back to this one, if it still lives."""
        self.resized = False
        """The number of slots in the cluster may have changed."""
        self.stale_outcomes = 0

    # --- from clients ---

    def submit(self, client: ClientSession, spec: m.TaskSpec, now: float) -> bool:
        """Accept a call; False if it names a function that nobody has sent."""
        if client.awaiting_resubmission:
            bundle = place_of_call(spec.id)
            if bundle is not None:
                client.awaiting_resubmission.discard(bundle[0])
        if client.unnamed and client.unnamed.pop(spec.id, False):
            client.take_done(spec.id)  # it had the outcome before this came
            return True
        if self._known(client, spec.id):
            return True
        function = self.functions.get(spec.function)
        initializer = None if spec.initializer is None else self.functions.get(spec.initializer)
        if function is None or (spec.initializer is not None and initializer is None):
            return False
        size = call_size(spec.payload, spec.options, spec.depends_on)
        resources = spec.options.resources
        excess = client.account.excess(size, self.quota) or client.account.kinds_excess(resources)
        if excess:
            self.tell_client(client, beyond_quota(spec.id, excess))
            return True
        refusal = self._refusal(spec, function, initializer, now)
        client.account.add_call(size, resources)
        record = TaskRecord(
            spec.id, client, function, spec.payload, spec.span, spec.options, initializer, spec.depth, now
        )
        if self.missing_modules.contested_modules:
            record.requirements = self.missing_modules.requirements(record)
        function.users += 1
        if initializer is not None:
            initializer.users += 1
        client.submitted += record.weight
        client.unfinished += record.weight
        self.tasks[spec.id] = record
        if isinstance(spec.span, int):
            self.bundles[open_part(spec.id)] = record
        if self.journaling:
            self.entry.accepted.append(spec)
            if client.who.key:
                self.entry.owners[client.id] = written_owner(client)
            if spec.options.detach:
                self.unwritten.add(spec.id)
        if self.results.unknown_tasks:
            record.interest = self.results.unknown_tasks.take(spec.id)
            if isinstance(spec.span, int):
                self.dependencies.bundle_came(spec.id)
        if spec.depends_on:
            self.dependencies.collect(record, spec.depends_on, now)
        if spec.options.detach:
            self.tell_accepted(record)
        held = self._take_orphaned(spec.id) if self.orphaned else None
        record.may_have_run = spec.options.at_most_once and client.is_new and not client.resubmission_complete
        if record.may_have_run and self.journaling:
            # The doubt remains for a coordinator after this one, though it finds the task in the journal.
            self.entry.progress.append((spec.id, Progress(1, 0, 0, ())))
        # Sent to an earlier coordinator: it may be with a worker that is on its way back.
        settling = held is None and not client.resubmission_complete and now < self.reattach_deadline
        record.state = WAITING if settling or record.unresolved_count or record.may_have_run else QUEUED
        self.counts[record.state] += record.weight
        if held is not None:
            self._claim(record, held, now)
        elif record.failed_dependency is not None:
            self.finish(record, record.failed_dependency, FAILED, now)
        elif settling or record.may_have_run:
            self._delay(record, self.reattach_deadline)
        elif refusal is not None:
            self.finish(record, refusal, FAILED, now)
        elif record.state == QUEUED:
            self.queue.push(record)
        return True

    def refuse_new(self, client: ClientSession, task_id: TaskId, excess: str) -> None:
        """Something of that call is too much; unless it is here already."""
        if not self._known(client, task_id):
            self.tell_client(client, beyond_quota(task_id, excess))

    def _refusal(
        self, spec: m.TaskSpec, function: FunctionEntry, initializer: FunctionEntry | None, now: float
    ) -> m.Outcome | None:
        """How a new call ends that no worker who is here can run, for want of a version of Python or of modules."""
        if self.workers:
            for entry in (function, initializer):
                if entry is not None and entry.requirements and not self._provided(entry):
                    return self._wrong_python(spec.id, entry)
        if not self.missing_modules.contested_modules:
            return None
        base = required_of(requirements_of(spec.options.resources), function, initializer)
        return self.missing_modules.refusal(spec.id, function, initializer, base, now)

    def _provided(self, function: FunctionEntry) -> bool:
        """Whether any worker has the version of Python that a function needs."""
        return any(
            name in worker.provides for worker in self.workers.values() for name, _ in function.requirements
        )

    def _wrong_python(self, task_id: TaskId, function: FunctionEntry) -> m.Outcome:
        there = sorted({worker.hello.python for worker in self.workers.values()})
        definition = function.definition
        error = (
            f"the function {definition.name} is sent by value, from Python {definition.python}, and the workers have"
            f" {', '.join(there)}: use the same version on both sides, or put the function in a module that is"
            " installed on the workers"
        )
        return m.Outcome(task_id, 0, m.REFUSED, detail={"error": error, "python": True})

    def refuse_other_pythons(self, now: float) -> None:
        """A worker has come: end what waits for a version of Python that none of those who are here has."""
        provided = {name for worker in self.workers.values() for name in worker.provides}
        needing = [f for f in self.functions.entries() if f.requirements]
        strange = {f for f in needing if provided.isdisjoint([name for name, _ in f.requirements])}
        if not strange:
            return
        for record in list(self.tasks.values()):
            entry = record.function if record.function in strange else record.initializer
            if entry is not None and entry in strange and record.state in (QUEUED, WAITING):
                self.finish(record, self._wrong_python(record.id, entry), FAILED, now)

    def restore(self, state: JournalState, now: float) -> None:
        """Take over what a coordinator before this one has kept. The clients are not here yet, nor the workers."""
        for kept in state.outcomes.values():
            client_id = client_of(kept.outcome.id)
            account = self.accounts.of(client_id, read_owner(state, client_id)[1])
            self.results.keep(FinishedTask(kept.name, passable(kept.outcome), now - kept.age, account))
        for spec, progress in state.tasks.values():
            owner = client_of(spec.id)
            client = self.clients.get(owner) or self._absent(owner, *read_owner(state, owner), now)
            named = [state.functions[key] for key in (spec.function, spec.initializer) if key is not None]
            for definition in named:
                for part in definition.parts:
                    self.functions.define(state.functions[part], client.account)
                self.functions.define(definition, client.account)
            self.submit(client, spec, now)
            for definition in named:
                entry = self.functions.get(definition.key)
                if entry is not None:  # it is needed, or else the call has ended at once
                    self.functions.drop_if_idle(entry)
            self.unwritten.discard(spec.id)
            record = self.tasks.get(spec.id)
            if record is None:
                continue  # what it needs did not succeed
            record.attempt, record.failures, record.crashes, _, record.unbegun = progress
            record.history = list(progress.history) or None
            record.may_have_run = spec.options.at_most_once and record.begun > 0
            # Written when that attempt had ended; only of those that run at most once it is when they begin.
            record.ended = 0 if spec.options.at_most_once else progress.attempt
        self.entry = JournalEntry()

    def _absent(self, client_id: ClientId, key: str, owner: str, now: float) -> ClientSession:
        """A client of before, that may come back."""
        hello = m.ClientHello(client_id, "", "", "unknown, since the coordinator was started again", 0, 0.0)
        who = Principal(key, "", CLIENT) if key else ANYONE
        account = self.accounts.open(client_id, who, owner)
        client = self.clients[client_id] = ClientSession(hello, b"", Link("", now, 0.0), account, who)
        client.lost_at = now
        return client

    def _known(self, client: ClientSession, task_id: TaskId) -> bool:
        """Whether a submitted task is here already; its client learns again what it may have missed."""
        record = self.tasks.get(task_id)
        if record is not None:
            if record.client is not client:
                self._take_back(record, client)
            if task_id in client.resent:
                return True
            client.resent.add(task_id)
            self.pending_flush[client] = None
            if record.state == RUNNING:
                client.running.append(task_id)
            if record.options.detach:
                self.tell_accepted(record)
            if record.unresolved_count:
                self.dependencies.recall(
                    client, [n for n in record.depends_on if n in self.results.unknown_tasks]
                )
            return True
        record = client.done.get(task_id)
        if record is not None and record.outcome is not None:
            self.tell_again(client, record.outcome)
            return True
        ended = self.results.find(task_id)
        if ended is None or not (task_id in self.results.detached or ended.is_of(client.account)):
            return False
        self.tell_again(client, ended.outcome)
        return True

    def _take_back(self, record: TaskRecord, client: ClientSession) -> None:
        """Its client, taken for dead, has come back before the task could be stopped: it is wanted after all."""
        size = record.size
        record.client.account.remove_call(size, record.options.resources)
        client.account.add_call(size, record.options.resources)
        for value in (record.dependency_results or {}).values():
            record.client.account.remove_value(value)
            client.account.add_value(value)
        record.client.unfinished -= record.weight
        client.unfinished += record.weight
        record.client = client
        record.cancel_asked = False

    def cancel(self, task_id: TaskId, running: bool, now: float, asker: ClientSession | None = None) -> None:
        """Cancel a task for its client, which gets an Outcome or a CancelRefused."""
        record = self.tasks.get(task_id)
        if record is None:
            if asker is not None and task_id not in asker.done:
                asker.refused.append(task_id)
                self.pending_flush[asker] = None
            return
        if record.state in (QUEUED, WAITING):
            self.finish(record, m.Outcome(task_id, record.attempt, m.CANCELLED), CANCELLED, now)
        elif record.state == RUNNING and not running:
            record.client.refused.append(task_id)
            self.pending_flush[record.client] = None
        elif record in self.withheld:
            self._not_begun(record)
            self.finish(record, m.Outcome(task_id, record.attempt, m.CANCELLED), CANCELLED, now)
        else:
            assert record.worker is not None
            if record.cancel_asked and (record.state == CANCELLING or not running):
                return  # the worker has been told; if it forgets, it will be told again when it comes back
            record.cancel_asked = True
            if running and record.state != CANCELLING:
                self.move(record, CANCELLING, now)
            record.worker.cancels.append(m.CancelRequest(task_id, running))
            self.pending_flush[record.worker] = None

    def cancel_call(self, bundle: TaskRecord, index: int, running: bool) -> None:
        """Somebody wants one call of a bundle cancelled. Its client is asked, which alone can split a bundle."""
        wanted = bundle.client.cancels
        call = call_id(bundle.id, index)
        wanted[call] = running or wanted.get(call, False)
        self.pending_flush[bundle.client] = None

    def client_gone(self, client: ClientSession, now: float) -> None:
        """The client will not come back: cancel all that it has here, but for what it has detached."""
        if client.unfinished:  # else a goodbye of anybody would cost a look at all calls of others
            for record in [r for r in self.tasks.values() if r.client is client and not r.options.detach]:
                self.cancel(record.id, True, now)
        for key in sorted(client.function_refs.values()):
            self.functions.drop_ref(key)
        client.function_refs.clear()
        self.forget_untaken_outcomes(client)
        client.outcomes.clear()
        client.link = Link("", now, 0.0)  # with all that it has not taken
        self.dependencies.watches_no_more(client)
        self.queue.resume(client.id)
        if self.clients.pop(client.id, None) is not None:
            self.accounts.close(client.account)

    def resubmission_complete(self, client_id: ClientId) -> None:
        """The client has named all that it waits for; what is held for it beyond that, nobody wants."""
        client = self.clients.get(client_id)
        if client is not None:
            client.resubmission_complete = True
            if client.cancels:
                self.pending_flush[client] = None
            wanted = {outcome.id for outcome in client.outcomes}
            for message in client.link.unacked():
                if type(message) is m.Outcomes:
                    wanted.update(outcome.id for outcome in message.outcomes)
            for task_id in client.done.keys() - wanted:
                if not self.named_later(task_id):
                    taken = client.take_done(task_id)
                    if taken is not None:
                        drop_payload(taken)
        for task_id in list(self._orphaned_of.get(client_id, ())):
            if not self.named_later(task_id):
                self._drop_orphaned(task_id)

    def forget_orphaned(self, now: float, grace: float) -> None:
        """Wait no longer for clients that have not come back for `grace` seconds."""
        for task_id, held in list(self.orphaned.items()):
            if now < held.look_at:
                continue
            if self.named_later(task_id):
                held.since = now
            elif held.since < now - grace:
                self._drop_orphaned(task_id)
            held.look_at = min(now + grace / LOOKS_PER_GRACE, held.since + grace)

    def wait_longer(self, seconds: float, now: float) -> None:
        """For those that come back, because this process did not run for so long."""
        for held in self.orphaned.values():
            held.since += seconds
        for interest in self.results.unknown_tasks.values():
            interest.since += seconds
        self.deadlocks.wait_longer(seconds)
        if now - seconds >= self.reattach_deadline:
            return
        reattach_deadline, self.reattach_deadline = self.reattach_deadline, self.reattach_deadline + seconds
        self.delayed = [
            (self.reattach_deadline if until == reattach_deadline else until, number, record)
            for until, number, record in self.delayed
        ]
        heapq.heapify(self.delayed)

    def named_later(self, task_id: TaskId) -> bool:
        """Whether it is a call of a bundle of whose end the client is yet to hear: then it names the call.

        Or a part of a chunk.
        """
        client = self.clients.get(client_of(task_id))
        bundle = place_of_call(task_id)
        if bundle is not None:
            record = self.bundles.get(bundle[0])
            if record is None and client is not None:
                record = client.done_bundles.get(bundle[0])
            if record is not None:
                return index_of_call(record.id, task_id) is not None  # else somebody guesses
            known = client is not None and bundle[0] in client.awaiting_resubmission
        else:
            chunk = chunk_of(task_id)
            if chunk is None:
                return False
            known = chunk in self.tasks or (client is not None and chunk in client.done)
        return known or (client is not None and not client.resubmission_complete)

    def bundle_with(self, task_id: TaskId) -> tuple[TaskRecord, int] | None:
        """The unfinished bundle in which that call is, and where."""
        place = place_of_call(task_id)
        record = None if place is None else self.bundles.get(place[0])
        index = None if record is None else index_of_call(record.id, task_id)
        return None if record is None or index is None or index >= record.elements else (record, index)

    # --- detached tasks, and the journal ---

    def forget_outcome(self, task_id: TaskId) -> bool:
        """Drop the outcome of a detached task; False if there is none."""
        kept = self.results.forget_outcome(task_id)
        if kept is None:
            return False
        if kept.account is not None:
            self.accounts.drop_idle(kept.account)
        if self.journaling:
            self.entry.drop(task_id)
        return True

    def forget_outdated_outcomes(self, before: float) -> None:
        for task_id in self.results.outdated(before):
            self.forget_outcome(task_id)

    def written(self, task_ids: list[TaskId]) -> None:
        """These detached tasks are in the journal."""
        for task_id in task_ids:
            self.unwritten.discard(task_id)
            record = self.tasks.get(task_id)
            if record is not None:
                self.tell_accepted(record)

    def tell_accepted(self, record: TaskRecord) -> None:
        """Not as long as it needs what only its client may have."""
        if record.id in self.unwritten or not self.dependencies.are_found(record):
            return
        record.client.accepted.append(record.id)
        self.pending_flush[record.client] = None

    def begin_later(self, begins: list[tuple[TaskRecord, int]], now: float) -> list[TaskRecord]:
        """It could not be written down that these begin, so they do not yet; those of them that have not ended."""
        held_back = [record for record, attempt in begins if self._is_withheld(record, attempt)]
        for record in held_back:
            self._not_begun(record)
            self.move(record, WAITING, now)
            self._delay(record, now + BEGIN_AGAIN_AFTER)
        return held_back

    def note_later(self, records: list[TaskRecord]) -> None:
        """Of those of `begin_later` the journal may be about to say that they have begun."""
        for record in records:
            if self.tasks.get(record.id) is record:
                self._note_progress(record)

    def begin(self, begins: list[tuple[TaskRecord, int]]) -> None:
        """Note that the journal holds the beginnings of these attempts.

        Their workers hear of them at the end of the turn. As always, nothing is cancelled or lost between that and the
        assignment.
        """
        self._written_begins += begins

    def send_withheld(self) -> None:
        """The end of the turn."""
        begins, self._written_begins = self._written_begins, []
        for record, attempt in begins:
            if self._is_withheld(record, attempt):
                assert record.worker is not None
                del self.withheld[record]
                record.worker.assigned.append(record)
                self.pending_flush[record.worker] = None

    def _is_withheld(self, record: TaskRecord, attempt: int) -> bool:
        return record in self.withheld and record.attempt == attempt

    def _not_begun(self, record: TaskRecord) -> None:
        """A call that was withheld is with its worker no more."""
        record.not_begun()
        self._release(record)

    def refuse(self, task_ids: list[TaskId], error: str, now: float) -> None:
        """These could not be written down. Those that run already go on."""
        for task_id in task_ids:
            self.unwritten.discard(task_id)
            record = self.tasks.get(task_id)
            if record is not None and record.state in (QUEUED, WAITING):
                outcome = m.Outcome(task_id, record.attempt, m.REFUSED, detail={"error": error})
                # It was not accepted: nobody may count on its outcome, and the journal has nothing to forget.
                record.options = record.options._replace(detach=False)
                self.finish(record, outcome, FAILED, now)
                self.entry.gone.pop(task_id, None)

    def _note_progress(self, record: TaskRecord) -> None:
        if self.journaling:
            history = tuple(record.history or ())
            counts = (record.attempt, record.failures, record.crashes)
            progress = Progress(*counts, history, record.unbegun)
            self.entry.progress.append((record.id, progress))

    # --- from workers ---

    def outcome(self, worker: WorkerSession, outcome: m.Outcome, now: float) -> None:
        """An attempt has ended; whatever is not the present attempt, on its worker, changes nothing."""
        record = self.tasks.get(outcome.id)
        if record is None:
            held = self.orphaned.get(outcome.id)
            if held is not None and held.worker is worker and held.attempt == outcome.attempt:
                if held.outcome is None:
                    self._frees(worker)
                held.outcome = outcome
                if outcome.status == m.SPLIT:
                    self.goes_on(worker, outcome, now)
            else:
                self.stale_outcomes += 1
            return
        if record.worker is not worker or record.attempt != outcome.attempt or record.state not in ACTIVE:
            self.stale_outcomes += 1
            return
        worker.completed += record.weight
        worker.prefetch = True
        self._release(record)
        if outcome.status == m.SPLIT:
            self._split(record, outcome, worker, now)
        elif record.initializer is not None and outcome.detail and "setup" in outcome.detail:
            record.ended = record.attempt
            self.missing_modules.initializer_failed(worker, record, outcome, now)
        else:
            self._ended(record, outcome, now)

    def returned(
        self,
        worker: WorkerSession,
        task_id: TaskId,
        attempt: int,
        now: float,
        *,
        prefetch: bool = False,
        begun: bool = False,
    ) -> None:
        """The worker gives back a task, which it has not started unless `begun`.

        `prefetch`: not because it had too many.
        """
        record = self.tasks.get(task_id)
        if record is None:
            held = self.orphaned.get(task_id)
            if held is not None and held.worker is worker and held.attempt == attempt:
                self._take_orphaned(task_id)
            return
        if record.worker is not worker or record.attempt != attempt or record.state not in ACTIVE:
            return
        worker.prefetch = prefetch
        if begun:
            record.ended = attempt
        else:
            record.not_begun()
        self._release(record)
        self.again(record, now)

    def started(self, worker: WorkerSession, task_id: TaskId, now: float) -> None:
        record = self.tasks.get(task_id)
        held = self.orphaned.get(task_id) if record is None else None
        if held is not None and held.worker is worker:
            held.running = True
        if record is not None and record.worker is worker and record.state == ASSIGNED:
            self.move(record, RUNNING, now)
            self.division.started(record)
            watchers = () if record.interest is None else record.interest.watchers
            others = [self.clients[client] for client in watchers if client in self.clients]
            for client in (record.client, *others):
                client.running.append(task_id)
                self.pending_flush[client] = None

    def owner_of(self, task_id: TaskId, key: str, now: float) -> str | None:
        """Return the owner of a task that a worker with this key has.

        The result is empty if no known task has this id, and None if that is not decided yet. The task may be a call of
        a bundle, or a part of it may run on under another id.
        """
        whole = whole_of(task_id)
        for worker in self.workers.values():
            if worker.who.key == key:
                for record in worker.tasks.values():
                    if whole_of(record.id) == whole:
                        return record.client.account.owner
        held = any(whole_of(t) == whole and h.worker.who.key == key for t, h in self.orphaned.items())
        return None if held or now < self.reattach_deadline else ""

    def client_with_task_at(self, worker: WorkerSession, task_id: TaskId) -> ClientSession | None:
        """Whose task it is, if that worker has it, or has had one of its client, and its client is here."""
        client = self.clients.get(client_of(task_id))
        record = self.tasks.get(task_id)
        if record is not None:
            return client if record.worker is worker and record.client is client else None
        held = self.orphaned.get(task_id)
        if held is not None:
            return client if held.worker is worker else None
        return client if client is not None and client.id in worker.served else None

    def cancel_refused(self, worker: WorkerSession, task_id: TaskId) -> None:
        record = self.tasks.get(task_id)
        if record is None or record.worker is not worker or record.state == CANCELLING:
            return
        record.cancel_asked = False
        record.client.refused.append(task_id)
        self.pending_flush[record.client] = None

    def reattach(self, worker: WorkerSession, held: list[m.Held], now: float) -> None:
        """A worker has come back with these tasks: keep what is still its own, fence the rest."""
        for record in worker.tasks.values():
            self.deadlocks.waits_no_more(record)  # it is told again
        still_there = {(entry.id, entry.attempt) for entry in held}
        gone = [r for r in worker.tasks.values() if (r.id, r.attempt) not in still_there]
        for record in reversed(gone):  # each goes to the head of the queue
            self._release(record)
            if record.claimed:
                record.ended = (
                    record.attempt
                )  # it may have run, and its outcome be lost with another coordinator
                record.record_event(f"attempt {record.begun} was lost with worker {worker.name}")
            else:
                record.not_begun()
                record.record_event(f"it was lost on its way to worker {worker.name}")
            if record.claimed and record.options.at_most_once:
                # It was with the worker, which may have told a coordinator before this one how it ended.
                error = f"worker {worker.name} has it no more, and may have run it"
                lost = m.Outcome(record.id, record.attempt, m.LOST, detail={"error": error})
                self._finish_lost(record, lost, now)
            else:
                self.again(record, now)
        self._drop_orphaned_of(worker)
        for entry in held:
            self._reattach_one(worker, entry, now)
        self.division.asked_in_vain(worker)

    def _reattach_one(self, worker: WorkerSession, entry: m.Held, now: float) -> None:
        record = self.tasks.get(entry.id)
        if entry.attempt > LATEST_REATTACHED:
            self.fence(worker, entry.id)
        elif record is None:
            self._reattach_unknown(worker, entry, now)
        elif (
            record.state in (QUEUED, WAITING)
            and entry.attempt >= record.attempt
            and entry.attempt > record.ended
        ):
            self._claim(record, OrphanedTask(worker, entry, now), now)
        elif record.worker is not worker or record.attempt != entry.attempt:
            self.fence(worker, entry.id)
        elif record.cancel_asked and record.state in ACTIVE:
            # The request may have been lost with the old session.
            worker.cancels.append(m.CancelRequest(entry.id, record.state == CANCELLING))
            self.pending_flush[worker] = None

    def _reattach_unknown(self, worker: WorkerSession, entry: m.Held, now: float) -> None:
        """Keep it for a client that may still name it; of two workers that have it, the later attempt counts."""
        client = self.clients.get(client_of(entry.id))
        if client is not None and client.resubmission_complete and not self.named_later(entry.id):
            self.fence(worker, entry.id)
            return
        other = self.orphaned.get(entry.id)
        if other is None or (other.outcome is None and other.attempt < entry.attempt):
            if other is not None:
                self._drop_orphaned(entry.id)
            self.orphaned[entry.id] = OrphanedTask(worker, entry, now)
            self._orphaned_of.setdefault(client_of(entry.id), {})[entry.id] = None
            worker.strays += 1
        elif other.worker is not worker or other.attempt != entry.attempt:
            self.fence(worker, entry.id)

    def worker_lost(self, worker: WorkerSession, reason: str, now: float) -> None:
        """Queue its tasks again. Those that may have been running count it as a crash."""
        records = list(worker.tasks.values())
        oldest = {record.id for record in records[: worker.slots]}
        for record in reversed(records):  # each goes to the head of the queue
            if record in self.withheld:
                self._not_begun(record)
                self._note_progress(record)
                self.again(record, now)
                continue
            self._release(record)
            suspect = record.state != ASSIGNED or record.id in oldest
            if suspect:
                record.crashes += 1
                record.suspected = record.attempt
                record.record_event(f"attempt {record.begun}: worker {worker.name} {reason}")
            detail = {
                "error": f"worker {worker.name} {reason}",
                "worker": worker.name,
                "host": worker.hello.host,
            }
            outcome = m.Outcome(record.id, record.attempt, m.LOST, detail=detail)
            verdict = retry.verdict(record, m.LOST, self.crash_limit)
            if verdict == retry.REQUEUE or not (suspect or record.options.at_most_once):
                if suspect:
                    self._note_progress(record)
                self.again(record, now)
            else:
                self._finish_lost(record, outcome, now)
        if self.workers.pop(worker.id, None) is not None:
            self.resize(worker, 0)
            self.worker_names.discard(worker.name)
        self.workers_with_room.pop(worker, None)
        self.pending_flush.pop(worker, None)
        self.functions.worker_gone(worker.id)
        self.missing_modules.worker_gone(worker)
        self._drop_orphaned_of(worker)
        self.resized = True

    def add_worker(self, worker: WorkerSession) -> None:
        self.workers[worker.id] = worker
        self.worker_names.add(worker.name)
        self.queue.wake(worker.provides_all)
        self.slots += worker.slots
        self.resized = True

    def resize(self, worker: WorkerSession, slots: int) -> None:
        self.slots += slots - worker.slots
        worker.slots = slots
        self.resized = True

    def capacity(self, worker: WorkerSession, slots: int) -> None:
        worker.stuck = ""
        self.resize(worker, slots)
        self.workers_with_room[worker] = None

    def stuck(self, worker: WorkerSession, why: str, now: float) -> None:
        """All tasks there wait for tasks of their own that have no slot. If all workers are stuck, refuse the deepest.

        Otherwise nothing would ever go on; the tasks that wait for these do, as soon as they hear of it.
        """
        worker.stuck = why or "unknown"
        if any(not (other.stuck or other.draining) for other in self.workers.values()):
            return
        nested = [r for r in self.tasks.values() if r.state == QUEUED and r.depth]
        deepest = max((record.depth for record in nested), default=0)
        error = (
            "it was not run: every slot's task waits for a call of its own, as this one is, and no further slot can be"
            f" started ({worker.stuck})"
        )
        for record in nested:
            if record.depth == deepest:
                detail = {"error": error, "no_slot": True}
                self.finish(
                    record, m.Outcome(record.id, record.attempt, m.REFUSED, detail=detail), FAILED, now
                )
        for other in self.workers.values():
            other.stuck = ""

    # --- each turn ---

    def due(self, now: float) -> None:
        """Queue the tasks that wait for a time which has come."""
        self.missing_modules.due(now)
        if len(self.delayed) > LEFT_OVER + 2 * len(self.tasks):
            last = {entry[2]: entry for entry in sorted(self.delayed) if entry[2].state == WAITING}
            self.delayed = list(last.values())
            heapq.heapify(self.delayed)
        while self.delayed and self.delayed[0][0] <= now:
            record = heapq.heappop(self.delayed)[2]
            record.delayed = False
            if record.state != WAITING:
                continue
            if record.may_have_run:
                error = (
                    "the coordinator was started again, and it may have run before: it is to run at most once"
                )
                outcome = m.Outcome(record.id, record.attempt, m.LOST, detail={"error": error})
                self._finish_lost(record, outcome, now)
            elif not record.unresolved_count:
                self.move(record, QUEUED, now)
                self.queue.push(record)

    def place(self, now: float) -> None:
        """Bind queued tasks to workers: idle slots first, evenly, then a little ahead where tasks are short."""
        if not self.counts[QUEUED]:
            self.queue.clear()
            return
        if self.queue.pushed > LEFT_OVER + len(self.tasks):
            self.queue.sweep()
        self.queue.rest(self._is_provided)
        self.reservations.renew(self.queue, self.workers.values(), now)
        idle = [w for w in self.workers_with_room if w.held < w.slots]
        while idle:
            more = []
            for worker in idle:
                record = self.queue.pop(worker.fits, permit=self._permit_for(worker))
                if record is None:
                    continue
                self._assign(record, worker, now)
                if worker.held < worker.slots:
                    more.append(worker)
            idle = more
        for worker in list(self.workers_with_room):
            if worker.prefetch and self.counts[QUEUED]:
                self._prefetch(worker, now)
            if worker.held >= worker.slots:
                del self.workers_with_room[worker]

    def _is_provided(self, requirements: Requirements) -> bool:
        return any(worker.provides_all(requirements) for worker in self.workers.values())

    def _prefetch(self, worker: WorkerSession, now: float) -> None:
        def accept(record: TaskRecord) -> bool:
            if record.options.timeout is not None:
                return False  # its clock must start when it does
            estimate = record.function.estimate
            if estimate != UNKNOWN:
                estimate *= record.elements
            slots, held = worker.slots - worker.long, worker.held - worker.long
            return has_capacity(slots, held, worker.assigned_seconds, estimate)

        permit = self._permit_for(worker)
        while (record := self.queue.pop(worker.fits, accept, permit)) is not None:
            self._assign(record, worker, now)

    def _permit_for(self, worker: WorkerSession) -> Permit | None:
        """What tasks may take at this worker, where it keeps something for others."""
        if not self.reservations:
            return None
        return lambda rank, requirements: self.reservations.permit(worker, rank, requirements)

    # --- the steps that all of these share ---

    def move(self, record: TaskRecord, state: int, now: float) -> None:
        self.counts[record.state] -= record.weight
        record.move(state, now)
        self.counts[state] += record.weight

    def _assign(self, record: TaskRecord, worker: WorkerSession, now: float) -> None:
        record.attempt += 1
        record.claimed = False
        self._bind(record, worker, now)
        if record.options.at_most_once and self.journaling:
            self._note_progress(record)
            self.withheld[record] = None
            self.begins.append((record, record.attempt))
        else:
            worker.assigned.append(record)
            self.pending_flush[worker] = None

    def _bind(self, record: TaskRecord, worker: WorkerSession, now: float) -> None:
        estimate = record.function.estimate
        record.estimate = estimate if estimate == UNKNOWN else estimate * record.elements
        self.move(record, ASSIGNED, now)
        worker.take(record)

    def _release(self, record: TaskRecord) -> None:
        worker = record.worker
        assert worker is not None
        self.withheld.pop(record, None)
        self.deadlocks.waits_no_more(record)
        worker.release(record)
        self.division.released(record)
        if self.workers.get(worker.id) is worker:  # it may be lost, and only its outcome be here
            self.workers_with_room[worker] = None

    def _split(
        self, record: TaskRecord, outcome: m.Outcome, worker: WorkerSession, now: float, *, fresh: bool = True
    ) -> None:
        """A bundle was split: its client names the call that runs on as soon as it knows, and then the others.

        Not `fresh`: the worker told it before the client named the bundle; what runs on may have ended since.
        """
        if isinstance(record.span, tuple):
            self.division.divided(record, outcome, worker, now, fresh)
            return
        running = (outcome.detail or {}).get("running", -1)
        if not isinstance(record.span, int) or not 0 <= running < record.span:
            detail = {"error": f"worker {worker.name} split a bundle that it did not have"}
            self.finish(record, m.Outcome(record.id, record.attempt, m.LOST, detail=detail), FAILED, now)
            return
        if record.state == CANCELLING and record.cancel_asked:
            self.fence(worker, call_id(record.id, running))
            self.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)
            return
        self.leave_to_client(record, record.span - running)
        record.client.awaiting_resubmission.add(open_part(record.id))
        self.finish(record, outcome, SUCCEEDED, now)
        if fresh:
            self.goes_on(worker, outcome, now)

    def goes_on(self, worker: WorkerSession, outcome: m.Outcome, now: float) -> None:
        """Of a bundle that this worker has just split, one call runs on; or a part of a chunk, see `chunks`."""
        detail: m.Detail = outcome.detail or {}
        if "running" in detail:
            goes_on = call_id(outcome.id, detail["running"])
        else:
            goes_on = part_id(outcome.id, detail.get("stop", -1))
        self._reattach_one(worker, m.Held(goes_on, 1, True), now)

    def leave_to_client(self, record: TaskRecord, calls: int) -> None:
        """So many calls of a bundle will be submitted again: they do not count as ended, nor twice as submitted."""
        record.client.unfinished -= calls
        record.client.submitted -= calls
        self.counts[record.state] -= calls
        record.weight -= calls

    def _ended(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        status = outcome.status
        record.ended = record.attempt
        if status == m.OK:
            function = record.function
            function.estimate = updated_estimate(function.estimate, outcome.duration / record.elements)
            self.finish(record, outcome, SUCCEEDED, now)
            return
        if status == m.CANCELLED:
            if record.cancel_asked:
                self.finish(record, outcome, CANCELLED, now)
            else:
                self.again(record, now)
            return
        error = (outcome.detail or {}).get("error", m.STATUS_NAMES[status])
        record.record_event(f"attempt {record.begun} on {record.worker and record.worker.name}: {error}")
        if status == m.CRASHED:
            record.crashes += 1
        else:
            record.failures += 1
        final = bool(outcome.detail and outcome.detail.get("final"))
        verdict = retry.verdict(record, status, self.crash_limit, final=final)
        if verdict != retry.FINISH:
            self._note_progress(record)
        if verdict == retry.REQUEUE:
            self.again(record, now)
        elif verdict == retry.RETRY:
            self.move(record, WAITING, now)
            self._delay(record, now + retry.backoff(record.failures, record.options.backoff))
        elif status == m.CRASHED:
            self._finish_lost(record, outcome, now)
        else:
            self.finish(record, outcome, FAILED, now)

    def _delay(self, record: TaskRecord, until: float) -> None:
        self._tie_breaker += 1
        record.delayed = True
        heapq.heappush(self.delayed, (until, self._tie_breaker, record))

    def again(self, record: TaskRecord, now: float) -> None:
        """Back to the head of the queue, unless it was to be cancelled."""
        if record.cancel_asked:
            self.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)
            return
        if record.failed_dependency is not None:
            self.finish(record, record.failed_dependency, FAILED, now)
        elif record.unresolved_count:
            self.move(record, WAITING, now)
        else:
            self.move(record, QUEUED, now)
            self.queue.push(record, front=True)

    def _finish_lost(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        """The process or worker died once too often, or died under a task that was to be cancelled."""
        if record.cancel_asked:
            self.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)
            return
        if isinstance(record.span, int):
            self.leave_to_client(record, record.weight)
        detail = dict(outcome.detail or {})
        detail["attempts"] = list(record.history or ())
        if record.options.at_most_once:
            detail["at_most_once"] = True
        elif record.crashes >= self.crash_limit:
            detail["limit"] = self.crash_limit
        self.finish(record, outcome._replace(detail=detail), FAILED, now)

    def finish(self, record: TaskRecord, outcome: m.Outcome, state: int, now: float) -> None:
        self.move(record, state, now)
        client = record.client
        client.account.remove_call(record.size, record.options.resources)
        record.payload = b""
        self.dependencies.drop(record)
        record.outcome = outcome
        self.functions.release(record.function)
        if record.initializer is not None:
            self.functions.release(record.initializer)
        del self.tasks[record.id]
        if isinstance(record.span, int):
            part = open_part(record.id)
            if self.bundles.get(part) is record:
                del self.bundles[part]
        client.unfinished -= record.weight
        record.failed_dependency = None  # with the outcome of what it needed
        self.recent.append(record)
        if self.clients.get(client.id) is client:
            client.add_done(record)
            self.tell_client(client, outcome)
        else:
            drop_payload(record)
        self._remember(record, outcome, now)
        drop_wishes(record)

    def _remember(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        """For those who want to know now, and those who may ask later."""
        account = record.client.account
        ended = FinishedTask(record.name, outcome, now, account, isinstance(record.span, int))
        if record.options.detach:
            self.results.keep(ended)
        elif outcome.status != m.CANCELLED:
            self.results.add(ended)
        if self.journaling:
            if record.options.detach:
                self.entry.keep(KeptOutcome(record.name, outcome))
            else:
                self.entry.drop(record.id)
        if not account.clients:
            self.accounts.drop_idle(account)
        interest, record.interest = record.interest, None
        if interest is not None:
            self.dependencies.notify(interest, ended, now)
        if self.dependencies.unknown_calls:
            self.dependencies.bundle_ended(ended, now)

    def tell_client(self, client: ClientSession, outcome: m.Outcome) -> None:
        client.outcomes.append(outcome)
        self.pending_flush[client] = None

    def tell_again(self, client: ClientSession, outcome: m.Outcome) -> None:
        """Once in a turn, however often it asks: a few bytes ask for something large."""
        if outcome.id not in client.resent:
            client.resent.add(outcome.id)
            bundle = outcome.status == m.SPLIT and "running" in (outcome.detail or {})
            if bundle and client_of(outcome.id) == client.id:
                client.awaiting_resubmission.add(open_part(outcome.id))
            self.tell_client(client, outcome)

    def acknowledged(self, client: ClientSession, outcomes: list[m.Outcome]) -> None:
        """The client has these outcomes: nothing more needs to be kept, but a trace for the curious."""
        if not client.resubmission_complete:
            return  # a Submit of this session, still under way, may name them
        for outcome in outcomes:
            if outcome.id in client.unnamed:
                client.unnamed[outcome.id] = True
                record = client.done.get(outcome.id)
            else:
                record = client.take_done(outcome.id)
            if record is not None:
                drop_payload(record)

    def forget_untaken_outcomes(self, client: ClientSession) -> None:
        """It will not have the outcomes any more that it has not acknowledged."""
        for record in client.done.values():
            drop_payload(record)
        client.clear_done()

    def _claim(self, record: TaskRecord, held: OrphanedTask, now: float) -> None:
        """A queued task turns out to be with a worker already: join that attempt instead of starting another."""
        if record.suspected == held.attempt:
            record.crashes -= 1  # it was alive all the time
            record.suspected = 0
        record.may_have_run = False  # it did, and here it is
        record.attempt = held.attempt
        record.unbegun = max(record.unbegun, held.unbegun)
        record.claimed = True
        self._bind(record, held.worker, now)
        if held.outcome is not None and held.outcome.status == m.SPLIT:
            self._release(record)
            self._split(record, held.outcome, held.worker, now, fresh=False)
        elif held.outcome is not None:
            self.outcome(held.worker, held.outcome, now)
        elif held.running:
            self.started(held.worker, record.id, now)
        if held.wait is not None and record.state in ACTIVE:
            self.deadlocks.told(held.worker, held.wait)

    def _take_orphaned(self, task_id: TaskId) -> OrphanedTask | None:
        held = self.orphaned.pop(task_id, None)
        if held is None:
            return None
        of_client = self._orphaned_of[client_of(task_id)]
        del of_client[task_id]
        if not of_client:
            del self._orphaned_of[client_of(task_id)]
        if held.outcome is None:
            self._frees(held.worker)
        return held

    def _frees(self, worker: WorkerSession) -> None:
        """One of its strays has ended, or counts among its tasks from now on."""
        worker.strays -= 1
        if self.workers.get(worker.id) is worker:
            self.workers_with_room[worker] = None

    def _drop_orphaned(self, task_id: TaskId) -> None:
        held = self._take_orphaned(task_id)
        if held is not None and held.outcome is None:
            self.fence(held.worker, task_id)

    def _drop_orphaned_of(self, worker: WorkerSession) -> None:
        """It has them no more; those that it finished are here."""
        if not worker.strays:
            return
        for task_id in [t for t, h in self.orphaned.items() if h.worker is worker and h.outcome is None]:
            self._take_orphaned(task_id)

    def fence(self, worker: WorkerSession, task_id: TaskId) -> None:
        """Have the worker stop an attempt that nobody waits for."""
        worker.cancels.append(m.CancelRequest(task_id, True))
        self.pending_flush[worker] = None

    def check_invariants(self) -> None:
        """What must hold after every step; for the simulation."""
        counted = [0] * len(STATE_NAMES)
        for task_id, record in self.tasks.items():
            assert record.id == task_id
            assert record.state not in (SUCCEEDED, FAILED, CANCELLED), record.id
            counted[record.state] += record.weight
            here = self.clients.get(record.client.id) is record.client
            assert here or record.cancel_asked or record.options.detach, f"{task_id} is nobody's"
            with_worker = record.worker is not None and task_id in record.worker.tasks
            assert with_worker == (record.state in ACTIVE), (task_id, STATE_NAMES[record.state])
            assert record.begun >= (record.state in ACTIVE), (
                f"{task_id}: {record.unbegun} of {record.attempt}"
            )
        for state in (WAITING, QUEUED, ASSIGNED, RUNNING, CANCELLING):
            assert counted[state] == self.counts[state], STATE_NAMES[state]
        assert self.slots == sum(worker.slots for worker in self.workers.values())
        named = [task_id for tasks in self._orphaned_of.values() for task_id in tasks]
        assert sorted(named) == sorted(self.orphaned)
        strays = Counter(h.worker.id for h in self.orphaned.values() if h.outcome is None)
        assert all(worker.strays == strays[worker.id] for worker in self.workers.values())
        assert self.worker_names == {worker.name for worker in self.workers.values()}
        for record in self.withheld:
            assert record.state in ACTIVE, f"{record.id} is held back"
        for worker in self.workers_with_room:
            assert self.workers.get(worker.id) is worker, f"{worker.name} is gone, and may be given tasks"
        for requirements in {record.requirements for record in self.tasks.values() if record.state == QUEUED}:
            if self.queue.rests(requirements):
                assert not self._is_provided(requirements), (
                    f"calls that need {requirements} rest, and could be run"
                )
        for worker in self.workers.values():
            for record in worker.tasks.values():
                assert self.tasks.get(record.id) is record
                assert record.worker is worker
        self.functions.check_invariants()
        self.deadlocks.check_invariants()
        self._check_values()
        for client in self.clients.values():
            assert client.unfinished == sum(r.weight for r in self.tasks.values() if r.client is client)

    def _check_values(self) -> None:
        """Each result that calls wait with is charged to their owners, as long as they do."""
        users: dict[Account, dict[int, int]] = {account: {} for account in self.accounts}
        for record in self.tasks.values():
            charged = users.setdefault(record.client.account, {})
            for value in (record.dependency_results or {}).values():
                charged[id(value)] = charged.get(id(value), 0) + 1
        for account, charged in users.items():
            assert account.values == charged, (
                f"{account.label}: {len(account.values)} of {len(charged)} results"
            )
