"""Functions that cut gathered entries into messages of a size that every peer accepts (`checks.MAX_HEADER_BYTES`).

The size counts everything that always stays in the header: ids, options, details. Payloads and functions do not count,
because `codec` gives them frames of their own if there are many, but the number of their frames counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.messages import FunctionDef, Outcome, TaskOptions, TaskSpec, Wait
from jobrunner.protocol.wire.payloads import BUFFER_BYTES, Payload, buffer_count

BATCH_BYTES = 8 * 1024 * 1024
"""Size of the header in bytes from which on a message is full; a single entry may be larger."""

BATCH_ENTRIES = 20_000

ENTRY_BYTES = 400
"""Upper bound in bytes of the usual size of an entry beside its counted parts; it includes small payloads
(`codec.SMALL_INLINE_LIMIT`)."""

PART_BYTES = 40
"""Size in bytes of the key of a part of a function."""

Entry = TypeVar("Entry")


def batches(entries: Iterable[Entry], size: Callable[[Entry], int]) -> Iterator[list[Entry]]:
    """Yield the entries in order, in lists of one message each; an entry that fills a message is alone."""
    batch: list[Entry] = []
    total = 0
    for entry in entries:
        more = size(entry)
        if batch and more >= BATCH_BYTES:
            yield batch
            batch, total = [], 0
        total += more
        batch.append(entry)
        if total >= BATCH_BYTES or len(batch) >= BATCH_ENTRIES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def of_id(task_id: str) -> int:
    return len(task_id) + 8


def of_ids(ids: Iterable[str]) -> int:
    return sum(map(of_id, ids))


def of_task(spec: TaskSpec) -> int:
    size = of_call(spec.body.options, spec.depends_on) + of_payload(spec.body.payload)
    return size + sum(map(of_id, spec.depends_on)) if spec.depends_on else size


def of_call(options: TaskOptions, depends_on: Sequence[TaskId]) -> int:
    """Return the size of a call with its options, and with the results of this number of other calls."""
    size = ENTRY_BYTES
    if depends_on:
        size += ENTRY_BYTES * len(depends_on)
    if options.retry_on:
        size += len(options.retry_on)
    if options.resources:
        size += sum([16 + of_value(name) for name, _ in options.resources])
    return size


def of_wait(wait: Wait) -> int:
    return ENTRY_BYTES + of_ids(wait.calls)


def of_payload(payload: Payload) -> int:
    """Return the size that a payload counts for its frames, whose number per message is limited.

    Without frames it is 0.
    """
    return 0 if type(payload) is bytes else BUFFER_BYTES * buffer_count(payload)


def of_outcome(outcome: Outcome) -> int:
    size = ENTRY_BYTES + of_payload(outcome.payload)
    return size if outcome.detail is None else size + of_detail(outcome.detail)


def of_definition(definition: FunctionDef) -> int:
    size = ENTRY_BYTES + of_payload(definition.blob) + PART_BYTES * len(definition.parts)
    return size + of_value(definition.modules) + of_value(definition.ships)


def of_detail(detail: Mapping[str, Any]) -> int:
    return sum(16 + of_value(value) for value in detail.values())


def of_value(value: Any) -> int:
    """Return the approximate size of a value; a character may take up to four bytes."""
    if isinstance(value, (str, bytes)):
        return 2 * len(value)
    if isinstance(value, dict):
        return of_detail(value)
    if isinstance(value, (list, tuple)):
        return sum(8 + of_value(item) for item in value)
    return 8
