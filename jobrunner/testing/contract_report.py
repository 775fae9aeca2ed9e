"""The pytest plugin that tells `backend_contract` the end of each test of the contract.

It writes a line of JSON for each test at once, so that known results are not lost if a backend ends the process of the
tests.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from jobrunner.backends import CAPABILITIES
from jobrunner.testing.promises import BROKEN, KEPT, NOT_CLAIMED, TOLD

_told = os.environ.get(TOLD, os.devnull)  # read at once, because tests remove such variables


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        # otherwise -k has deselected it
        if any(marker.name in CAPABILITIES for marker in item.iter_markers()):
            _tell(item, NOT_CLAIMED)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _tell(report, BROKEN, report.longreprtext)
    elif report.skipped:
        _tell(report, NOT_CLAIMED)
    elif report.when == "call":
        _tell(report, KEPT)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write({"error": f"{report.nodeid} cannot be loaded: {report.longreprtext}"})


def pytest_sessionfinish(exitstatus: int) -> None:
    _write({"finished": int(exitstatus)})


def _tell(of: pytest.Item | pytest.TestReport, end: str, text: str = "") -> None:
    promise = dict(of.user_properties).get("promise", "")
    _write({"promise": promise, "test": of.nodeid.rpartition("/")[2], "end": end, "text": text})


def _write(line: dict[str, Any]) -> None:
    with open(_told, "a") as file:
        file.write(json.dumps(line) + "\n")
