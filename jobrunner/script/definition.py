"""The form in which globals of a script travel.

Definitions consist of plain data, which is pickled without classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script.current import Program


class Entry(NamedTuple):
    """One global of the script, pickled by itself."""

    name: str
    version: bytes
    """A hash of the pickle; equal versions mean equal values."""
    stream: bytes | None
    """The pickle, or None if it travels as the part of the same version."""
    needs: tuple[str, ...]
    """Names of the globals that must exist when the entry is used."""
    kind: str
    """One of `FUNCTION`, `CLASS` and `VALUE`."""
    shares: tuple[str, ...] = ()
    """The names in `needs` whose objects are inside of the value, so that it cannot be loaded without them."""


FUNCTION = "f"
CLASS = "c"
VALUE = "v"


class Part(NamedTuple):
    """A large pickle that travels beside definitions, once per host."""

    version: bytes
    payload: Payload


class Image(NamedTuple):
    """The script as a whole, see the package's docstring."""

    serial: int
    """A number that rises with each image of a program, so that an older image never replaces a newer one."""
    entries: tuple[Entry, ...]
    sources: tuple[tuple[str, str], ...]
    """Names and texts of the files that contain the script's code, for tracebacks."""


class Outline(NamedTuple):
    """The part of a definition that describes the script."""

    program: Program
    parts: tuple[bytes, ...]
    """The versions of the definition's parts, in their order, because the parts have other keys on the wire."""
    image: bytes | None
    """The version of the part that holds the Image."""
    eager: bool
    """True if the whole image must be loaded because the code looks for globals in ways that cannot be followed."""
    entries: tuple[Entry, ...]
    place: str | None
    """The place of the function among the globals ("work", "Class.method"), or None if it is `target`."""
    target: bytes | None
    """The pickle of a function that is not a global."""
    fresh: bool
    """True if `target` contains an argument, so that it is unpickled anew for each call."""
    gone: tuple[str, ...] = ()
    """Names of globals that the script had once and no longer has."""


def needed_first(entries: Iterable[Entry], script: Iterable[str]) -> tuple[Entry, ...]:
    """Return the entries in an order in which each follows those that it needs.

    The order matters because code of the script may run while a global is loaded. `script` has the names of the globals
    in their order, in which functions and classes were also created. Values come last, because a global that was set
    again keeps its old position.
    """
    given = {entry.name: entry for entry in entries}
    known = {name: given[name] for name in dict.fromkeys((*script, *given)) if name in given}
    alone = [entry for entry in known.values() if not entry.needs]
    code = [entry for entry in known.values() if entry.needs and entry.kind != VALUE]
    values = [entry for entry in known.values() if entry.needs and entry.kind == VALUE]
    names = {entry.name for entry in values}
    return (*alone, *code, *(entry for entry in _behind_needs(values, known) if entry.name in names))


def _behind_needs(group: list[Entry], known: dict[str, Entry]) -> list[Entry]:
    """Return these entries and all that they need, which precede them as far as that is possible."""
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
    """Return the image as tuples, which can be unpickled without importing anything."""
    return image.serial, tuple(map(tuple, image.entries)), image.sources


def unpacked_image(fields: tuple[Any, ...]) -> Image:
    serial, entries, sources = fields
    return Image(serial, tuple(Entry(*entry) for entry in entries), sources)


def packed_outline(outline: Outline) -> tuple[Any, ...]:
    """Return the outline as tuples, which can be unpickled without importing anything."""
    return (tuple(outline.program), *outline[1:4], tuple(map(tuple, outline.entries)), *outline[5:])


def unpacked_outline(fields: tuple[Any, ...]) -> Outline:
    program, parts, image, eager, entries, *rest = fields
    return Outline(Program(*program), parts, image, eager, tuple(Entry(*entry) for entry in entries), *rest)


Parts = Mapping[bytes, Payload]
"""The parts of a definition, by version."""
