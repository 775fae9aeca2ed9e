"""What stands for a program's script in a process that runs its calls.

One `Script` per program, with a module that becomes `sys.modules["__main__"]` while calls of that program run. See the
package for what it is filled with, and when.
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
"""Attempts to load globals that hold each other in such a way that some hold what came of another one's failure."""

MAX_SCRIPTS = 8
"""Programs whose scripts a process keeps: the longest unused one goes, with what its calls have left there."""


class ScriptModule(ModuleType):
    """The module of a stand-in: it loads what is asked for and not there yet."""

    __slots__ = ("__script",)  # the script may have a global of any plain name

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
        """The script for which the module stands; None if it is another one."""
        return module.__script if type(module) is cls else None


class _Unfilled(NamedTuple):
    """A class that was made, and its attributes: name, version and pickle of each."""

    name: str
    made: type
    attributes: list[tuple[str, bytes, bytes]]
    functions: frozenset[str]
    """The names of those that are functions."""
    containers: dict[str, type]
    """Of those, the lists, dictionaries, sets and the like, by kind."""
    renewed: list[bytes]
    """Names of globals that are other objects by now than when it was last filled."""


class Script:
    """The stand-in for one program's script. Calls and look-ups may come from any thread."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.module = ScriptModule(self)
        self.variables: dict[str, Any] = self.module.__dict__
        _describe(self.module, program)
        self.received: dict[str, Entry] = {}
        """By name, the entry that was loaded last."""
        self.defined: dict[str, Any] = {}
        """The functions and classes that entries have made, by name."""
        self.image_part: Part | None = None
        """The image that was received last: the calls of calls bring it along."""
        self._serial = -1
        self._stale: set[str] = set()
        """Names of what is to be loaded anew, though the program has not changed it."""
        self._loads: dict[str, int] = {}
        """By name, how often an entry has been loaded."""
        self._holds: dict[str, dict[str, int]] = {}
        """By name, the loads of the globals that are objects inside of what was loaded."""
        self._pending: dict[str, tuple[Entry, Parts]] = {}
        self._in_image: dict[str, Entry] = {}
        self._image_order: dict[str, int] = {}
        self._attributes: dict[str, tuple[bytes, dict[str, bytes]]] = {}
        """Of classes, by name: how it is built, and the version of each attribute that was received last."""
        self._loading: list[str] = []
        """Globals that are being loaded, each for the one before it."""
        self._building: list[str] = []
        """Classes that are being made, whose attributes nothing may refer to yet."""
        self._unfilled: list[_Unfilled] = []
        """Classes that were made, and get their attributes when nothing is being made."""
        self._later: list[tuple[type, str, bytes, dict[str, bytes], bytes]] = []
        """Attributes that refer to globals that are being loaded."""
        self._met_itself = False
        """A global that is being loaded was asked for, and is not there yet."""
        self._last: Outline | None = None
        self._lock = forks.lock()

    # --- before a call --------------------------------------------------------------------------------------

    def prepare(self, outline: Outline, parts: Parts) -> None:
        """Have everything as the definition says. Raises SerializationError, which names the global."""
        if outline is self._last:
            return
        with self._lock:
            self._last = None  # until all of it is there
            if outline.image is not None and (
                self.image_part is None or outline.image != self.image_part.version
            ):
                self._take_image(outline.image, parts)
            for name in outline.gone:
                self._remove(name)
            self._load_all(outline.entries, parts)
            if outline.eager:
                for name in list(self._in_image):
                    # What cannot be loaded is missed by whoever asks for it, as what could not be pickled.
                    with contextlib.suppress(Exception):
                        self.find(name)
            self._last = outline

    def enter(self) -> None:
        """Be the script of this process, or of the calling thread, where each has its own."""
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
        """Whether the script has such a global, and its value, which is loaded if it was not yet."""
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
                # What was met while another one was loaded in vain may hold what came of that: look again.
        finally:
            self._pending.clear()

    def _unload(self, entries: Iterable[Entry], parts: Parts) -> None:
        for entry in entries:
            self._pending[entry.name] = entry, parts
            if entry.kind != CLASS:
                self.variables.pop(entry.name, None)

    def _load_pending(self, entries: Iterable[Entry], parts: Parts) -> bool:
        """Load what is pending; whether some is left, for another round.

        A tuple cannot be there before what it holds, a list can: where both hold each other, the list has to be first.
        So does a table in which an instance looks for itself while it is loaded, if it is in that table.
        What was loaded in vain, since the wrong one was first, is pending again, with all that was loaded meanwhile.
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
        """Those that have changed, and those that hold one that has: they are to hold the new object."""
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
        """The globals inside of that one which have been loaded again since it was, or are about to be."""
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
        """Leave nothing behind that is half made."""
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
        """The program has deleted that global. Should the same class return, it is the one that instances have."""
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
        # What was loaded from the last image, and nothing else has brought since, follows the script.
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
        """See `makers.script_class`."""
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
        """The class, `before`, is about to be another object: what refers to it is to be loaded anew."""
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
        """See `makers.set_script_class`; `functions` are the names of those that are functions.

        Attributes may refer to classes that derive from this one, and are made just now: they wait until these are.
        All functions come before all other attributes, for instances need them.
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
            return  # fields can be set but once
        for attribute, _, _ in one.attributes:
            # In the order in which the program's class has them; also for a `__new__` that looks whether there is an
            # instance already.
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
        """Whether the program has that function or class under this name, as far as it is known here."""
        return name in self.defined and self.variables.get(name) is self.defined[name]

    def has_own(self) -> bool:
        """Whether calls have set globals to functions or classes that the program does not have."""
        defined = self.defined
        return any(
            value is not defined.get(name)
            for name, value in list(self.variables.items())
            if is_of(value, (FunctionType, type)) and value.__module__ in NAMES
        )


_scripts: OrderedDict[str, Script] = OrderedDict()
_lock = forks.lock()


def current() -> Script | None:
    """The stand-in that this process, or this thread, has as its script; None in a program."""
    return ScriptModule.script_of(script_module())


def enter(outline: Outline, parts: Parts) -> Script | None:
    """Make the script of that program the one of this process, and ready for calls of the definition.

    None where this process runs the program itself.
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
    """The stand-in for that program, which is being loaded."""
    return _scripts[token]


def variables_of(token: str) -> dict[str, Any]:
    """The globals of that program's script in this process; of a new module, where it is not known."""
    return module_of(token).__dict__


def module_of(token: str) -> ModuleType:
    """See `variables_of`."""
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
    """The global that code of the script has asked for in vain while something was loaded."""
    while exc is not None:
        if isinstance(exc, NameError) and exc.name is not None:
            return exc.name
        exc = exc.__cause__
    return None


def _take_sources(image: Image) -> None:
    """For tracebacks and `inspect`: the text of the script's files as the program has them."""
    import linecache

    for file, text in image.sources:
        # Without a time, so that nobody looks for a newer one on this host.
        linecache.cache[file] = len(text), None, text.splitlines(True), file
