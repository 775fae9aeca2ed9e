"""What a field of a message may hold: the limits, and the checks that `codec` decodes with.

The law: nothing is made because a peer says so. What a number on the wire announces (frames, entries, bytes) is
compared with what has really arrived before anything is allocated for it; a number that later code adds to, multiplies
or sleeps for has bounds; and what passes can be sent on as it is. A violation raises ProtocolError.

Senders keep to the same limits, else a peer that follows them would be taken for a broken one: long names are refused
or cut where they are given, and `batches` cuts what has gathered into messages that fit.
"""

from __future__ import annotations

from typing import Any

from jobrunner.config import (
    MAX_AMOUNT,
    MAX_NAME_LENGTH,
    MAX_PEER_TIMEOUT,
    MAX_SLOTS,
    SHORTEST_PEER_TIMEOUT,
)
from jobrunner.errors import ProtocolError

MAX_HEADER_BYTES = 64 * 1024 * 1024
"""Bytes of a message's first frame. Real ones stay below half of it: `batches` cuts at 8 MiB, and from
`codec.LARGE_HEADER` on payloads and functions are frames of their own."""

MAX_FRAMES = 2**20
"""Of one message. A payload takes one, and one more per out-of-band buffer (each numpy array in it, say)."""

MAX_ARGUMENT_LENGTH = 4 * MAX_NAME_LENGTH
"""Characters of what a Query is about, an id, say; an error repeats it."""

MAX_KEY_LENGTH = 256
"""Bytes of a function's key, which is a hash."""

MAX_TASK_LENGTH = MAX_NAME_LENGTH - 64
"""Characters of the id of a call that a client submits. That of a call of a bundle, or of a part of a chunk, which goes
on by itself is longer, and has to have room in a worker's messages."""

MAX_ENTRIES = 2**16
"""Of one list in a message of a client: each of its entries may have an answer. Clients send less (`batches`)."""

MAX_HELD = 2**20
"""Tasks that a worker comes back with."""

MAX_BUFFERS = 2**17
"""Frames of one payload, and of a function with all its parts: a call comes to its worker in one message, with its
function, its initializer and what it needs."""

MAX_DEPENDENCIES = 2**16
"""Calls whose results one call needs: these come to its worker in one message."""

MAX_BUNDLED = 256
"""Calls in one bundle; clients make smaller ones. For who asks for one of its calls, the results of all are gone
through."""

MAX_MODULES = 256
"""Names of modules that come with one function."""

MAX_PARTS = 4096
"""Parts of one function."""

MAX_RESOURCES = 256
"""Different resources that one call asks for."""

MAX_AWAITED = 1024
"""Calls that one task is said to wait for."""

MAX_RETRY_ON_BYTES = 8 * 1024 * 1024
"""Bytes of the pickled classes of exceptions that come with one call."""

MAX_MAP_ENTRIES = 4096
"""Entries of one map."""

MAX_DEPTH = 32
"""Levels of what may hold anything (details, replies). msgpack reads about a thousand levels, but its older versions
write only 511, and what is sent on may become a part of something deeper."""

MAX_INTEGER = 2**53
"""The largest integer; sums of many still fit into the 64 bits that msgpack has."""

LARGEST_32 = 2**31 - 1
MAX_SEED = 2**32 - 1
"""The largest number of an attempt, of retries, and of a priority (which may be as far below 0)."""

INFINITY = float("inf")

SCALARS = frozenset((type(None), bool, int, float, str, bytes))


def shown(value: Any) -> str:
    """A value in an error's text; without making one of a whole message that is in the wrong place."""
    if type(value) in (str, bytes):
        value = value[:20]
    elif type(value) not in (int, float, bool, type(None)):
        return f"a {type(value).__name__}"
    return f"{value!r:.40}"


def text(value: Any) -> Any:
    if type(value) is not str:
        raise ProtocolError(f"expected a string, got {type(value).__name__}")
    return value


def name(value: Any) -> Any:
    """The name or id of anything."""
    if type(value) is not str or len(value) > MAX_NAME_LENGTH:
        text(value)
        raise ProtocolError(
            f"a name or id has {len(value)} characters, at most {MAX_NAME_LENGTH} are allowed"
        )
    return value


def argument(value: Any) -> Any:
    """Of a Query."""
    if len(text(value)) > MAX_ARGUMENT_LENGTH:
        raise ProtocolError(
            f"a question is about {len(value)} characters, at most {MAX_ARGUMENT_LENGTH} may be"
        )
    return value


def task(value: Any) -> Any:
    """The id of a call that is submitted."""
    if len(name(value)) > MAX_TASK_LENGTH:
        raise ProtocolError(f"a call's id has {len(value)} characters, at most {MAX_TASK_LENGTH} are allowed")
    return value


def entries(value: Any) -> tuple[Any, ...]:
    """What a client names in one message."""
    return limited(value, MAX_ENTRIES, "a list of {} entries")


def integer(value: Any, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
    if type(value) is not int or not minimum <= value <= maximum:
        raise ProtocolError(f"expected an integer from {minimum} to {maximum}, got {shown(value)}")
    return value


def attempt(value: Any) -> int:
    """The number of an attempt."""
    return integer(value, 1, LARGEST_32)


def unbegun(value: Any, attempt: int) -> int:
    """How many of the attempts before this one never began."""
    return integer(value, 0, attempt - 1)


def number(value: Any) -> float:
    """Seconds, or an amount: not negative, not infinite, not NaN (for which every comparison is false)."""
    if (type(value) is not float and type(value) is not int) or not 0 <= value < INFINITY:
        raise ProtocolError(f"expected a finite number from 0, got {shown(value)}")
    return value


def amount(value: Any) -> float:
    """Of a resource."""
    checked = number(value)
    if checked > MAX_AMOUNT:
        raise ProtocolError(f"an amount of a resource is at most {MAX_AMOUNT:g}, got {shown(value)}")
    return checked


def timeout(value: Any) -> float:
    """A shorter one would be silent between two heartbeats, a longer one leaves its traces here for very long."""
    if not SHORTEST_PEER_TIMEOUT <= number(value) <= MAX_PEER_TIMEOUT:
        raise ProtocolError(
            f"a peer timeout must be {SHORTEST_PEER_TIMEOUT:g} to {MAX_PEER_TIMEOUT:g} s, got {shown(value)}"
        )
    return float(value)


def slots(value: Any) -> int:
    return integer(value, 1, MAX_SLOTS)


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ProtocolError(f"expected true or false, got {type(value).__name__}")
    return value


def binary(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ProtocolError(f"expected bytes, got {type(value).__name__}")
    return value


def retry_on(value: Any) -> bytes:
    """The classes of exceptions after which a call may run again."""
    if len(binary(value)) > MAX_RETRY_ON_BYTES:
        raise ProtocolError(f"retry_on has {len(value)} bytes, at most {MAX_RETRY_ON_BYTES} are allowed")
    return binary(value)


def resources(value: Any) -> tuple[tuple[str, float], ...]:
    """Pairs of a name and an amount that a call asks for."""
    pairs = limited(value, MAX_RESOURCES, "a call asks for {} resources")
    return tuple([(name(what), amount(much)) for what, much in map(sequence, pairs)])


def key(value: Any) -> bytes:
    """The key of a function."""
    if type(value) is not bytes or len(value) > MAX_KEY_LENGTH:
        binary(value)
        raise ProtocolError(f"a function's key has {len(value)} bytes, at most {MAX_KEY_LENGTH} are allowed")
    return value


def sequence(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise ProtocolError(f"expected a list, got {type(value).__name__}")
    return value


def limited(value: Any, most: int, what: str) -> tuple[Any, ...]:
    """A list of at most so many entries. The error says `what` has how many, in the place of {}."""
    items = sequence(value)
    if len(items) > most:
        raise ProtocolError(f"{what.format(len(items))}, at most {most} are allowed")
    return items


def amounts(value: Any) -> dict[str, float]:
    """Of resources, by name."""
    if type(value) is not dict:
        raise ProtocolError(f"expected a map, got {type(value).__name__}")
    return {name(what): amount(much) for what, much in value.items()}


def span(value: Any) -> tuple[int, int] | int:
    """Of a chunk, or the number of calls in a bundle."""
    if type(value) is int:
        return integer(value, 1, MAX_BUNDLED)
    start, stop = sequence(value)
    if integer(stop, 1) <= integer(start):
        raise ProtocolError(f"a span from {start} to {stop} is empty")
    return start, stop


def names(value: Any) -> tuple[Any, ...]:
    return tuple(map(name, sequence(value))) if value else sequence(value)


def awaited(value: Any) -> tuple[Any, ...]:
    """The ids of calls that a task waits for."""
    return names(limited(value, MAX_AWAITED, "a task waits for {} calls"))


def depends_on(value: Any) -> tuple[Any, ...]:
    """Calls whose results a call needs."""
    return names(limited(value, MAX_DEPENDENCIES, "a call needs {} others"))


def modules(value: Any) -> tuple[str, ...]:
    """Names of modules that a function needs or brings along."""
    return names(limited(value, MAX_MODULES, "a function names {} modules"))


def parts(value: Any) -> tuple[bytes, ...]:
    """The keys of a function's parts, which are different from each other."""
    found = tuple(map(key, limited(value, MAX_PARTS, "a function has {} parts")))
    if len(set(found)) < len(found):
        raise ProtocolError("a function names one part twice")
    return found


def name_list(value: Any) -> list[Any]:
    return [name(item) for item in sequence(value)]


def keys(value: Any) -> list[bytes]:
    return [key(item) for item in sequence(value)]


# --- what may hold anything ---------------------------------------------------------------------------------------


def plain(value: Any, room: int = MAX_DEPTH) -> Any:
    """Anything that msgpack knows without extensions, of bounded depth."""
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


TEXT = (str,)
COUNT = (int,)
SECONDS = (int, float)
MAYBE_TEXT = (str, type(None))
MAYBE_COUNT = (int, type(None))
DETAIL_TYPES: dict[str, tuple[type, ...]] = {
    "error": TEXT,
    "exit_code": MAYBE_COUNT,
    "signal": MAYBE_TEXT,
    "host": TEXT,
    "worker": TEXT,
    "pid": COUNT,
    "peak_memory": COUNT,
    "stderr": TEXT,
    "traceback": TEXT,
    "element": COUNT,
    "running": COUNT,
    "stop": COUNT,
    "modules": (tuple,),
    "setup": (bool,),
    "most_calls": COUNT,
    "attempts": (tuple,),
    "limit": COUNT,
    "timeout": (*SECONDS, type(None)),
    "need": TEXT,
    "need_name": TEXT,
    "need_status": COUNT,
    "need_detail": (dict, type(None)),
}
"""What is read of an Outcome's detail somewhere; further facts may be anything."""


def detail(value: Any, room: int = MAX_DEPTH) -> dict[str, Any]:
    """The detail of an Outcome, see there."""
    if type(value) is not dict:
        raise ProtocolError(f"expected a map, got {type(value).__name__}")
    plain(value, room)
    for what, item in value.items():
        types = DETAIL_TYPES.get(what)
        if types is not None and type(item) not in types:
            raise ProtocolError(f"a detail {what!r} may not be of type {type(item).__name__}")
    if value.get("need_detail") is not None:
        detail(value["need_detail"], room - 1)
    return value
