"""docs/states.md and the table of transitions say the same."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from jobrunner.protocol.coordinator import task

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("state_page", ROOT / "scripts" / "state_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_would_be_written(writer: ModuleType) -> None:
    text = writer.PAGE.read_text()
    assert text == writer.page(text), "run: python scripts/state_page.py"


def test_the_diagram_has_the_moves_of_the_table_and_no_others() -> None:
    """Read as mermaid reads it, and not as it was written."""
    blocks = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs" / "states.md").read_text(), re.DOTALL)
    drawn = set(re.findall(r"^    (\w+) --> (\w+):", "".join(blocks), re.MULTILINE))
    names = task.STATE_NAMES
    assert drawn == {(names[old], names[new]) for old, after in task.TRANSITIONS.items() for new in after}


def test_a_move_without_words_is_an_error(writer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    added = task.TRANSITIONS | {task.QUEUED: task.TRANSITIONS[task.QUEUED] | {task.RUNNING}}
    monkeypatch.setattr(task, "TRANSITIONS", added)
    with pytest.raises(SystemExit, match="queued"):
        writer.section()
