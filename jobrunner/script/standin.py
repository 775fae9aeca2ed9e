"""The stand-in for a program's script in a process that runs the program's calls.

There is one `Script` per program, whose module becomes `sys.modules["__main__"]` while calls of that program run. The
package's docstring says how and when it is filled.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from jobrunner.pickling.function_fingerprint import is_of
from jobrunner.pickling.loading import load_global, loads
from jobrunner.script import ctypes_classes
from jobrunner.script import per_thread as threads
from jobrunner.script.current import NAMES, Program, own_token, script_module
from jobrunner.script.definition import (
    CLASS,
    VALUE,
    Entry,
    Image,
    Outline,
    Part,
    Parts,
    unpacked_image,
)
from jobrunner.system import forks

MAX_ROUNDS = 5
"""Maximum number of attempts to load globals that hold each other.

An attempt may leave one of them with the result of another one's failure.
"""

MAX_SCRIPTS = 8
"""Maximum number of programs whose scripts a process keeps.

The one that has been unused for longest is dropped, together with all that its calls have set there.
"""


class ScriptModule(ModuleType):
    """The module of a stand-in, which loads a global when it is asked for."""

    __slots__ = ("__script",)  # a mangled name, because the script may have a global of any plain name

    def __init__(self, script: Script) -> None:
        super().__init__(script.program.name)
        self.__script = script

    def __getattr__(self, name: str) -> Any:
        found, value = self.__script.find(name)
        if found:
            return value
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    @classmethod
    def script_of(cls, module: ModuleType | None) -> Script | None:
        """Return the script for which the module stands, or None for any other module."""
        return module.__script if type(module) is cls else None


class _Unfilled(NamedTuple):
    """A class that was created, and its attributes: name, version and pickle of each."""

    name: str
    made: type
    attributes: list[tuple[str, bytes, bytes]]
    functions: frozenset[str]
    """The names of the attributes that are functions."""
    containers: dict[str, type]
    """The kinds of the attributes that are lists, dictionaries, sets and the like, by name."""
    renewed: list[bytes]
    """Names of globals that have become other objects since the class was last filled."""


class Script:
    """The stand-in for one program's script. Any thread may call it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.module = ScriptModule(self)
        self.variables: dict[str, Any] = self.module.__dict__
        _describe(self.module, program)
        self.received: dict[str, Entry] = {}
        """By name, the entry that was loaded last."""
        self.defined: dict[str, Any] = {}
        """The functions and classes that entries have created, by name."""
        self.image_part: Part | None = None
        """The image that was received last; calls that a call makes carry it on."""
        self._serial = -1
        self._stale: set[str] = set()
        """Names of globals that must be loaded again although the program has not changed them."""
        self._loads: dict[str, int] = {}
        """By name, the number of times an entry has been loaded."""
        self._holds: dict[str, dict[str, int]] = {}
        """By name, the load counts of the globals inside of it at the time when it was loaded."""
        self._pending: dict[str, tuple[Entry, Parts]] = {}
        self._in_image: dict[str, Entry] = {}
        self._image_order: dict[str, int] = {}
        self._attributes: dict[str, tuple[bytes, dict[str, bytes]]] = {}
        """By a class's name, how the class is built, and the version of each attribute that was received last."""
        self._loading: list[str] = []
        """Names of the globals that are being loaded, each on behalf of the one before it."""
        self._building: list[str] = []
        """Names of the classes that are being created, to which no attribute may refer yet."""
        self._unfilled: list[_Unfilled] = []
        """Classes that were created, and get their attributes as soon as no class is being created."""
        self._later: list[tuple[type, str, bytes, dict[str, bytes], bytes]] = []
        """Attributes that refer to globals that are still being loaded."""
        self._met_itself = False
        """True if a global that is being loaded was asked for before it existed."""
        self._last: Outline | None = None
        self._lock = forks.lock()

    # --- before a call --------------------------------------------------------------------------------------

    def prepare(self, outline: Outline, parts: Parts) -> None:
        """Load all that the definition needs. Raises SerializationError, which names the global."""
        if outline is self._last:
            return
        with self._lock:
            self._last = None  # an error leaves None here, so that the next call tries again
            if outline.image is not None and (
                self.image_part is None or outline.image != self.image_part.version
            ):
                self._take_image(outline.image, parts)
            for name in outline.gone:
                self._remove(name)
            self._load_all(outline.entries, parts)
            if outline.eager:
                for name in list(self._in_image):
                    # A global that cannot be loaded is absent, like one that could not be pickled.
                    with contextlib.suppress(Exception):
                        self.find(name)
            self._last = outline

    def enter(self) -> None:
        """Become the `__main__` of this process, or of the calling thread if each thread has its own."""
        if threads.enter(self.module):
            if self.program.name == NAMES[1]:
                sys.modules[NAMES[1]] = sys.modules["__main__"]
        elif sys.modules.get("__main__") is not self.module:
            sys.modules["__main__"] = self.module
            if self.program.name == NAMES[1]:
                sys.modules[NAMES[1]] = self.module
            else:
                sys.modules.pop(NAMES[1], None)

    def find(self, name: str) -> tuple[bool, Any]:
        """Return whether the script has such a global, and its value; load it first if necessary."""
        with self._lock:
            pending = self._pending.get(name)
            if pending is not None:
                self._load(*pending)
            elif name in self._in_image and name not in self.received:
                self._load_from_image(name)
            if name in self._loading and name not in self.variables:
                self._met_itself = True
            return name in self.variables, self.variables.get(name)

    # --- entries ----------------------------------------------------------------------------------------------

    def _load_all(self, entries: Iterable[Entry], parts: Parts) -> None:
        entries = list(entries)
        try:
            for _ in range(MAX_ROUNDS):
                changed = self._new_among(entries)
                if not changed:
                    break
                self._unload(changed, parts)
                while self._load_pending(changed, parts):
                    pass
                # A global may hold the result of another one's failed load, so all are checked again.
        finally:
            self._pending.clear()

    def _unload(self, entries: Iterable[Entry], parts: Parts) -> None:
        for entry in entries:
            self._pending[entry.name] = entry, parts
            if entry.kind != CLASS:
                self.variables.pop(entry.name, None)

    def _load_pending(self, entries: Iterable[Entry], parts: Parts) -> bool:
        """Load all pending entries; return whether some remain for another round.

        A tuple cannot exist before its contents, but a list can. If the two hold each other, the list must be first. So
        must a table in which an instance looks for itself while it is loaded, if the instance is in that table. When
        the wrong one was first, its load fails, and it is pending again together with all that was loaded meanwhile.
        """
        failed = None
        before = len(self._pending)
        for entry in entries:
            if entry.name not in self._pending:
                continue
            pending = [self._pending[name][0] for name in self._pending]
            self._met_itself = False
            try:
                self._load(entry, parts)
            except Exception as exc:
                if not self._met_itself and _name_that_was_missing(exc) not in self._pending:
                    raise
                failed = exc
                self._unload(pending, parts)
        if failed is not None and len(self._pending) == before:
            raise failed
        return failed is not None and bool(self._pending)

    def _new_among(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that have changed, and those that hold one of these and must get the new object."""
        old: list[Entry] = []
        new: list[Entry] = []
        for entry in entries:
            (new if self._is_new(entry) else old).append(entry)
        names = {entry.name for entry in new}
        while new and (holders := [entry for entry in old if not names.isdisjoint(entry.shares)]):
            names.update(entry.name for entry in holders)
            new += holders
            old = [entry for entry in old if entry.name not in names]
        return new

    def _is_new(self, entry: Entry) -> bool:
        known = self.received.get(entry.name)
        if known is None or known.version != entry.version or entry.name in self._stale:
            return True
        return bool(self._renewed_in(entry.name))

    def _renewed_in(self, name: str) -> list[str]:
        """Return the globals inside of that one that have been loaded since it was, or are about to be."""
        holds = self._holds.get(name, {})
        return [
            held for held, loads in holds.items() if self._loads.get(held) != loads or held in self._pending
        ]

    def _load(self, entry: Entry, parts: Parts) -> None:
        self._pending.pop(entry.name, None)
        self._stale.discard(entry.name)
        self.received[entry.name] = entry
        self._loads[entry.name] = self._loads.get(entry.name, 0) + 1
        self._loading.append(entry.name)
        if entry.kind == CLASS:
            self._building.append(entry.name)
        try:
            if entry.stream is not None:
                value = load_global(entry.name, entry.stream)
            else:
                value = load_global(entry.name, parts[entry.version])
        except BaseException:
            self._give_up(entry)
            if self._met_itself:
                self._pending[entry.name] = entry, parts
            raise
        self._loading.pop()
        if entry.shares:
            self._holds[entry.name] = {name: self._loads.get(name, 0) for name in entry.shares}
        else:
            self._holds.pop(entry.name, None)
        if self.variables.get(entry.name, self) is not value:
            self.variables[entry.name] = value
        if entry.kind != VALUE:
            self.defined[entry.name] = value
        else:
            self.defined.pop(entry.name, None)
        if not self._loading:
            self._set_later()

    def _give_up(self, entry: Entry) -> None:
        """Remove all that is incomplete after a failed load."""
        self._loading.pop()
        if entry.name in self._building:
            self._building.remove(entry.name)
        self.received.pop(entry.name, None)
        if entry.kind == VALUE:
            self.variables.pop(entry.name, None)
        if not self._loading:
            for unfilled in self._unfilled:
                self.received.pop(unfilled.name, None)
            self._unfilled.clear()
            self._later.clear()

    def _remove(self, name: str) -> None:
        """Remove a global that the program has deleted.

        The class stays in `defined`, so that instances keep their class if it returns.
        """
        if self.received.pop(name, None) is not None:
            self.variables.pop(name, None)
            self._holds.pop(name, None)

    def _take_image(self, key: bytes, parts: Parts) -> None:
        image = unpacked_image(load_global("the script", parts[key]))
        if image.serial < self._serial:
            return
        self._serial, self.image_part = image.serial, Part(key, parts[key])
        before, self._in_image = self._in_image, {entry.name: entry for entry in image.entries}
        self._image_order = {name: place for place, name in enumerate(self._in_image)}
        _take_sources(image)
        # Globals that came with the last image, and with no definition since, are replaced by those of the new image.
        received = self.received
        follows = [
            entry
            for entry in image.entries
            if entry.name in received and received[entry.name] is before.get(entry.name)
        ]
        self._load_all(follows, {})

    def _load_from_image(self, name: str) -> None:
        found = {name}
        waiting = [name]
        while waiting:
            for needed in self._in_image[waiting.pop()].needs:
                if needed in found or needed not in self._in_image:
                    continue
                if needed not in self.variables and needed not in self.received:
                    found.add(needed)
                    waiting.append(needed)
        for each in sorted(found, key=self._image_order.__getitem__):
            if each not in self.received:
                self._load(self._in_image[each], {})

    # --- classes ----------------------------------------------------------------------------------------------

    def made_class(
        self, name: str, skeleton: bytes, make: Callable[..., type], arguments: tuple[Any, ...]
    ) -> type:
        """Return the class of that name for `makers.script_class`."""
        known = self._attributes.get(name)
        made = self.defined.get(name)
        if known is None or known[0] != skeleton or not isinstance(made, type):
            if known is not None and made is not None:
                self._forget_holders_of(name, made)
            made = make(*arguments)
            self._attributes[name] = skeleton, {}
        self.variables[name] = self.defined[name] = made
        if name in self._building:
            self._building.remove(name)
        return made

    def _forget_holders_of(self, name: str, before: Any) -> None:
        """Mark all that refers to the class `before` to be loaded again, because the class becomes another object."""
        for other, entry in list(self.received.items()):
            if name not in entry.needs or other in self._loading or other in self._stale:
                continue
            self._stale.add(other)
            if entry.kind != CLASS or other not in self._attributes:
                continue
            made = self.defined.get(other)
            if made is not before and isinstance(made, type) and before in made.__mro__:
                del self._attributes[other]
                self._forget_holders_of(other, made)
            else:
                self._attributes[other][1].clear()

    def set_class(
        self,
        name: str,
        made: type,
        attributes: list[tuple[str, bytes, bytes]],
        functions: list[str],
        containers: dict[str, type],
    ) -> None:
        """Set the attributes of a class for `makers.set_script_class`; `functions` names those that are functions.

        Attributes may refer to subclasses of this class that are being created, so they are set after these exist. All
        functions are set before all other attributes, because instances need them.
        """
        self._unfilled.append(
            _Unfilled(
                name,
                made,
                attributes,
                frozenset(functions),
                containers,
                [held.encode() for held in self._renewed_in(name)],
            )
        )
        if self._building:
            return
        unfilled, self._unfilled = self._unfilled, []
        for one in unfilled:
            self._begin_filling(one)
        for one in unfilled:
            self._fill(one, [attribute for attribute in one.attributes if attribute[0] in one.functions])
        for one in unfilled:
            self._fill(one, [attribute for attribute in one.attributes if attribute[0] not in one.functions])

    def _begin_filling(self, one: _Unfilled) -> None:
        name, made = one.name, one.made
        versions = self._attributes[name][1]
        present = {attribute for attribute, _, _ in one.attributes}
        for attribute in [attribute for attribute in versions if attribute not in present]:
            del versions[attribute]
            if attribute in made.__dict__:
                delattr(made, attribute)
        if ctypes_classes.is_kind_of_ctypes(type(made)):
            return  # fields can be set only once
        for attribute, _, _ in one.attributes:
            # Attributes keep the order of the program's class. A `__new__` that looks for an existing instance finds
            # None.
            if (
                not attribute.startswith("__")
                and attribute not in versions
                and attribute not in made.__dict__
            ):
                empty = one.containers.get(attribute)
                type.__setattr__(made, attribute, None if empty is None else empty())

    def _fill(self, one: _Unfilled, attributes: list[tuple[str, bytes, bytes]]) -> None:
        from jobrunner.script.makers import set_attribute

        versions = self._attributes[one.name][1]
        for attribute, version, stream in attributes:
            if versions.get(attribute) == version and not any(name in stream for name in one.renewed):
                continue
            self._met_itself = False
            try:
                value = loads(stream)
            except Exception:
                if not self._met_itself:
                    raise
                self._later.append((one.made, attribute, version, versions, stream))
                continue
            set_attribute(one.made, attribute, value)
            versions[attribute] = version

    def _set_later(self) -> None:
        from jobrunner.script.makers import set_attribute

        while self._later:
            made, attribute, version, versions, stream = self._later.pop(0)
            set_attribute(made, attribute, loads(stream))
            versions[attribute] = version

    # --- what goes back ---------------------------------------------------------------------------------------

    def knows(self, name: str) -> bool:
        """Return whether the program has that function or class under this name, as far as this process knows."""
        return name in self.defined and self.variables.get(name) is self.defined[name]

    def has_own(self) -> bool:
        """Return whether calls have set globals to functions or classes that the program does not have."""
        defined = self.defined
        return any(
            value is not defined.get(name)
            for name, value in list(self.variables.items())
            if is_of(value, (FunctionType, type)) and value.__module__ in NAMES
        )


_scripts: OrderedDict[str, Script] = OrderedDict()
_lock = forks.lock()


def current() -> Script | None:
    """Return the stand-in that this process or thread has as its script, or None in the program itself."""
    return ScriptModule.script_of(script_module())


def enter(outline: Outline, parts: Parts) -> Script | None:
    """Make the script of that program the one of this process, and ready for calls of the definition.

    Returns None if this process runs the program itself.
    """
    if outline.program.token == own_token():
        threads.leave()
        return None
    script = current()
    if script is None or script.program.token != outline.program.token:
        script = _of_program(outline.program)
    script.enter()
    script.prepare(outline, parts)
    return script


def of_token(token: str) -> Script:
    """Return the stand-in for that program, which is being loaded."""
    return _scripts[token]


def variables_of(token: str) -> dict[str, Any]:
    """Return the globals of that program's script in this process, which are empty if the program is not known yet."""
    return module_of(token).__dict__


def module_of(token: str) -> ModuleType:
    """Return the module of that program's script in this process, which is new if the program is not known yet."""
    if token == own_token():
        module = script_module()
        if module is not None:
            return module
    known = _scripts.get(token)
    if known is None:
        known = _of_program(Program(token, "__main__", None, None, None))
    return known.module


def _of_program(program: Program) -> Script:
    with _lock:
        known = _scripts.get(program.token)
        if known is None:
            known = _scripts[program.token] = Script(program)
            while len(_scripts) > MAX_SCRIPTS:
                _scripts.popitem(last=False)
        _scripts.move_to_end(program.token)
    return known


def _describe(module: ModuleType, program: Program) -> None:
    import builtins

    variables = module.__dict__
    variables["__builtins__"] = builtins
    variables["__package__"] = program.package
    if program.file is not None:
        variables["__file__"] = program.file
    if program.spec is not None:
        module.__spec__ = importlib.machinery.ModuleSpec(program.spec, None, origin=program.file)


def _name_that_was_missing(exc: BaseException | None) -> str | None:
    """Return the global that code of the script has asked for in vain during a load, or None."""
    while exc is not None:
        if isinstance(exc, NameError) and exc.name is not None:
            return exc.name
        exc = exc.__cause__
    return None


def _take_sources(image: Image) -> None:
    """Give `linecache` the text of the script's files as the program has them, for tracebacks and `inspect`."""
    import linecache

    for file, text in image.sources:
        # An entry without a time is not compared with a file of this host.
        linecache.cache[file] = len(text), None, text.splitlines(True), file
