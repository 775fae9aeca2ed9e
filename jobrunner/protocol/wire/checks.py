"""The limits of the fields of messages, and the types of values with which `messages` declares them.

The law: no object is created because a peer announces it. A number on the wire that announces frames, entries or bytes
is compared with the data that has really arrived before anything is allocated for it; a number that later code adds to,
multiplies or sleeps for has bounds; and a value that passes can be sent on unchanged. A violation raises ProtocolError.

The type of a field says how its values are checked, and `typing.Annotated` adds the limit:

    Annotated[str, Length(4, "a code has {} characters")]       a str or bytes of limited length
    Annotated[int, Between(1, 9)], Annotated[int, Below("attempt")]
    Annotated[float, Finite()]                                  a finite number from 0
    Annotated[list[Name], AtMost(9, "a list of {} names")]      a list or tuple with a limited number of entries
    Annotated[tuple[Key, ...], Different("one key twice")]      a tuple whose entries differ
    Annotated[Any, plain]                                       the value that this function returns

Senders keep to the same limits, because otherwise a correct peer would be taken for a broken one: long names are
refused or cut where they are given, and `batches` cuts gathered entries into messages that fit.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar

from jobrunner.config import (
    MAX_AMOUNT,
    MAX_NAME_LENGTH,
    MAX_PEER_TIMEOUT,
    MAX_SLOTS,
    SHORTEST_PEER_TIMEOUT,
)
from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire.kinds import Bundle, Chunk
from jobrunner.protocol.wire.outcome_detail import DETAIL_TYPES, OutcomeDetail

MAX_HEADER_BYTES = 64 * 1024 * 1024
"""Maximum size in bytes of a message's first frame. Regular ones have less than half of it, because `batches` cuts at
8 MiB, and payloads and functions are frames of their own from `codec.LARGE_HEADER` on."""

MAX_FRAMES = 2**20
"""Maximum number of frames of one message. A payload takes one frame, and one more per out-of-band buffer, for example
per numpy array."""

MAX_ARGUMENT_LENGTH = 4 * MAX_NAME_LENGTH
"""Maximum number of characters of the argument of a Query, such as an id, because an error repeats it."""

MAX_KEY_LENGTH = 256
"""Maximum size in bytes of a function's key, which is a hash."""

MAX_TASK_LENGTH = MAX_NAME_LENGTH - 64
"""Maximum number of characters of the id of a call that a client submits. The id of a call of a bundle, or of a part
of a chunk, is longer and must fit into a worker's messages."""

MAX_ENTRIES = 2**16
"""Maximum number of entries of one list in a client's message, because each entry may have an answer; clients send
fewer (`batches`)."""

MAX_HELD = 2**20
"""Maximum number of tasks with which a worker reconnects."""

MAX_BUFFERS = 2**17
"""Maximum number of frames of one payload, and of a function with all its parts, because a call travels to its worker
in one message, with its function, its initializer and its dependency results."""

MAX_DEPENDENCIES = 2**16
"""Maximum number of calls on which one call depends, because their results travel to its worker in one message."""

MAX_BUNDLED = 256
"""Maximum number of calls in one bundle, because the results of all of them are read for a client that asks for one;
clients make smaller bundles."""

MAX_MODULES = 256
"""Maximum number of module names of one function."""

MAX_PARTS = 4096
"""Maximum number of parts of one function."""

MAX_RESOURCES = 256
"""Maximum number of different resources that one call requires."""

MAX_AWAITED = 1024
"""Maximum number of calls in the report of one task's wait."""

MAX_RETRY_ON_BYTES = 8 * 1024 * 1024
"""Maximum size in bytes of the pickled exception classes of one call."""

MAX_MAP_ENTRIES = 4096
"""Maximum number of entries of one map."""

MAX_DEPTH = 32
"""Maximum number of levels of values of any type (details, replies). msgpack reads about a thousand levels, but its
older versions write only 511, and a value may become a part of something deeper."""

MAX_INTEGER = 2**53
"""The largest integer, so that sums of many still fit into the 64 bits of msgpack."""

LARGEST_32 = 2**31 - 1
"""The largest number of an attempt, of retries, and of a priority, whose smallest value is -2**31."""

MAX_SEED = 2**32 - 1


def shown(value: Any) -> str:
    """Return a value for an error's text, without converting a whole message that is in the wrong place."""
    if type(value) in (str, bytes):
        value = value[:20]
    elif type(value) not in (int, float, bool, type(None)):
        return f"a {type(value).__name__}"
    return f"{value!r:.40}"


# --- the limits of one value --------------------------------------------------------------------------------------

CALLED = {str: "a string", bytes: "bytes", bool: "true or false", tuple: "a list", dict: "a map"}


def wrong_type(expected: type, value: Any) -> NoReturn:
    raise ProtocolError(f"expected {CALLED[expected]}, got {type(value).__name__}")


class Limit:
    """The limit of a single value.

    `codec_functions` writes `test` into the code that reads a message, so that a legal value costs no call. For any
    other value that code calls `refuse`, which raises a ProtocolError.
    """

    types: tuple[type, ...]
    """The types of values to which the limit applies."""

    def test(self, value: str, kind: type) -> str:
        """Return an expression that tells whether the variable of this name has the type, and is within the limit."""
        raise NotImplementedError

    def arguments(self, value: str) -> str:
        """Return the arguments for the call of `refuse`."""
        return value

    def refuse(self, kind: type, value: Any) -> NoReturn:
        raise NotImplementedError


class Length(Limit):
    """The maximum number of characters of a string, or of bytes.

    `says` is the error text, with {} for the actual number.
    """

    types = (str, bytes)

    def __init__(self, most: int, says: str) -> None:
        self.most, self.says = most, says

    def test(self, value: str, kind: type) -> str:
        return f"type({value}) is {kind.__name__} and len({value}) <= {self.most}"

    def refuse(self, kind: type, value: Any) -> NoReturn:
        found = type(value)
        if found is not kind:
            wrong_type(kind, value)
        raise ProtocolError(f"{self.says.format(len(value))}, at most {self.most} are allowed")


class AnyLength(Limit):
    """A string that only people read, which is limited only by the size of the whole message."""

    types = (str, bytes)

    def test(self, value: str, kind: type) -> str:
        return f"type({value}) is {kind.__name__}"

    def refuse(self, kind: type, value: Any) -> NoReturn:
        wrong_type(kind, value)


class Between(Limit):
    """An integer in a range that includes both ends."""

    types = (int,)

    def __init__(self, least: int, most: int, says: str = "") -> None:
        self.least, self.most, self.says = least, most, says

    def test(self, value: str, kind: type) -> str:
        return f"type({value}) is int and {self.least} <= {value} <= {self.most}"

    def refuse(self, kind: type, value: Any) -> NoReturn:
        if self.says:
            raise ProtocolError(self.says.format(shown(value)))
        not_between(value, self.least, self.most)


class Below(Limit):
    """An integer from 0 on that is smaller than an earlier field of the same record."""

    types = (int,)

    def __init__(self, field: str) -> None:
        self.field = field

    def test(self, value: str, kind: type) -> str:
        return f"type({value}) is int and 0 <= {value} < {self.field}"

    def arguments(self, value: str) -> str:
        return f"{value}, {self.field}"

    def refuse(self, kind: type, value: Any, end: int = 0) -> NoReturn:
        not_between(value, 0, end - 1)


class Finite(Limit):
    """The limit of a time in seconds or of an amount, which is finite and not negative, and not NaN.

    Every comparison with NaN is false. `says` is the error text for a finite number beyond either end.
    """

    types = (float,)

    def __init__(self, least: float = 0.0, most: float = sys.float_info.max, says: str = "") -> None:
        self.least, self.most, self.says = least, most, says

    def test(self, value: str, kind: type) -> str:
        return f"(type({value}) is float or type({value}) is int) and {self.least} <= {value} <= {self.most}"

    def refuse(self, kind: type, value: Any) -> NoReturn:
        if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
            raise ProtocolError(f"expected a finite number from 0, got {shown(value)}")
        raise ProtocolError(f"{self.says}, got {shown(value)}")


def not_between(value: Any, least: int, most: int) -> NoReturn:
    raise ProtocolError(f"expected an integer from {least} to {most}, got {shown(value)}")


# --- the limits of lists ------------------------------------------------------------------------------------------


class AtMost:
    """The maximum number of entries of a list; `says` is the error text, with {} for the actual number."""

    def __init__(self, most: int, says: str) -> None:
        self.most, self.says = most, says

    def checked(self, value: Any) -> tuple[Any, ...]:
        items = sequence(value)
        if len(items) > self.most:
            raise ProtocolError(f"{self.says.format(len(items))}, at most {self.most} are allowed")
        return items


class Different:
    """A tuple whose entries differ from each other; `says` is the error text."""

    def __init__(self, says: str) -> None:
        self.says = says

    def checked(self, found: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(found)) < len(found):
            raise ProtocolError(self.says)
        return found


class LeftOut:
    """A record that is None on the wire if it has its default value, as it mostly does."""

    def __init__(self, default: Any) -> None:
        self.default = default


class Cut:
    """A string that the sender cuts if it is longer than its Length, because nobody has chosen it."""


def sequence(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple:
        wrong_type(tuple, value)
    return value


def mapping(value: Any) -> Any:
    if type(value) is not dict:
        wrong_type(dict, value)
    return value


# --- what many fields hold ----------------------------------------------------------------------------------------

NAME = Length(MAX_NAME_LENGTH, "a name or id has {} characters")
Name: TypeAlias = Annotated[str, NAME]
"""The name of anything; ids are NewTypes of str, so they are names, too, and need no such annotation."""

Text: TypeAlias = Annotated[str, AnyLength()]
Count: TypeAlias = Annotated[int, Between(0, MAX_INTEGER)]
Positive: TypeAlias = Annotated[int, Between(1, MAX_INTEGER)]
Attempt: TypeAlias = Annotated[int, Between(1, LARGEST_32)]
Seconds: TypeAlias = Annotated[float, Finite()]
Slots: TypeAlias = Annotated[int, Between(1, MAX_SLOTS)]
PeerTimeout: TypeAlias = Annotated[
    float,
    Finite(
        SHORTEST_PEER_TIMEOUT,
        MAX_PEER_TIMEOUT,
        f"a peer timeout must be {SHORTEST_PEER_TIMEOUT:g} to {MAX_PEER_TIMEOUT:g} s",
    ),
]
"""A peer timeout in seconds; a shorter one would be exceeded between two heartbeats, and a longer one would keep the
records of a silent peer for very long."""

Amount: TypeAlias = Annotated[
    float, Finite(0.0, MAX_AMOUNT, f"an amount of a resource is at most {MAX_AMOUNT:g}")
]

Entry = TypeVar("Entry")
Entries: TypeAlias = Annotated[list[Entry], AtMost(MAX_ENTRIES, "a list of {} entries")]
"""A list of entries in a client's message."""


def text(value: Any) -> Any:
    if type(value) is not str:
        wrong_type(str, value)
    return value


def name(value: Any) -> Any:
    if len(text(value)) > MAX_NAME_LENGTH:
        NAME.refuse(str, value)
    return value


def integer(value: Any, least: int = 0, most: int = MAX_INTEGER) -> int:
    if type(value) is not int or not least <= value <= most:
        not_between(value, least, most)
    return value


def checked_kind(value: Any) -> Chunk | Bundle:
    """Return the kind of a task that is no single call, after checking it."""
    if len(sequence(value)) == 1:
        return Bundle(integer(value[0], 1, MAX_BUNDLED))
    start, stop = value
    if integer(stop, 1) <= integer(start):
        raise ProtocolError(f"a chunk from {start} to {stop} is empty")
    return Chunk(start, stop)


# --- what may hold anything ---------------------------------------------------------------------------------------


SCALARS = frozenset((type(None), bool, int, float, str, bytes))


def plain(value: Any, room: int = MAX_DEPTH) -> Any:
    """Return a value of any type that msgpack knows without extensions, with a bounded depth, after checking it."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is not tuple and kind is not dict:
        raise ProtocolError(f"a {kind.__name__} has no place in a message")
    if not room:
        raise ProtocolError(f"lists and maps are nested more than {MAX_DEPTH} levels deep")
    if kind is dict:
        for what, item in value.items():
            text(what)
            plain(item, room - 1)
    else:
        for item in value:
            plain(item, room - 1)
    return value


def checked_detail(value: Any, room: int = MAX_DEPTH) -> OutcomeDetail:
    """Return the detail of an Outcome, after checking it."""
    plain(mapping(value), room)
    for what, item in value.items():
        types = DETAIL_TYPES.get(what)
        if types is not None and type(item) not in types:
            raise ProtocolError(f"a detail {what!r} may not be of type {type(item).__name__}")
    if value.get("need_detail") is not None:
        checked_detail(value["need_detail"], room - 1)
    detail: OutcomeDetail = value
    return detail
