"""Fields of tasks, peers and slots: beside the class that has them, one class writes each of them."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PROTOCOL = Path(__file__).parents[1] / "jobrunner" / "protocol"

OBJECTS = {
    "coordinator": ("record", "bundle", "present", "client", "worker", "peer"),
    "worker": ("task", "slot"),
}
"""The names by which the cores' parts call the objects that they share."""


def written(code: ast.AST) -> list[tuple[str, str]]:
    """The fields of shared objects to which that code assigns: the object's name, and the field."""
    targets: list[ast.expr] = []
    for node in ast.walk(code):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets.append(node.target)
    flat = [
        each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])
    ]
    return [
        (each.value.id, each.attr)
        for each in flat
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name)
    ]


def writers(core: str) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    for path in (PROTOCOL / core).glob("*.py"):
        for code in ast.parse(path.read_text()).body:
            if isinstance(code, (ast.ClassDef, ast.FunctionDef)):
                for name, field in written(code):
                    if name in OBJECTS[core]:
                        found["record" if name in ("bundle", "present") else name, field].add(code.name)
    return found


@pytest.mark.parametrize("core", OBJECTS)
def test_each_field_is_written_by_one_class(core):
    found = writers(core)
    assert found
    assert {field: names for field, names in found.items() if len(names) > 1} == {}
