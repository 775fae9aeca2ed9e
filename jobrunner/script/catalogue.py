"""The catalogue of a script: its globals as entries, and the definitions that are made of them.

A definition is all that the receiving process needs to run a call. Entries and definitions are kept from one submit to
the next, so that only changes are pickled again.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable
from hashlib import blake2b
from types import FunctionType
from typing import Any, NamedTuple

from jobrunner.pickling.bounded_memory import Kept
from jobrunner.pickling.function_fingerprint import is_of
from jobrunner.pickling.required_modules import PROTOCOL
from jobrunner.protocol.wire.payloads import OUT_OF_BAND, Store
from jobrunner.script import images
from jobrunner.script.definition import (
    CLASS,
    FUNCTION,
    VALUE,
    Entry,
    Image,
    Outline,
    Part,
    needed_first,
    packed_image,
    packed_outline,
)
from jobrunner.script.digests import digest_of
from jobrunner.script.looks import Look, Looker, dump
from jobrunner.script.modes import GLOBAL, TARGET
from jobrunner.script.origin import Origin
from jobrunner.script.pickler import pickled
from jobrunner.script.unchanged import Unchanged
from jobrunner.system import forks

KEY_BYTES = 16

MAX_DEFINITIONS = 256
"""Maximum number of functions whose last definition is kept."""

MAX_BYTES = 32 * 1024 * 1024
"""Maximum size in bytes of the kept definitions. Their parts do not count, because definitions share them."""


class Defined(NamedTuple):
    """A function with all that it needs of the script."""

    outline: bytes
    """The pickle of an Outline as tuples, see `packed_outline`."""
    parts: tuple[Part, ...]
    referenced: list[Any]
    """Objects to which the pickles refer by name."""


class Unpicklable(Exception):
    """The error that says which global of a call cannot be pickled, and why."""

    def __init__(self, name: str, value: Any, reason: Exception) -> None:
        super().__init__(name)
        self.name = name
        self.value = value
        self.reason = reason


class _Known(NamedTuple):
    """A definition, and the looks that were taken when it was made."""

    looks: dict[str, Look]
    pickles: bool
    """True if a value in it may have changed inside and was pickled to find that out."""
    globals: int
    modules: int
    gone: tuple[str, ...]
    defined: Defined


class _Quick(NamedTuple):
    """A definition of a plain function, and a quick look that tells whether it is still current."""

    look: Unchanged
    defined: Defined


class _Listed(NamedTuple):
    """An entry, and the look that was taken when it was made."""

    look: Look
    entry: Entry
    referenced: list[Any]
    part: Part | None


class Catalogue:
    """The entries and definitions of one script. Thread-safe."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._lock = forks.lock()
        self._listed: dict[str, _Listed] = {}
        self._values: dict[str, Any] = {}
        """The value of each listed global, by its name."""
        self._known: Kept[Any, _Known] = Kept(MAX_DEFINITIONS, MAX_BYTES)
        self._quick: dict[int, _Quick] = {}
        self._serial = 0
        self._image: tuple[bytes, Part] | None = None

    def define(
        self,
        fn: Any,
        names: Iterable[str],
        by_value: frozenset[str],
        target: Callable[[], tuple[bytes, list[Any], Iterable[str]]] | None = None,
        *,
        store: Store | None = None,
        key: Any = None,
        fresh: bool = False,
    ) -> Defined:
        """Return the definition of `fn`, which includes the globals `names` in any case.

        `target` pickles a function that is not the script's own; its pickle stays the same as long as `key` does.
        `store` takes large globals. Raises Unpicklable, or whatever pickling raises.
        """
        if target is None:
            quick = self._quick.get(id(fn))
            if quick is not None and not names and quick.look.fn is fn and quick.look.holds():
                return quick.defined
        looker = Looker(self._origin, by_value)
        with self._lock:
            if target is not None:
                self._origin.begin(self._values)
                return self._define_other(looker, names, target, store, key, fresh)
            key = id(fn.__code__), frozenset(names)
            known = self._known.get(key)
            before = () if known is None else known.looks
            if known is not None and not known.pickles:
                own = looker.at_function(fn)
                looks = self._look_at(looker, {"": own}, [*own.names, *names, *before])
                if self._is_current(known, looks):
                    return self._quickly(fn, looks, known.defined)
            self._origin.begin(self._values)
            own = looker.at_function(fn)
            looks = self._look_at(looker, {"": own}, [*own.names, *names, *before])
            if known is not None and self._is_current(known, looks):
                return known.defined
            place = self._origin.place(fn)
            if place is not None:
                looks |= self._look_at(looker, looks, [place.partition(".")[0]])
                defined = self._made(looker, looks, store, place=place)
            else:
                made = pickled(fn, TARGET)
                looks = self._look_at(looker, looks, made.names)
                defined = self._made(looker, looks, store, made.stream, made.referenced)
            self._keep(key, looks, defined)
            return self._quickly(fn, looks, defined)

    def _quickly(self, fn: FunctionType, looks: dict[str, Look], defined: Defined) -> Defined:
        """Return the definition, and keep it under the function itself if a quick look can check it."""
        if not any(look.eager for look in looks.values()):
            look = Unchanged.of(fn, filter(None, looks), self._gone(), self._origin.variables)
            if look is not None:
                if len(self._quick) >= MAX_DEFINITIONS:
                    self._quick.clear()
                self._quick[id(fn)] = _Quick(look, defined)
        return defined

    def _define_other(
        self,
        looker: Looker,
        names: Iterable[str],
        target: Callable[[], tuple[bytes, list[Any], Iterable[str]]],
        store: Store | None,
        key: Any,
        fresh: bool,
    ) -> Defined:
        place = key, frozenset(names)
        known = None if key is None else self._known.get(place)
        if known is not None and self._is_current(known, self._look_at(looker, {}, [*names, *known.looks])):
            return known.defined
        stream, referenced, needed = target()
        looks = self._look_at(looker, {}, [*needed, *names])
        defined = self._made(looker, looks, store, stream, referenced, fresh=fresh)
        if key is not None:
            self._keep(place, looks, defined)
        return defined

    def _keep(self, key: Any, looks: dict[str, Look], defined: Defined) -> None:
        pickles = any(look.digests for look in looks.values())
        known = _Known(looks, pickles, len(self._origin.variables), len(sys.modules), self._gone(), defined)
        self._known.put(key, known, len(defined.outline))

    def _is_current(self, known: _Known, looks: dict[str, Look]) -> bool:
        before = known.looks
        return (
            known.globals == len(self._origin.variables)
            and known.modules == len(sys.modules)
            and known.gone == self._gone()
            and all(name in before and look.same(before[name]) for name, look in looks.items())
        )

    def _gone(self) -> tuple[str, ...]:
        """Return the names of globals that were listed and that the script no longer has."""
        variables = self._origin.variables
        return tuple([name for name in self._listed if name not in variables])

    def _look_at(self, looker: Looker, looks: dict[str, Look], names: Iterable[str]) -> dict[str, Look]:
        """Look at these globals and at those that they need, and return the looks together with those in `looks`."""
        variables = self._origin.variables
        found = dict(looks)
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found or name not in variables:
                continue
            value = variables[name]
            try:
                found[name] = look = looker.at(value, name)
            except Exception as exc:
                raise Unpicklable(name, value, exc) from exc
            waiting += look.names
        return found

    # --- entries ----------------------------------------------------------------------------------------------

    def listed(self, name: str, look: Look, store: Store | None) -> _Listed:
        """Return the entry of a global; `store` takes its pickle if that is large. Raises Unpicklable."""
        value = self._origin.variables[name]
        known = self._listed.get(name)
        if known is not None and self._values[name] is value and look.same(known.look):
            return known
        received = self._received(name, look)
        if received is not None:
            return received
        made_here = self._is_made_by(name, value)
        try:
            if look.pickle is not None:
                made, buffers = look.pickle, look.buffers
            else:
                made, buffers = dump(value, GLOBAL, name if made_here else None)
        except Exception as exc:
            raise Unpicklable(name, value, exc) from exc
        kind = CLASS if is_of(value, type) else FUNCTION
        if not made_here or not is_of(value, (type, FunctionType)):
            kind = VALUE
        version = digest_of(made.stream, *buffers)
        part = None
        if buffers or len(made.stream) >= OUT_OF_BAND:
            stored = None if store is None else store((made.stream, *buffers))
            part = Part(version, (made.stream, *map(bytes, buffers)) if stored is None else stored)
        needs = tuple(dict.fromkeys((*made.names, *look.names)))
        entry = Entry(name, version, None if part else made.stream, needs, kind, tuple(made.shares))
        look.pickle, look.buffers = None, []
        self._values[name] = value
        listed = self._listed[name] = _Listed(look, entry, made.referenced, part)
        return listed

    def _is_made_by(self, name: str, value: Any) -> bool:
        """Return whether the entry creates the value under this name; otherwise the value is found at another place."""
        place = self._origin.place(value)
        return place == name or (place is None and not is_of(value, type))

    def _received(self, name: str, look: Look) -> _Listed | None:
        """Return the entry as the program has sent it, if this process stands in for the program."""
        standin = self._origin.standin
        if standin is None or not standin.knows(name) or name in self._listed:
            return None
        entry = standin.received.get(name)
        if entry is None or entry.stream is None:
            return None
        self._values[name] = self._origin.variables[name]
        made = self._listed[name] = _Listed(look, entry, [], None)
        return made

    # --- definitions --------------------------------------------------------------------------------------------

    def _made(
        self,
        looker: Looker,
        looks: dict[str, Look],
        store: Store | None,
        target: bytes | None = None,
        referenced: Iterable[Any] = (),
        *,
        place: str | None = None,
        fresh: bool = False,
    ) -> Defined:
        listed = self._listed_all(looker, looks, store)
        eager = any(look.eager for look in looks.values())
        image = self._imaged(store)
        parts = [one.part for one in listed if one.part is not None]
        if image is not None:
            parts.append(image)
        outline = Outline(
            self._origin.program,
            tuple(part.version for part in parts),
            None if image is None else image.version,
            eager,
            needed_first((one.entry for one in listed), list(self._origin.variables)),
            place,
            target,
            fresh,
            self._gone(),
        )
        return Defined(
            pickle.dumps(packed_outline(outline), PROTOCOL),
            tuple(parts),
            [*referenced, *(thing for one in listed for thing in one.referenced)],
        )

    def _listed_all(self, looker: Looker, looks: dict[str, Look], store: Store | None) -> list[_Listed]:
        """Return the entries of all in `looks`, and of the globals that only their pickles refer to.

        The looks of the latter are added to `looks`.
        """
        listed = []
        waiting = [name for name in looks if name]
        while waiting:
            listed += [self.listed(name, looks[name], store) for name in waiting]
            known = len(looks)
            for one in listed[-len(waiting) :]:
                looks.update(self._look_at(looker, looks, one.entry.shares))
            waiting = list(looks)[known:]
        return listed

    def _imaged(self, store: Store | None) -> Part | None:
        """Return the image of the script as it is now, see `images`."""
        standin = self._origin.standin
        if standin is not None:
            return standin.image_part
        entries = images.entries(self, Looker(self._origin, frozenset()), store)
        sources = images.sources(self._origin)
        content = pickle.dumps((entries, sources), PROTOCOL)
        if self._image is None or self._image[0] != content:
            self._serial += 1
            stream = pickle.dumps(packed_image(Image(self._serial, entries, sources)), PROTOCOL)
            key = blake2b(stream, digest_size=KEY_BYTES).digest()
            self._image = content, Part(key, stream if len(stream) < OUT_OF_BAND else (stream,))
        return self._image[1]


_catalogue: Catalogue | None = None


def of(origin: Origin) -> Catalogue:
    """Return the catalogue of this process's script."""
    global _catalogue
    known = _catalogue
    if known is None or known._origin is not origin:
        known = _catalogue = Catalogue(origin)
    return known
