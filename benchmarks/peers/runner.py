"""One measurement as a process: started in a peer's environment, timed out, and ended with all that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.peers.adapters import PEERS
from benchmarks.peers.environments import CHECKOUT, Environment
from benchmarks.peers.processes import MARK, kill_marked

LEAVE_WAIT = 15.0
"""Seconds that a process has to end by itself once its figure is there."""

AS_ROOT = (
    "OMPI_ALLOW_RUN_AS_ROOT",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
    "PRTE_ALLOW_RUN_AS_ROOT",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM",
)
"""In a container one often is, and Open MPI refuses without these."""

SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run(place: Environment, row: str, workload: str, scale: float, timeout: float) -> dict[str, Any]:
    """What the measurement left: "figures" and "versions", or "error"."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as folder:
        result = Path(folder) / "result"
        with open(Path(folder) / "output", "wb+") as output:
            environment = clean_environment(place, folder, mark)
            command = command_for(place, row, [row, workload, repr(scale), str(result)])
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
            try:
                finished = wait_for(process, result, timeout)
            finally:
                end(process, mark)
            if result.exists():
                answer: dict[str, Any] = json.loads(result.read_text())
                return answer
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        if not finished:
            return {"error": f"no figure within {timeout:.0f} s"}
        return {"error": f"exit code {process.returncode}: {lines[-1] if lines else 'it said nothing'}"}


def command_for(place: Environment, row: str, arguments: list[str]) -> list[str]:
    """The interpreter, with what a peer wants before it."""
    module = ["-m", "benchmarks.peers.measure", *arguments]
    peer = PEERS.get(row)
    if peer is None or not peer.launcher:
        return [str(place.python), *module]
    program, *options = peer.launcher
    return [str(place.command(program)), *options, str(place.python), *peer.before_module, *module]


def clean_environment(place: Environment, folder: str, mark: str) -> dict[str, str]:
    """Nothing of this user's settings; files go into `folder`; the mark, and when it began."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("JOBRUNNER_", "PYTHON"))
    }
    homes = ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "IPYTHONDIR")
    return {
        **kept,
        **dict.fromkeys(homes, folder),
        **dict.fromkeys((*SINGLE_THREADED, *AS_ROOT), "1"),
        "PATH": os.pathsep.join([str(place.python.parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(CHECKOUT),
        "RAY_USAGE_STATS_ENABLED": "0",
        MARK: mark,
        "BENCHMARK_BEGAN": repr(time.monotonic()),
    }


def wait_for(process: subprocess.Popen[bytes], result: Path, timeout: float) -> bool:
    """Whether it ended, or left its figure, in time. With the figure it has a little longer to end in good order."""
    deadline = time.monotonic() + timeout
    leaving = False
    while process.poll() is None:
        if not leaving and result.exists():
            leaving, deadline = True, time.monotonic() + LEAVE_WAIT
        if time.monotonic() > deadline:
            return leaving
        time.sleep(0.02)
    return True


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Nothing that this measurement started outlives it."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # between the look and the kill
    process.wait()
    kill_marked(mark)
