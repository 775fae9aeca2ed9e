"""Bundles: short calls of one function that a client submits one by one, and that travel as one task.

What a task costs on its way (its record in three cores, its entry in each message) is many times what a call takes that
does next to nothing. So calls that wait at the client together, of one function and with the same plain options, become
one task, if each is expected to be over in no time. Its payload holds those of the calls, and its outcome theirs. The
Future of each call knows nothing of the bundle: a call has an id of its own (see `ids.call_id`), which is a right to it
and to no other, and is cancelled, watched and needed under that.

A bundle is no promise. When one of its calls turns out to take long, the slot splits the bundle (SPLIT): it tells the
results so far, goes on with the call that runs under that call's own id, and the client submits the rest one by one.
It does the same with all calls when the process dies under a bundle, or the worker is lost, and with the others when
some are cancelled before it has started. Where others want a call cancelled, the coordinator asks the client to.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple, NoReturn, TypeVar

import msgpack

from jobrunner.protocol.estimates import updated_estimate
from jobrunner.protocol.tuning import BUNDLE_FIRST_CALLS, BUNDLE_MAX_CALLS, BUNDLE_SECONDS, BUNDLE_SMALL_CALL
from jobrunner.protocol.wire.checks import MAX_BUNDLED, MAX_INTEGER
from jobrunner.protocol.wire.ids import TaskId, call_id, open_part, short_id
from jobrunner.protocol.wire.kinds import SINGLE_CALL
from jobrunner.protocol.wire.messages import (
    ERROR,
    OK,
    SPLIT,
    Assignment,
    Detail,
    FunctionKey,
    Outcome,
    TaskOptions,
    TaskSpec,
)
from jobrunner.protocol.wire.payloads import Payload, buffers_of, payload_size

Task = TypeVar("Task", TaskSpec, Assignment)

MAX_FUNCTIONS = 10_000
"""Maximum number of functions whose durations a client remembers."""

SEPARATOR = "/"
"""The separator in the id of a call, before its index in the bundle, and behind a chunk's id, see `chunks`."""


class Results(NamedTuple):
    """The results of a bundle's calls, in their order.

    If the slot has split the bundle, they are only those of the first calls.
    """

    payloads: list[bytes]
    """The result or the exception of each call."""
    durations: list[float]
    """The duration of each call in seconds."""
    failed: list[int]
    """The indices of the calls that raised."""


_LONGEST_INDEX = len(str(MAX_INTEGER))  # an element of a chunk may be named, too, see `chunks`


def permits(options: TaskOptions) -> bool:
    """Return whether calls with these options may be bundled, because no option concerns a single task."""
    return options[_SHARED:] == _PLAIN


_SHARED = TaskOptions._fields.index("retries")
"""The number of the options before it, name and priority, which the calls of a bundle share."""
_PLAIN = TaskOptions()[_SHARED:]
"""The defaults of the other options; a call with another value travels alone."""


def limit(seconds: float) -> int:
    """Return how many calls of this duration in seconds make a bundle; 1 if they take too long for one."""
    return min(BUNDLE_MAX_CALLS, max(1, int(BUNDLE_SECONDS / max(seconds, 1e-9))))


class Limits:
    """The number of calls per bundle of each function, as the durations and results of its last calls permit."""

    def __init__(self) -> None:
        self._seconds: dict[FunctionKey, float] = {}
        self._calls: dict[FunctionKey, int] = {}
        self._tries: dict[FunctionKey, int] = {}
        self._most = BUNDLE_MAX_CALLS

    def is_new(self, function: FunctionKey) -> bool:
        """Return whether nothing is known of the function and few have asked yet; any thread may call this."""
        if function in self._calls:
            return False
        if len(self._tries) >= MAX_FUNCTIONS:
            self._tries.clear()
        tries = self._tries[function] = self._tries.get(function, 0) + 1
        return tries <= BUNDLE_FIRST_CALLS

    def of(self, function: FunctionKey) -> int:
        """Return the number of calls per bundle, or 1 if the function is unknown or slow; any thread may call this."""
        return self._calls.get(function, 1)

    def learn(self, spec: TaskSpec, outcome: Outcome) -> None:
        calls = spec.body.kind.calls
        function = spec.body.function
        if outcome.status == OK and payload_size(outcome.payload) <= calls * BUNDLE_SMALL_CALL:
            each = outcome.duration / calls
        else:
            each = BUNDLE_SECONDS  # whatever it was, calls like it had better travel alone for a while
        if outcome.detail and "most_calls" in outcome.detail:
            self._most = min(self._most, max(1, outcome.detail["most_calls"]))
            self._calls = {key: min(calls, self._most) for key, calls in self._calls.items()}
        if len(self._seconds) >= MAX_FUNCTIONS:
            self._seconds.clear()
            self._calls.clear()
        seconds = updated_estimate(self._seconds.get(function, 0.0), each)
        self._seconds[function] = seconds
        self._calls[function] = min(limit(seconds), self._most)


def place_of_call(task: TaskId) -> tuple[str, int] | None:
    """Return the open part of the bundle's id, and the index, from the id of a call in a bundle; None for other ids.

    `index_of_call` checks the id of the call, for which it needs the whole id of the bundle.
    """
    bundle, separator, index = short_id(task).rpartition(SEPARATOR)
    if not separator or not is_index(index):
        return None
    return bundle, int(index)


def index_of_call(bundle: TaskId, task: TaskId) -> int | None:
    """Return the index of the call of this bundle with this id, or None if the bundle has no such call."""
    place = place_of_call(task)
    if place is None or place[0] != open_part(bundle) or call_id(bundle, place[1]) != task:
        return None
    return place[1]


def is_index(text: str) -> bool:
    """Return whether a text is the canonical form of an index."""
    if not text or len(text) > _LONGEST_INDEX or not (text.isascii() and text.isdecimal()):
        return False
    return text[0] != "0" or text == "0"


def whole_of(task: TaskId) -> TaskId:
    """Return the submitted task: the bundle of a call, the chunk of a part of it, or the task itself."""
    return TaskId(task.partition(SEPARATOR)[0])


def call_of(bundle: Task, index: int, payload: Payload) -> Task:
    """Return one call of a bundle as a task of its own."""
    body = bundle.body._replace(payload=payload, kind=SINGLE_CALL)
    return bundle._replace(id=call_id(bundle.id, index), body=body)


def pack_calls(payloads: list[bytes]) -> bytes:
    packed: bytes = msgpack.packb(payloads)
    return packed


def unpack_calls(payload: Payload) -> list[bytes]:
    """Return the payloads of a bundle's calls; raise ValueError, or an exception of msgpack, if they are malformed."""
    calls: list[bytes] = msgpack.unpackb(whole(payload))
    return calls


def pack_results(results: Results) -> bytes:
    packed: bytes = msgpack.packb(results)
    return packed


def unpack_results(payload: Payload) -> Results:
    """Return the results of a bundle's calls; raise ValueError, or an exception of msgpack, if they are malformed."""
    results = Results(*msgpack.unpackb(whole(payload)))
    sound = (
        all(type(column) is list for column in results)
        and len(results.payloads) == len(results.durations)
        and all(type(payload) is bytes for payload in results.payloads)
        and all(type(seconds) is float and math.isfinite(seconds) for seconds in results.durations)
        and all(type(index) is int for index in results.failed)
    )
    if not sound:
        raise ValueError("these are no results of calls")
    return results


def result_at(payload: Payload, index: int) -> tuple[bytes, float, bool]:
    """Return payload, seconds and failure of one call, as `unpack_results` would.

    A coordinator uses this, because it examines results of any client for any client: it creates no objects for the
    other calls, and large results take no longer. Raises ValueError, IndexError or struct.error if the results are
    malformed.
    """
    parts = (payload,) if isinstance(payload, bytes) else buffers_of(payload)
    if len(parts) != 1:
        raise ValueError("results of calls are in one piece")
    column = ColumnReader(memoryview(parts[0]))
    if column.count() != len(Results._fields):
        raise ValueError("results of calls are of three columns")
    count = column.count()
    if not 0 <= index < count <= MAX_BUNDLED:
        raise ValueError(f"{count} results of calls")
    for _ in range(index):
        column.skip_bytes()
    start, end = column.skip_bytes()
    for _ in range(index + 1, count):
        column.skip_bytes()
    if column.count() != count:
        raise ValueError("results of calls have a duration each")
    durations = [column.double() for _ in range(count)]
    failed = [column.index() for _ in range(min(column.count(), count))]
    if column.at != len(column.data) or not (math.isfinite(durations[index]) and durations[index] >= 0):
        raise ValueError("these are no results of calls")
    return bytes(column.data[start:end]), durations[index], index in failed


class ColumnReader:
    """Reads packed `Results` without creating objects for their contents."""

    __slots__ = ("at", "data")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def _number(self, size: int) -> int:
        """Return the big-endian number behind the present byte."""
        start = self.at + 1
        self.at = start + size
        if self.at > len(self.data):
            raise ValueError("results of calls are cut off")
        return int.from_bytes(self.data[start : self.at], "big")

    def count(self) -> int:
        """Return the number of entries of the list that begins here."""
        kind = self.data[self.at]
        if kind & 0xF0 == 0x90:
            self.at += 1
            return kind & 0x0F
        return self._number({0xDC: 2, 0xDD: 4}.get(kind) or self._wrong(kind))

    def skip_bytes(self) -> tuple[int, int]:
        """Skip a byte string, and return its position and size."""
        kind = self.data[self.at]
        size = self._number({0xC4: 1, 0xC5: 2, 0xC6: 4}.get(kind) or self._wrong(kind))
        start, self.at = self.at, self.at + size
        return start, self.at

    def double(self) -> float:
        if self.data[self.at] != 0xCB:
            self._wrong(self.data[self.at])
        (number,) = struct.unpack_from(">d", self.data, self.at + 1)
        self.at += 9
        return float(number)

    def index(self) -> int:
        kind = self.data[self.at]
        if kind < 0x80:
            self.at += 1
            return kind
        return self._number({0xCC: 1, 0xCD: 2}.get(kind) or self._wrong(kind))

    @staticmethod
    def _wrong(kind: int) -> NoReturn:
        raise ValueError(f"results of calls hold something of type {kind:#x}")


def whole(payload: Payload) -> bytes:
    """Return a payload in one piece, because a wire may make a separate frame of a small payload."""
    return payload if isinstance(payload, bytes) else b"".join(buffers_of(payload))


def outcome_of_call(outcome: Outcome, index: int) -> Outcome | None:
    """Return the outcome of one call of a bundle; None if the bundle's outcome does not tell it."""
    task, detail = call_id(outcome.id, index), location_of(outcome)
    if outcome.status not in (OK, SPLIT):
        told = outcome.status == ERROR and "too_large" not in (outcome.detail or {})
        return outcome._replace(id=task) if told else None
    try:
        payload, seconds, failed = result_at(outcome.payload, index)
    except (ValueError, IndexError, struct.error):
        return None  # it had not begun, or a worker has sent nonsense
    return Outcome(task, outcome.attempt, ERROR if failed else OK, payload, seconds, detail)


def location_of(outcome: Outcome) -> Detail | None:
    """Return the part of a detail that tells where the task ran."""
    detail = outcome.detail or {}
    location: Detail = {}
    if "worker" in detail:
        location["worker"] = detail["worker"]
    if "host" in detail:
        location["host"] = detail["host"]
    return location or None
