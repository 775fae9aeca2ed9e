"""Who may import whom. The rules are the table below; a module that is in no row fails the test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jobrunner"

RULES = {
    "errors": set(),
    "version": set(),
    "system": {"errors"},
    "config": {"errors"},
    "protocol.wire": {"config", "errors"},
    "protocol": {"config", "protocol.wire"},
    "protocol.client": {"protocol", "protocol.wire"},
    "protocol.worker": {"config", "protocol", "protocol.wire"},
    "protocol.coordinator": {"config", "protocol", "protocol.wire"},
    "nested": set(),
    "display": {"protocol.wire"},
    "shared_memory": {"protocol.wire"},
    "pickling": {"errors", "protocol.wire"},
    "script": {"pickling", "protocol.wire", "system"},
    "calls": {"errors", "pickling", "protocol.wire", "script"},
    "fixed": {"calls", "errors", "pickling", "protocol.wire", "script"},
    "shipping": {"calls", "config", "errors", "nested", "system"},
    "program": {"calls", "errors", "protocol.wire", "shipping", "system"},
    "transport": {"config", "errors", "protocol", "protocol.wire", "shared_memory", "system"},
    "keys": {"config", "errors", "protocol", "protocol.wire", "system", "transport"},
    "workers": {
        *(
            "calls",
            "config",
            "errors",
            "fixed",
            "keys",
            "nested",
            "program",
            "protocol",
            "protocol.coordinator",
        ),
        *(
            "protocol.wire",
            "protocol.worker",
            "script",
            "shared_memory",
            "shipping",
            "system",
            "transport",
            "version",
        ),
    },
    "coordinator.journal": {"config", "errors", "keys", "protocol", "protocol.coordinator", "protocol.wire"},
    "coordinator": {
        *(
            "config",
            "coordinator.journal",
            "errors",
            "keys",
            "nested",
            "program",
            "protocol",
            "protocol.coordinator",
        ),
        *("protocol.wire", "shared_memory", "system", "transport", "version", "workers"),
    },
    "futures": {"display", "errors", "nested", "system"},
    "options": {"calls", "config", "errors", "protocol.wire"},
    "backends": {
        *(
            "calls",
            "config",
            "coordinator",
            "display",
            "errors",
            "fixed",
            "futures",
            "keys",
            "nested",
            "pickling",
        ),
        *("program", "protocol", "protocol.client", "protocol.coordinator", "protocol.wire", "shared_memory"),
        *("shipping", "system", "transport", "version", "workers"),
    },
    "backends.engine": {
        *(
            "backends",
            "calls",
            "config",
            "display",
            "errors",
            "fixed",
            "futures",
            "nested",
            "pickling",
            "protocol",
        ),
        *("protocol.wire", "script", "system"),
    },
    "mapping": {
        *("backends", "calls", "errors", "fixed", "futures", "nested", "protocol", "protocol.wire", "system"),
    },
    "executor": {
        *(
            "backends",
            "config",
            "display",
            "errors",
            "fixed",
            "futures",
            "mapping",
            "options",
            "protocol.wire",
        ),
    },
    "async_executor": {"backends", "errors", "executor", "futures", "mapping", "nested"},
    "context": {"executor", "nested", "protocol.wire"},
    "admin": {"backends", "config"},
    "integrations": {
        *("backends", "config", "context", "errors", "executor", "futures", "nested", "protocol.wire"),
    },
}
"""Part of the package (a folder, or a module at the top) -> parts that it may import, for types as well.

Each row names only rows above it, or itself, so no two parts import each other.
"""

FREE = {"cli", "testing", "__init__", "__main__", "backends.__init__"}
"""They may import everything; no part in RULES imports them. `backends/__init__.py` is a front for other packages."""

FORBIDDEN_TO_PROTOCOL = {
    *(
        "zmq",
        "socket",
        "threading",
        "asyncio",
        "time",
        "pickle",
        "cloudpickle",
        "select",
        "mmap",
        "multiprocessing",
    ),
}
"""Also by way of other modules of this package."""


def sources():
    seen = {}
    for folder in (PACKAGE, PACKAGE / "workers", PACKAGE / "cli"):  # rglob does not follow the links
        for path in folder.rglob("*.py"):
            seen[path.relative_to(PACKAGE).as_posix()] = path
    return seen


SOURCES = sources()
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in SOURCES}


def part_of(name):
    """The part that a module belongs to, from its path within the package."""
    if name == "backends/__init__.py":
        return "backends.__init__"
    folders = name.split("/")[:-1]
    if folders[:1] in (["cli"], ["testing"]):
        return folders[0]
    return ".".join(folders) if folders else name.removesuffix(".py")


def imports(path, *, types=False):
    """Absolute names of everything that the module imports, also inside functions; `types`: and for types alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only and not types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules(path, *, types=False):
    """The paths of the modules of the package that a module imports."""
    found = set()
    for name in imports(path, types=types):
        dotted = name.removeprefix("jobrunner.")
        if name.startswith("jobrunner."):
            module = dotted if dotted in MODULES else dotted.rpartition(".")[0]
            found.add(MODULES.get(module, "__init__.py"))
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_imports(name):
    part = part_of(name)
    used = {part_of(other) for other in own_modules(SOURCES[name], types=True)} - {part}
    if part in FREE:
        assert part in ("__main__", "cli") or "cli" not in used
    else:
        assert part in RULES, f"{name}: add a row to RULES, and say in the design why"
        assert used <= RULES[part], f"{name} must not import {used - RULES[part]}"


def test_no_two_parts_import_each_other():
    above = set()
    for part, used in RULES.items():
        assert used <= above, f"{part} may not import {used - above}, which is further down"
        above.add(part)


def test_the_top_shows_what_users_import():
    modules = {name for name in SOURCES if "/" not in name}
    assert len(modules) <= 12, sorted(modules)


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_sockets_and_their_keys_import_zmq(name):
    if name not in ("transport/sockets.py", "transport/curve.py") and part_of(name) != "testing":
        tops = {imported.split(".")[0] for imported in imports(SOURCES[name])}
        assert "zmq" not in tops


def reached_from(name):
    """All modules of the package that a module has imported, directly or not, once it is imported."""
    seen, todo = set(), [name]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += own_modules(SOURCES[module])
    return seen


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name).startswith("protocol")])
def test_the_protocol_is_free_of_io(name):
    for module in sorted(reached_from(name)):
        if part_of(module) not in ("config", "errors", "__init__"):
            tops = {imported.split(".")[0] for imported in imports(SOURCES[module])}
            assert not tops & FORBIDDEN_TO_PROTOCOL, f"{name} has {module}"
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{name}:{node.lineno}: randomness must be given, not taken"


def test_the_coordinator_never_unpickles():
    for name, path in SOURCES.items():
        if part_of(name).split(".")[0] in ("coordinator", "protocol", "transport"):
            tops = {imported.split(".")[0] for imported in imports(path)}
            assert not tops & {"pickle", "cloudpickle", "marshal", "shelve"}, name


def test_only_clients_and_slots_unpickle():
    """These have all of it, and are imported by what runs calls and what takes their results."""
    unpickling = {
        name
        for name, path in SOURCES.items()
        if part_of(name) != "testing"
        and any(f"pickle.{way}(" in path.read_text() for way in ("load", "loads", "Unpickler"))
    }
    assert unpickling == {
        *("pickling/loading.py", "pickling/pickling_errors.py"),
        *("calls/serialization.py", "fixed/own_pickles.py"),
    }
    importing = {
        part_of(name) for name, path in SOURCES.items() if "calls/serialization.py" in own_modules(path)
    }
    assert importing <= {
        *(
            "backends",
            "backends.engine",
            "calls",
            "cli",
            "fixed",
            "mapping",
            "options",
            "program",
            "shipping",
        ),
        *("testing", "workers"),
    }


WALL_CLOCKS = ("time.time(", "time.time_ns(", "datetime.now", "datetime.utcnow", "date.today")


ALLOWED_CLOCKS = (
    "coordinator/journal/store.py",
    "coordinator/journal/recovery.py",
    "keys/keyring.py",
    "cli/keys.py",
    "shipping/module_versions.py",
)
"""The last one compares it with times of files."""


@pytest.mark.parametrize("name", SOURCES)
def test_only_what_outlives_the_process_asks_for_the_time_of_day(name):
    """A clock that is set must not make anybody wait, or give anybody up: all else is measured monotonically."""
    used = [clock for clock in WALL_CLOCKS if clock in SOURCES[name].read_text()]
    assert not used or name in ALLOWED_CLOCKS, f"{name} uses {used}"
