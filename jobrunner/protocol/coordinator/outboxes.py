"""The messages to peers at the end of a turn: one per peer and kind, however many tasks it is about."""

from __future__ import annotations

from collections.abc import Callable

from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.finished_tasks import Results
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.outgoing import Outgoing
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import TaskRecord
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
)
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import Payload, payload_size

OUTCOME_WINDOW = 64 * 1024 * 1024
"""Maximum size in bytes of outcomes that a client may leave unacknowledged before its further tasks wait."""

OUTPUT_WINDOW = 4 * 1024 * 1024
"""Maximum size in bytes of a client's unacknowledged messages; beyond that, output of its tasks is dropped."""

MAX_UNTAKEN_SLOTS = 100
"""Maximum number of unacknowledged sizes of the cluster, which nobody asks for: beyond that, a client gets the last one
when it has acknowledged these."""


class Outboxes:
    """The outboxes of the peers in the roster, and the messages that empty them."""

    def __init__(
        self,
        *,
        roster: Roster,
        functions: FunctionTable,
        dispatcher: Dispatcher,
        endings: Endings,
        results: Results,
        out: Outgoing,
    ) -> None:
        self._roster = roster
        self._functions = functions
        self._dispatcher = dispatcher
        self._endings = endings
        self._results = results
        self._out = out
        self._announced_slots = 0
        """The size of the cluster that clients were told last."""

    def flush(self, now: float) -> None:
        # Functions to drop come first, because a function may have gone and come back within this turn.
        for worker_id, keys in self._functions.take_forgotten().items():
            forgetful = self._roster.workers.get(worker_id)
            if forgetful is not None:
                for some in batches(keys, of_key):
                    self._out.send(forgetful, m.DropFunctions(some), now)
        while (peer := self._roster.take_pending()) is not None:
            if isinstance(peer, WorkerSession):
                self._flush_worker(peer, now)
            elif isinstance(peer, ClientSession):
                self._flush_client(peer, now)

    def _flush_client(self, client: ClientSession, now: float) -> None:
        client.resent.clear()
        if not client.connected:  # it is not back yet, and will name the tasks that it waits for
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
                if dependency in self._results.unknown_tasks
            ]
            client.result_requests = []
            self._send_ids(client, m.ResultRequest, unknown, now)
        if client.output:
            if client.link.unacked_bytes < OUTPUT_WINDOW:
                size = sum(len(chunk.text) for chunk in client.output)
                self._out.send(client, m.Output(client.output), now, size)
            client.output, client.output_characters = [], 0
        if client.outcomes:
            for batch in batches(client.outcomes, of_outcome):
                size = sum(payload_size(o.payload) + (of_outcome(o) if o.detail else 0) for o in batch)
                self._out.send(client, m.Outcomes(batch), now, size)
            client.outcomes = []
            if client.link.unacked_bytes >= OUTCOME_WINDOW:
                self._dispatcher.queue.backpressured.add(client.id)
        # they follow the outcomes, because that of a divided chunk tells the name of the part that continues
        if client.running:
            self._send_ids(client, m.Running, client.running, now)
            client.running = []
        if client.refused:
            self._send_ids(client, m.CancelRefused, client.refused, now)
            client.refused = []
        if client.cancels and client.resubmission_complete:  # before that, it might not have named them yet
            requests = [m.CancelRequest(call, running) for call, running in client.cancels.items()]
            self._send_cancels(client, requests, now)
            client.cancels = {}

    def _flush_worker(self, worker: WorkerSession, now: float) -> None:
        # Cancels come first, because they are not meant for tasks that are assigned in this very turn.
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
        number = worker.link.next_number
        for record in records:
            record.note_sent(number)
            for entry in (record.function, record.initializer):
                if entry is not None and worker.id not in entry.known_by:
                    functions += entry.untold(worker.id)
            size += payload_size(record.body.payload)
            values: tuple[Payload, ...] = ()
            if record.depends_on:
                assert record.dependency_results is not None
                values = tuple([record.dependency_results[dependency] for dependency in record.depends_on])
                size += sum(map(payload_size, values))
            tasks.append(m.Assignment(record.id, record.attempt, record.body, values, record.unbegun))
        size += sum([payload_size(definition.blob) for definition in functions])
        self._out.send(worker, m.Assign(tasks, functions, owner), now, size)

    def add_output(self, client: ClientSession, chunk: m.OutputChunk) -> None:
        """Pass on what a task has printed, as far as there is room in this turn."""
        room = OUTPUT_WINDOW - client.output_characters
        if room > 0:
            client.output.append(chunk._replace(text=chunk.text[:room]))
            client.output_characters += len(chunk.text) + ENTRY_BYTES
            self._roster.flush_later(client)

    def will_reply(self, client: ClientSession) -> None:
        """Count an answer that the client is to acknowledge."""
        client.unacked_replies += 1

    def announce_capacity(self, now: float) -> None:
        if not self._roster.take_resized():
            return
        slots = self._roster.slots
        if slots != self._announced_slots:
            self._announced_slots = slots
            for client in self._roster.clients.values():
                if client.connected and client.untaken_slots < MAX_UNTAKEN_SLOTS:
                    self._tell_slots(client, now)

    def _tell_slots(self, client: ClientSession, now: float) -> None:
        client.untaken_slots += 1
        self._out.send(client, m.Capacity(self._announced_slots), now)

    def acknowledged(self, client: ClientSession, acked: list[m.Message], now: float) -> None:
        for message in acked:
            if type(message) is m.Outcomes:
                self._endings.acknowledged(client, message.outcomes)
            elif type(message) is m.Reply:
                client.unacked_replies -= 1
            elif type(message) is m.Capacity:
                client.untaken_slots -= 1
                if not client.untaken_slots and message.slots != self._announced_slots:
                    self._tell_slots(client, now)
        if client.link.unacked_bytes < OUTCOME_WINDOW:
            self._dispatcher.queue.resume(client.id)

    def _send_ids(
        self, peer: Peer, kind: Callable[[list[TaskId]], m.Message], ids: list[TaskId], now: float
    ) -> None:
        for some in batches(ids, of_id):
            self._out.send(peer, kind(some), now, of_ids(some))

    def _send_cancels(self, peer: Peer, requests: list[m.CancelRequest], now: float) -> None:
        for some in batches(requests, lambda request: of_id(request.id)):
            self._out.send(peer, m.Cancel(some), now, of_ids([request.id for request in some]))


def of_record(record: TaskRecord, worker: WorkerSession) -> int:
    """Return the size of a task in an Assign without its payloads: its part of the header, and that for its frames."""
    size = of_call(record.body.options, record.depends_on) + of_payload(record.body.payload)
    if record.depends_on:
        assert record.dependency_results is not None
        size += sum([of_payload(record.dependency_results[dependency]) for dependency in record.depends_on])
    for entry in (record.function, record.initializer):
        if entry is not None and worker.id not in entry.known_by:
            size += sum([of_definition(each.definition) for each in (entry, *entry.parts)])
    return size


def of_key(key: m.FunctionKey) -> int:
    return len(key)
