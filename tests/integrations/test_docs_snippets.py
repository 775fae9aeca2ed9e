"""The snippets of docs/integrations.md that need other libraries; tests/test_docs.py runs the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "integrations.md").read_text()
SNIPPETS = dict(re.findall(r"<!-- integration: ([\w-]+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run(name, kind, tmp_path):
    script = tmp_path / "snippet.py"
    script.write_text(SNIPPETS[name])
    environment = os.environ | {"JOBRUNNER_BACKEND": kind, "JOBRUNNER_MAX_WORKERS": "2"}
    command = [sys.executable, script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=50, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_there_are_snippets():
    assert set(SNIPPETS) == {"joblib", "dask", "optimizers", "progress"}
