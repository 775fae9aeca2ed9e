"""What the pages about the inside say is there: files, figures, records."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [
    ROOT / "docs" / name for name in ("architecture.md", "theory.md", "states.md", "wire.md", "changing.md")
] + sorted(DECISIONS.glob("*.md"))

PATH = re.compile(r"`((?:jobrunner|tests|benchmarks|scripts|docs|examples)/[\w./-]*)`")

SECTIONS = ["## Context", "## Decision", "## Rejected", "## Consequences"]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_path_exists(page: Path) -> None:
    missing = sorted({path for path in PATH.findall(page.read_text()) if not (ROOT / path).exists()})
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not heading or heading in headings(path), f"{target}#{heading}"


def headings(path: Path) -> set[str]:
    """As links name them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_row_of_what_to_change_names_code_and_its_tests() -> None:
    rows = re.findall(
        r"^\| (?!to change|-)(.*) \|$", (ROOT / "docs" / "changing.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 40
    for row in rows:
        what, code, tests = row.split(" | ")
        assert PATH.findall(code), what
        assert PATH.findall(tests), what
        assert all(path.startswith("tests/") for path in PATH.findall(tests)), what


def test_each_package_has_its_place_on_the_map() -> None:
    """A row of the boxes, or the sentence about what is beside them, names it, or what is in it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn = re.search(r"^## Ten boxes$(.*?)^Boxes 5, 7 and 9", text, re.MULTILINE | re.DOTALL)
    assert drawn is not None
    named = {path.split("/")[1] for path in PATH.findall(drawn[1]) if path.startswith("jobrunner/")}
    there = {path.name for path in (ROOT / "jobrunner").iterdir() if (path / "__init__.py").exists()}
    assert not there - named
    boxes = re.findall(r"^\| (\d+) ", drawn[1], re.MULTILINE)
    assert boxes == [str(n) for n in range(1, 11)]
    assert all(re.search(rf"\|\s+{box}  \w", drawn[1]) for box in boxes), "each is in the picture"


def test_figures_are_those_of_the_code() -> None:
    """A row of the table of times names the module that has a constant with this value."""
    rows = re.findall(
        r"^\| ([\d.]+) s \| .* \| `(jobrunner/[\w/]+)\.py` \|$",
        (ROOT / "docs" / "theory.md").read_text(),
        re.M,
    )
    assert len(rows) >= 10
    for seconds, path in rows:
        module = importlib.import_module(path.replace("/", "."))
        constants = [
            value
            for name, value in vars(module).items()
            if name.isupper() and isinstance(value, (int, float))
        ]
        assert float(seconds) in constants, f"{path}.py has no constant of {seconds} s"


def test_decisions_are_numbered_in_the_index_and_have_all_sections() -> None:
    records = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    listed = re.findall(r"^\| \[(\d{4})\]\((.+?)\) \|", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert [name for _, name in listed] == records
    assert [number for number, _ in listed] == [f"{n:04}" for n in range(1, len(records) + 1)]
    for number, name in listed:
        text = (DECISIONS / name).read_text()
        assert text.startswith(f"# {number}: ")
        assert re.findall(r"^## .*$", text, re.MULTILINE) == SECTIONS, name
