"""What README and docs say is true: snippets run, settings are the ones that exist, links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobrunner import config

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def snippets() -> list[tuple[str, str]]:
    """Python blocks that an HTML comment marks with a name."""
    marked = re.compile(r"<!-- test: ([\w-]+) -->\n```python\n(.*?)```", re.DOTALL)
    return [
        (f"{page.name}:{name}", code) for page in PAGES for name, code in marked.findall(page.read_text())
    ]


def test_the_readme_has_a_tested_quickstart() -> None:
    assert "README.md:quickstart" in dict(snippets())


@pytest.mark.parametrize("backend", ["threads", "processes", "cluster"])
@pytest.mark.parametrize(("name", "code"), snippets(), ids=[name for name, _ in snippets()])
def test_snippets_run(
    name: str, code: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBRUNNER_BACKEND", backend)
    script = tmp_path / "snippet.py"
    script.write_text(code.replace("timeout=60, ", "") if backend == "threads" else code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if name == "README.md:quickstart":
        lines = done.stdout.splitlines()
        assert sorted(map(int, lines[:10])) == [x * x for x in range(10)]
        assert lines[10:] == [str(99_999**2), "144", "49"]
        assert done.stderr == ""


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE))
    settings = {
        (f.name, f.metadata["env"], f.metadata["doc"])
        for cls in config.TABLES
        for f in dataclasses.fields(cls)
    }
    assert rows == settings


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_each_row_of_a_table_has_as_many_cells_as_its_head(page: Path) -> None:
    wide = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) if line.startswith("|") else 0
        assert not cells or not wide or cells == wide, (
            f"line {number} has {cells - 1} cells, its head {wide - 1}"
        )
        wide = cells


def test_the_page_of_operations_quotes_messages_of_the_code() -> None:
    """Whoever looks for a message there has it before them as the code says it."""
    _, _, table = (ROOT / "docs" / "operations.md").read_text().partition("## When something is wrong")
    quoted = set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) - {"FileNotFoundError"}
    assert quoted
    sources = [path.read_text() for folder in ("jobrunner", "cli") for path in (ROOT / folder).rglob("*.py")]
    code = re.sub(r'"\s+f?"', "", "\n".join(sources))
    assert [text for text in sorted(quoted) if text not in code] == []


def test_every_test_that_the_page_of_faults_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text()))
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = {name for source in sources for name in re.findall(r"^\s*def (test_\w+)", source, re.MULTILINE)}
    assert len(named) > 40
    assert not named - there
