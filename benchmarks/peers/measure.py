"""One figure: runs in the peer's environment, in a process of its own, and leaves a JSON object in a file.

    python -m benchmarks.peers.measure PEER WORKLOAD SCALE FILE

The object has "figures", or "error" with what the peer said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.adapters import PEERS
from benchmarks.peers.floor import FLOOR
from benchmarks.peers.workloads import WORKLOADS


def measured(row: str, workload: str, scale: float) -> dict[str, float]:
    if row in FLOOR:
        return FLOOR[row](workload, scale)
    return WORKLOADS[workload](PEERS[row].start, scale)


def versions(row: str) -> dict[str, str]:
    package = "pyzmq" if row in FLOOR else PEERS[row].package
    return {package: version(package)} if package else {}


def said(error: BaseException) -> str:
    first: Callable[[str], str] = lambda text: next(iter(text.strip().splitlines()), "")  # noqa: E731
    return f"{type(error).__name__}: {first(str(error))}"


def main(row: str, workload: str, scale: str, file: str) -> None:
    answer: dict[str, Any]
    try:
        answer = {"figures": measured(row, workload, float(scale)), "versions": versions(row)}
    except Exception as error:
        answer = {"error": said(error)}
    # The harness looks for the name, so the file has to be whole when it gets it.
    unfinished = Path(file + ".part")
    unfinished.write_text(json.dumps(answer))
    unfinished.rename(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
