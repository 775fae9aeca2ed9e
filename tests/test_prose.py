"""The docstrings and help texts that users read begin as sentences of their own, and argument blocks are whole.

Docstrings of the other modules stand alone, too; those of functions begin with a verb.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support import TESTS

import jobrunner
from jobrunner.admin import ClusterAdmin
from jobrunner.cli.app import app

ELLIPTIC = ("What", "Of", "Those", "That", "Who", "As", "See", "Where", "One")
"""First words of texts that are understood only together with the name above them."""

ELLIPTIC_INSIDE = frozenset((*ELLIPTIC, *("Which", "Whose", "How", "Why", "When", "It", "None", "So"))) - {
    "One"
}
"""The same for docstrings of functions that users do not call, and of classes, modules and attributes."""

NO_VERBS = frozenset(("The", "A", "An", "Whether", "This", "These", "All", "Both", "Its", "Their"))
"""First words with which the docstring of a function does not begin with a verb."""

ROOT = TESTS.parent
MODULES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("jobrunner", "workers", "cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any((ROOT / parent).is_symlink() for parent in path.relative_to(ROOT).parents)
]

SHORT_HELP = 60
"""Maximum number of characters of a command's first sentence, because the list of commands cuts off longer ones."""


def documented() -> Iterator[tuple[str, object]]:
    """All names that `jobrunner` exports, and their public members that are defined in this package."""
    yield "jobrunner", jobrunner
    exported = [(name, getattr(jobrunner, name)) for name in jobrunner.__all__]
    for name, found in [*exported, ("ClusterAdmin", ClusterAdmin)]:
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        if not found.__module__.startswith("jobrunner"):
            continue  # the standard library's words
        yield name, found
        if inspect.isclass(found):
            for member, value in vars(found).items():
                if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


def commands(group: Any, name: str = "jobrunner") -> Iterator[tuple[str, Any]]:
    yield name, group
    for child, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{name} {child}")


NAMES = dict(documented())
COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_is_a_sentence_of_its_own(name: str) -> None:
    text = inspect.getdoc(NAMES[name])
    assert text, "has no docstring"
    assert text.split()[0] not in ELLIPTIC
    assert re.search(r"[.:]$", text.splitlines()[0]), "the first line is not a whole sentence"


@pytest.mark.parametrize("name", NAMES)
def test_argument_blocks_are_whole(name: str) -> None:
    """Every line of a block begins an entry or is indented below one; a careless re-wrap breaks that."""
    text = inspect.getdoc(NAMES[name]) or ""
    for block in re.findall(r"^(?:Args|Raises):\n((?:    .*\n?)+)", text, re.MULTILINE):
        for line in block.splitlines():
            assert re.match(r"    \w+: [A-Z\"`]|    backend: |        \S", line), line


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_shows_help_in_full(name: str) -> None:
    help_text = COMMANDS[name].help or ""
    first = re.split(r"(?<=\.)\s", help_text.strip(), maxsplit=1)[0]
    assert first.endswith(".")
    assert first.split()[0] not in ELLIPTIC
    assert len(first) <= SHORT_HELP or name == "jobrunner"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    for parameter in COMMANDS[name].params:
        text = getattr(parameter, "help", None) or ""
        assert text.endswith("."), parameter.name
        assert text.split()[0] not in ELLIPTIC, parameter.name


def elliptic(path: Path) -> Iterator[str]:
    """The docstrings of a module whose first word is understood only together with the name above."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for index, statement in enumerate(body if isinstance(body, list) else []):
            value = statement.value if isinstance(statement, ast.Expr) else None
            if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
                continue
            is_called = index == 0 and isinstance(node, ast.FunctionDef) and not _is_attribute(node)
            first = value.value.split()[0].rstrip(",:;.")
            if first in ELLIPTIC_INSIDE or (
                is_called and first in NO_VERBS and "backends:" not in value.value
            ):
                yield f"{path.name}:{value.lineno}: {value.value.splitlines()[0]}"


def _is_attribute(function: ast.FunctionDef) -> bool:
    """Properties and fixtures are values for those who use them."""
    decorators = [ast.unparse(each).partition("(")[0] for each in function.decorator_list]
    return any(name.rpartition(".")[2] in ("property", "fixture") for name in decorators)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_inside_stand_alone(module: str) -> None:
    assert not list(elliptic(ROOT / module))


def test_modules_are_found() -> None:
    assert {"jobrunner/script/standin.py", "workers/child.py", "cli/app.py"} <= set(MODULES)
    assert len(MODULES) == len(set(MODULES))
