"""The docstrings and help texts that users read begin as sentences of their own, and argument blocks are whole."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import jobrunner
from jobrunner.admin import ClusterAdmin
from jobrunner.cli.app import app

ELLIPTIC = ("What", "Of", "Those", "That", "Who", "As", "See", "Where", "One")
"""First words of texts that are understood only together with the name above them."""

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
