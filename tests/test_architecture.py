"""Who may import whom. The rules are the table below; a module that is in no row fails the test."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jobrunner"

LEAVES = {
    "errors",
    "ids",
    "version",
    "payloads",
    "blocking",
    "exiting",
    "host",
    "task_context",
    "descriptors",
    "elements",
    "pauses",
    "facts",
    "folders",
    "forks",
    "initializers",
    "interpreter",
    "configured",
    "configured_logging",
    "kept",
    "processor_time",
    "program",
    "representation",
    "settling",
    "shared_memory",
}
"""Over the standard library only; everything may import them."""

RULES = {
    "config": set(),
    "chunking": {"protocol"},
    "noting": set(),
    "pickling_errors": set(),
    "loading": {"pickling_errors"},
    "script": {"loading", "noting"},
    "serialization": {"loading", "noting", "script"},
    "fixed": {"loading", "noting", "script", "serialization"},
    "shipment": {"serialization"},
    "shipping": {"config", "serialization", "shipment"},
    "versions": set(),
    "inheritance": {"serialization"},
    "slot_setup": {"serialization", "shipment", "versions"},
    "protocol": {"config"},
    "transport": {"protocol", "config"},
    "coordinator": {"protocol", "transport", "config", "journal", "keyring", "invitation"},
    "private_files": set(),
    "process_list": set(),
    "invitation": {"config", "private_files", "process_list", "transport"},
    "identity": {"config", "private_files", "protocol", "transport"},
    "keyring": {"config", "identity", "private_files", "protocol", "transport"},
    "credentials": {"identity", "keyring", "protocol", "transport"},
    "joining": {"config", "identity", "invitation", "protocol", "transport"},
    "journal": {"journal_entries", "journal_reading", "payload_files", "private_files", "protocol"},
    "journal_reading": {"journal_entries", "payload_files", "protocol", "write_ahead_log"},
    "journal_entries": {"payload_files", "protocol"},
    "write_ahead_log": set(),
    "payload_files": {"private_files"},
    "local_cluster": {"config"},
    "embedded": {"config", "protocol", "transport", "workers"},
    "workers": {
        "protocol",
        "transport",
        "config",
        "credentials",
        "fixed",
        "serialization",
        "script",
        "shipment",
    },
    "backends": {
        "protocol",
        "transport",
        "fixed",
        "loading",
        "script",
        "serialization",
        "inheritance",
        "pickling_errors",
        "shipment",
        "shipping",
        "slot_setup",
        "config",
        "credentials",
        "futures",
        "dependencies",
        "local_cluster",
        "versions",
        "workers",
    },
    "dependencies": set(),
    "futures": set(),
    "context": {"executor", "protocol"},
    "admin": {"backends", "config"},
    "options": {"config", "protocol", "serialization"},
    "lifetime": {"backends"},
    "mapping": {"backends", "chunking", "fixed", "lifetime", "futures", "protocol", "serialization"},
    "submitted_map": {"fixed"},
    "progress_bar": {"futures", "mapping"},
    "executor": {
        "backends",
        "config",
        "futures",
        "lifetime",
        "mapping",
        "options",
        "progress_bar",
        "protocol",
        "submitted_map",
        "standard_pools",
    },
    "standard_pools": {"backends", "lifetime"},
    "async_executor": {"dependencies", "executor", "futures", "mapping"},
    "integrations": {"backends", "config", "context", "dependencies", "executor", "futures"},
    "workload": set(),
}
"""Part of the package -> parts that it may import beside the leaves and itself."""

FREE = {"cli", "testing", "__init__", "__main__"}
"""They may import everything; nobody imports them (but `__main__` the cli)."""

FORBIDDEN_TO_PROTOCOL = {"zmq", "socket", "threading", "asyncio", "time", "pickle", "cloudpickle", "select"}


def sources():
    seen = {}
    for folder in (PACKAGE, PACKAGE / "workers", PACKAGE / "cli"):  # rglob does not follow the links
        for path in folder.rglob("*.py"):
            seen[path.relative_to(PACKAGE).as_posix()] = path
    return seen


SOURCES = sources()


def part_of(name):
    """The part that a module belongs to, from its path within the package."""
    dotted = name.removesuffix(".py").replace("/", ".")
    return dotted if dotted in LEAVES else dotted.split(".")[0]


def imports(path):
    """Absolute names of everything that the module imports, also inside functions; not what only types need."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_parts(path):
    """The parts of the package that a module imports."""
    names = [name.removeprefix("jobrunner.") for name in imports(path) if name.startswith("jobrunner.")]
    return {part_of(".".join(name.split(".")[:2])) for name in names}


@pytest.mark.parametrize("name", SOURCES)
def test_imports(name):
    part = part_of(name)
    used = own_parts(SOURCES[name]) - {part}
    if part in FREE:
        assert part == "__main__" or part == "cli" or "cli" not in used
    elif part in LEAVES:
        assert used <= LEAVES, f"{name} is a leaf"
    else:
        assert part in RULES, f"{name}: add a row to RULES, and say in the design why"
        assert used <= RULES[part] | LEAVES, f"{name} must not import {used - RULES[part] - LEAVES}"


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name) in LEAVES])
def test_leaves_need_the_standard_library_only(name):
    tops = {imported.split(".")[0] for imported in imports(SOURCES[name])}
    assert tops - {"jobrunner"} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_sockets_and_their_keys_import_zmq(name):
    if name not in ("transport/sockets.py", "transport/curve.py") and part_of(name) != "testing":
        tops = {imported.split(".")[0] for imported in imports(SOURCES[name])}
        assert "zmq" not in tops


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name) == "protocol"])
def test_the_protocol_is_free_of_io(name):
    path = SOURCES[name]
    tops = {imported.split(".")[0] for imported in imports(path)}
    assert not tops & FORBIDDEN_TO_PROTOCOL
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{name}:{node.lineno}: randomness must be given, not taken"


def test_the_coordinator_never_unpickles():
    for name, path in SOURCES.items():
        if part_of(name) in ("coordinator", "protocol", "transport"):
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
    assert unpickling == {"loading.py", "pickling_errors.py", "serialization.py", "fixed/own_pickles.py"}
    importing = {
        part_of(name) for name, path in SOURCES.items() if "jobrunner.serialization" in imports(path)
    }
    assert importing <= {
        "backends",
        "fixed",
        "workers",
        "mapping",
        "options",
        "shipment",
        "shipping",
        "cli",
        "testing",
    }


WALL_CLOCKS = ("time.time(", "time.time_ns(", "datetime.now", "datetime.utcnow", "date.today")


ALLOWED_CLOCKS = ("journal.py", "journal_reading.py", "keyring.py", "cli/keys.py", "versions.py")
"""The last one compares it with times of files."""


@pytest.mark.parametrize("name", SOURCES)
def test_only_what_outlives_the_process_asks_for_the_time_of_day(name):
    """A clock that is set must not make anybody wait, or give anybody up: all else is measured monotonically."""
    used = [clock for clock in WALL_CLOCKS if clock in SOURCES[name].read_text()]
    assert not used or name in ALLOWED_CLOCKS, f"{name} uses {used}"
