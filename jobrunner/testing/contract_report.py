"""The pytest plugin that tells `backend_contract` how each test of the contract ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jobrunner.backends import CAPABILITIES
from jobrunner.testing.backend_contract import BROKEN, KEPT, NOT_CLAIMED

_ends: dict[tuple[str, str], str] = {}


def pytest_deselected(items: list[Any]) -> None:
    for item in items:
        if any(marker.name in CAPABILITIES for marker in item.iter_markers()):  # else -k has left it out
            _ends[item.path.stem, item.name] = NOT_CLAIMED


def pytest_runtest_logreport(report: Any) -> None:
    place = Path(report.location[0]).stem, report.location[2]
    if report.failed:
        _ends[place] = BROKEN
    elif report.skipped:
        _ends[place] = NOT_CLAIMED
    elif report.when == "call":
        _ends.setdefault(place, KEPT)


def pytest_sessionfinish() -> None:
    told = os.environ["JOBRUNNER_CONTRACT_REPORT"]
    Path(told).write_text(json.dumps([[*place, end] for place, end in _ends.items()]))
