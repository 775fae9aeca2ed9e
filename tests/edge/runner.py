"""Runs the edge: programs that use an executor while the operating system, other threads and the person at the keyboard
do what they may do.

    python tests/edge/runner.py                          50 seeds
    python tests/edge/runner.py --seeds 1000 --first 500 --backend processes --fault forks
    python tests/edge/runner.py --seed 17                one of them, again

Each seed is a plan (`plan.py`): a backend, what the program does, what goes wrong meanwhile. After it every Future must
be done, every thread of ours gone, every descriptor closed, every process ended, and every folder removed, within a
bound. What decides beside the seed is when the operating system runs whom, so a seed that fails may pass the next time;
`--times` repeats it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from edge.plan import BACKENDS, FAULTS, Plan, plan_of  # noqa: E402

RUN_SECONDS = 100.0
"""After which a program is ended; its own limits are shorter."""

LEAVE_SECONDS = 10.0
"""In which its processes must have ended after it."""


@dataclass
class Verdict:
    """What one run has shown."""

    plan: Plan
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = "\n    ".join(self.wrong)
        return f"{self.plan}\n    {lines}"


def run_seed(seed: int, backend: str | None = None, fault: str | None = None) -> Verdict:
    """Run the plan of a seed in an interpreter of its own."""
    plan = plan_of(seed, backend, fault)
    verdict = Verdict(plan)
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    mark = f"EDGE_RUN={folder}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBRUNNER_")}
    environment |= {"TMPDIR": str(folder), "EDGE_RUN": str(folder), "PYTHONFAULTHANDLER": "1"}
    given = [str(seed), *([plan.backend] if backend or fault else []), *([fault] if fault else [])]
    started = time.monotonic()
    program = subprocess.Popen(
        [sys.executable, str(HERE / "victim.py"), *given],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        try:
            out, err = program.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGABRT)  # it prints where each thread stands
            out, err = program.communicate()
            verdict.wrong.append(f"the program did not end within {RUN_SECONDS} s")
        verdict.wrong += [line for line in out.splitlines() if line.startswith("wrong:")]
        if any("forked child" in text for text in verdict.wrong):
            verdict.wrong.append(err[-3000:])
        if program.returncode != 0 or "ended" not in out.splitlines():
            verdict.wrong.append(f"the program ended with {program.returncode}: {err[-3000:]}")
        elif "Traceback" in err and not {"callbacks", "interrupts"} & {*plan.faults}:
            verdict.wrong.append(f"a traceback was printed: {err[-3000:]}")
        _look_for_processes(mark, verdict)
        left = [str(path.relative_to(folder)) for path in folder.rglob("*") if "jobrunner" in path.name]
        if left:
            verdict.wrong.append(f"left in the folder for temporary files: {left}")
    finally:
        for pid in _marked(mark):
            _kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
    verdict.seconds = time.monotonic() - started
    return verdict


def _look_for_processes(mark: str, verdict: Verdict) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        verdict.wrong.append(f"a process is left: {_command(pid)}")


def _marked(mark: str) -> list[int]:
    """Processes that have inherited the environment of that run."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path("/proc", name, "environ").read_bytes().split(b"\0")
                state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in environment and state != "Z":
                found.append(int(name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return f"process {pid}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--times", type=int, default=1, help="how often each is run")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--fault", choices=list(FAULTS))
    given = parser.parse_args()
    seeds = [given.seed] if given.seed is not None else range(given.first, given.first + given.seeds)
    injected: Counter[str] = Counter()
    failed, runs, started = [], 0, time.monotonic()
    for seed in seeds:
        for _ in range(given.times):
            verdict = run_seed(seed, given.backend, given.fault)
            runs += 1
            injected.update(verdict.plan.faults)
            if verdict.wrong:
                failed.append(seed)
                print(verdict, flush=True)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(injected.items()))
    seconds = time.monotonic() - started
    print(f"{runs} runs in {seconds:.0f} s, {len(failed)} failed {sorted(set(failed))}; faults: {faults}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
