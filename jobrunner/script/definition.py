"""What a definition says of the script: the form in which globals travel. Plain data only, pickled without classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script.current import Program


class Entry(NamedTuple):
    """One global of the script, pickled by itself."""

    name: str
    version: bytes
    """A hash of its pickle: equal versions are equal values."""
    stream: bytes | None
    """The pickle; None where it travels apart: the part of the same version."""
    needs: tuple[str, ...]
    """Globals that have to be there when it is used."""
    kind: str
    """`FUNCTION`, `CLASS` or `VALUE`."""
    shares: tuple[str, ...] = ()
    """Those of `needs` that are objects inside of it, without which it cannot be loaded."""


FUNCTION = "f"
CLASS = "c"
VALUE = "v"


class Part(NamedTuple):
    """What travels beside definitions, once per host."""

    version: bytes
    payload: Payload


class Image(NamedTuple):
    """The script as a whole, see the package."""

    serial: int
    """Rises with each image of a program: an older one is not gone back to."""
    entries: tuple[Entry, ...]
    sources: tuple[tuple[str, str], ...]
    """Names and texts of the files that the script's code comes from, for tracebacks."""


class Outline(NamedTuple):
    """The part of a definition that is about the script."""

    program: Program
    parts: tuple[bytes, ...]
    """The versions of the definition's parts, in their order: on the way their keys become others."""
    image: bytes | None
    """Which of them holds the Image."""
    eager: bool
    """All of the image has to be loaded: the code looks for globals in ways that cannot be followed."""
    entries: tuple[Entry, ...]
    place: str | None
    """The function is this global ("work", "Class.method"); else it is `target`."""
    target: bytes | None
    """The pickle of the function."""
    fresh: bool
    """What `target` holds is an argument: it is unpickled anew for each call."""
    gone: tuple[str, ...] = ()
    """Globals that the script had once, and has no more."""


def needed_first(entries: Iterable[Entry], script: Iterable[str]) -> tuple[Entry, ...]:
    """In an order in which each has what it needs: code of the script may run while a global is loaded.

    `script` are the names of its globals in their order, in which functions and classes have been made there, too.
    Values come last, for what has a new value may stand anywhere.
    """
    given = {entry.name: entry for entry in entries}
    known = {name: given[name] for name in dict.fromkeys((*script, *given)) if name in given}
    alone = [entry for entry in known.values() if not entry.needs]
    code = [entry for entry in known.values() if entry.needs and entry.kind != VALUE]
    values = [entry for entry in known.values() if entry.needs and entry.kind == VALUE]
    names = {entry.name for entry in values}
    return (*alone, *code, *(entry for entry in _behind_needs(values, known) if entry.name in names))


def _behind_needs(group: list[Entry], known: dict[str, Entry]) -> list[Entry]:
    """These and all that they need, which stands before them as far as that is possible."""
    found = []
    seen: set[str] = set()
    for first in group:
        if first.name in seen:
            continue
        seen.add(first.name)
        begun = [(first, iter(first.needs))]
        while begun:
            entry, needs = begun[-1]
            name = next((name for name in needs if name in known and name not in seen), None)
            if name is None:
                found.append(entry)
                begun.pop()
            else:
                seen.add(name)
                begun.append((known[name], iter(known[name].needs)))
    return found


def packed_image(image: Image) -> tuple[Any, ...]:
    """As tuples, which need nothing imported to be unpickled."""
    return image.serial, tuple(map(tuple, image.entries)), image.sources


def unpacked_image(fields: tuple[Any, ...]) -> Image:
    serial, entries, sources = fields
    return Image(serial, tuple(Entry(*entry) for entry in entries), sources)


def packed_outline(outline: Outline) -> tuple[Any, ...]:
    """As `packed_image`."""
    return (tuple(outline.program), *outline[1:4], tuple(map(tuple, outline.entries)), *outline[5:])


def unpacked_outline(fields: tuple[Any, ...]) -> Outline:
    program, parts, image, eager, entries, *rest = fields
    return Outline(Program(*program), parts, image, eager, tuple(Entry(*entry) for entry in entries), *rest)


Parts = Mapping[bytes, Payload]
"""The parts of a definition, by version."""
