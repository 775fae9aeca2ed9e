"""Entries of the journal as bytes and as rows: how they are cut, packed, and chained by their checksums.

The checksum of a row covers its number, its bytes and the checksum of the previous row, so that a missing, damaged or
misplaced row is detected. The `Mark` detects that rows are missing at the end: it names the last row that was in the
database when SQLite's log was moved into it. Later rows are in that log, which has checksums of its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgpack

from jobrunner.coordinator.journal.payload_files import Reference, size_in
from jobrunner.protocol.coordinator.task import call_size
from jobrunner.protocol.journal_records import JournalEntry, JournalState, KeptOutcome, Progress
from jobrunner.protocol.wire.batches import of_definition, of_outcome, of_value
from jobrunner.protocol.wire.checks import checked_kind
from jobrunner.protocol.wire.codec_functions import value_functions
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Kind
from jobrunner.protocol.wire.messages import (
    DEFAULT_OPTIONS,
    CallBody,
    FunctionDef,
    FunctionKey,
    Options,
    Outcome,
    Status,
    TaskOptions,
    TaskSpec,
)
from jobrunner.protocol.wire.payloads import Payload, buffers_of, payload_size

ROW_BYTES = 64 * 1024 * 1024
"""Maximum size in bytes of a row; a larger entry becomes several rows in one transaction, because SQLite rejects a row
of a billion bytes."""

SNAPSHOT_BYTES = 4 * 1024 * 1024
"""Approximate size in bytes of each entry when the whole state is written."""

TASK_BYTES = 200
"""Approximate size in bytes of a task in the log, without its payload."""

REFERENCE = 1
"""The number of the msgpack extension for a payload in a file."""

WRITE_OPTIONS, READ_OPTIONS = value_functions(Options, "options")


class Tail(NamedTuple):
    """The end of a chain of rows: the number of the last one and its checksum, which is 0 for an empty chain."""

    seq: int = 0
    checksum: int = 0

    def next(self, data: bytes) -> Tail:
        """Return the end of the chain after a row with these bytes has been added."""
        link = struct.pack(">QI", self.seq + 1, self.checksum)
        return Tail(self.seq + 1, zlib.crc32(data, zlib.crc32(link)))


class Mark(NamedTuple):
    """The facts that the database has about its rows in another place."""

    tail: Tail
    """A row that must exist, together with all rows before it."""
    in_use: bool
    """True if a coordinator has opened the journal and has not closed it."""

    def checksum(self) -> int:
        return zlib.crc32(struct.pack(">QI?", *self.tail, self.in_use))

    def is_written_as(self, checksum: object) -> bool:
        """Return whether this is the mark's checksum; the fields may have any values that were read."""
        try:
            return self.checksum() == checksum
        except struct.error:
            return False


def references(kept: JournalState | JournalEntry) -> list[Reference]:
    """Return the references to all payloads that are in files."""
    specs = kept.accepted if isinstance(kept, JournalEntry) else [spec for spec, _ in kept.tasks.values()]
    functions = kept.functions if isinstance(kept, JournalEntry) else kept.functions.values()
    payloads = [spec.body.payload for spec in specs]
    payloads += [definition.blob for definition in functions]
    payloads += [outcome.payload for _, outcome, _ in kept.outcomes.values()]
    return [payload for payload in payloads if isinstance(payload, Reference)]


def file_bytes(functions: Iterable[FunctionDef]) -> int:
    """Return the size in bytes of the functions that are in files."""
    return sum(size_in(d.blob) for d in functions if isinstance(d.blob, Reference))


def function_file_bytes(state: JournalState) -> int:
    return file_bytes(state.functions.values())


def size_of(spec: TaskSpec) -> int:
    """Return the size of the task in the log in bytes."""
    return call_size(spec.body.payload, spec.body.options, spec.depends_on) + TASK_BYTES


def size_of_outcome(kept: KeptOutcome) -> int:
    return payload_size(kept.outcome.payload) + of_outcome(kept.outcome)


def size_of_function(definition: FunctionDef) -> int:
    return payload_size(definition.blob) + of_definition(definition)


def size_of_progress(progress: Progress) -> int:
    return TASK_BYTES + of_value(progress.history)


def rows(entry: JournalEntry) -> list[JournalEntry]:
    """Return the entry in parts that each fit into a row and have the same meaning in this order; usually one."""
    sizes = [size_of_function(definition) for definition in entry.functions]
    sizes += [size_of(spec) for spec in entry.accepted]
    sizes += [size_of_progress(progress) for _, progress in entry.progress]
    sizes += [size_of_outcome(kept) for kept in entry.outcomes.values()]
    if sum(sizes) <= ROW_BYTES:
        return [entry]
    parts = [JournalEntry(owners=entry.owners)]
    size = 0

    def part(more: int) -> JournalEntry:
        nonlocal size
        if size and size + more > ROW_BYTES:
            parts.append(JournalEntry())
            size = 0
        size += more
        return parts[-1]

    for definition in entry.functions:
        part(size_of_function(definition)).functions.append(definition)
    for spec in entry.accepted:
        part(size_of(spec)).accepted.append(spec)
    for task_id, progress in entry.progress:
        part(size_of_progress(progress)).progress.append((task_id, progress))
    for kept in entry.outcomes.values():
        part(size_of_outcome(kept)).keep(kept)
    part(0).gone.update(entry.gone)
    return parts


def snapshot(state: JournalState) -> Iterator[JournalEntry]:
    """Yield the state as entries of moderate size. The ages of kept outcomes are those at the time of reading."""
    entry = JournalEntry(list(state.functions.values()), owners=dict(state.owners))
    size = 0
    for spec, progress in state.tasks.values():
        entry.accepted.append(spec)
        if progress != Progress():
            entry.progress.append((spec.id, progress))
            size += size_of_progress(progress)
        size += size_of(spec)
        if size > SNAPSHOT_BYTES:
            yield entry
            entry, size = JournalEntry(), 0
    for task_id, kept in state.outcomes.items():
        entry.outcomes[task_id] = kept
        size += size_of_outcome(kept)
        if size > SNAPSHOT_BYTES:
            yield entry
            entry, size = JournalEntry(), 0
    yield entry


def dump_entry(entry: JournalEntry, now: float) -> bytes:
    packed: bytes = msgpack.packb(
        (
            now,
            [(*f[:2], flat(f[2]), *f[3:]) for f in entry.functions],
            [written_task(spec) for spec in entry.accepted],
            entry.progress,
            [
                (kept.name, (*kept.outcome[:3], flat(kept.outcome[3]), *kept.outcome[4:]), kept.age)
                for kept in entry.outcomes.values()
            ],
            list(entry.gone),
            entry.owners,
        ),
        unicode_errors="surrogatepass",
    )
    return packed


def load_entry(data: bytes, now: float) -> JournalEntry:
    """Return the entry. Raises ProtocolError, ValueError or TypeError if `dump_entry` has not written it."""
    written, functions, accepted, progress, outcomes, gone, owners = msgpack.unpackb(
        data, use_list=False, unicode_errors="surrogatepass", ext_hook=read_extension
    )
    entry = JournalEntry([FunctionDef(*definition) for definition in functions])
    entry.accepted += [read_task(*fields) for fields in accepted]
    entry.progress += [(task_id, Progress(*counts)) for task_id, counts in progress]
    for name, fields, age in outcomes:
        outcome = Outcome(*fields)
        outcome = outcome._replace(status=Status(outcome.status))
        kept = KeptOutcome(name, outcome, age + max(0.0, now - written))
        entry.outcomes[kept.outcome.id] = kept
    entry.gone.update(dict.fromkeys(gone))
    entry.owners.update(owners)
    return entry


def written_task(spec: TaskSpec) -> tuple[Any, ...]:
    """Return the fields of a task, with those of its body in their places."""
    function, payload, kind, options, initializer, depth = spec.body
    return spec.id, function, flat(payload), kind, WRITE_OPTIONS(options), initializer, depth, spec.depends_on


def read_task(
    task_id: TaskId,
    function: FunctionKey,
    payload: Payload,
    kind: Any,
    options: Any,
    initializer: FunctionKey | None,
    depth: int,
    depends_on: tuple[TaskId, ...],
) -> TaskSpec:
    body = CallBody(function, payload, read_kind(kind), read_options(options), initializer, depth)
    return TaskSpec(task_id, body, depends_on)


def read_options(written: Any) -> TaskOptions:
    """Return the options of a task; those that were added since the journal was written have their defaults."""
    if written is not None:
        written = (*written, *DEFAULT_OPTIONS[len(written) :])
    options: TaskOptions = READ_OPTIONS(written)
    return options


def read_kind(written: Any) -> Kind:
    """Return the kind of a task; earlier journals have None for a single call, and an integer for a bundle."""
    if not written:
        return SINGLE_CALL
    if isinstance(written, int):
        return Bundle(written)
    return checked_kind(written)


def with_payload(spec: TaskSpec, payload: Payload) -> TaskSpec:
    return spec._replace(body=spec.body._replace(payload=payload))


def flat(payload: Payload) -> Any:
    if isinstance(payload, Reference):
        return msgpack.ExtType(REFERENCE, payload)
    return payload if isinstance(payload, bytes) else [bytes(part) for part in buffers_of(payload)]


def read_extension(code: int, data: bytes) -> Reference:
    if code != REFERENCE:
        raise ValueError(f"an extension {code}")
    return Reference(data)
