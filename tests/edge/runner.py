"""Runs the edge: programs that use an executor while the operating system, other threads and the person at the keyboard
do what they may do.

    python tests/edge/runner.py                          50 seeds
    python tests/edge/runner.py --seeds 1000 --first 500 --backend processes --fault forks
    python tests/edge/runner.py --seed 17                one of them, again

Each seed is a plan (`plan.py`): a backend, what the program (`victim.py`) does, what goes wrong meanwhile. After it
every Future must be done, every thread of ours gone, every descriptor closed, every process ended, and every folder
removed, within a bound. What decides beside the seed is when the operating system runs whom, so a seed that fails may
pass the next time;
`--times` repeats it.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
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

from edge.blows import Striker  # noqa: E402
from edge.plan import BACKENDS, DIES, ENDS, EXITS, FAULTS, Plan, plan_of  # noqa: E402
from edge.processes import command, marked  # noqa: E402

RUN_SECONDS = 100.0
"""After which a program is ended; its own limits are shorter."""

LEAVE_SECONDS = 10.0
"""In which its processes must have ended after it."""

UNSHARE = ("unshare", "--mount", "--propagation", "private")

CODES = {ENDS: (-signal.SIGINT,), EXITS: (128 + signal.SIGTERM,), DIES: (-signal.SIGTERM,)}
"""Exit codes of a program that a signal has ended."""

COUNTED = ("out of memory", "paused")
"""What a program says of what it has met."""

LOST_THREAD = "the interpreter has lost a thread that Thread.start() waits for"
BEYOND_US = {
    r"Exception ignored in thread started by": LOST_THREAD,
    r"threading\.py\", line \d+ in start\b": LOST_THREAD,  # there was no memory to say so either
    r"\(src/": "ZeroMQ has ended the process",
}
"""For want of memory, by what stderr has then: no library can help that. Such a run is counted, and says nothing."""

MAY_PRINT = frozenset(("callbacks", "engine", "interrupts", "memory", "signals"))
"""Faults that lead to tracebacks on stderr, as they should."""


@dataclass
class Verdict:
    """What one run has shown."""

    plan: Plan
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    """How often something was done to it, by name."""

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
    arguments = [sys.executable, str(HERE / "victim.py"), *given]
    if plan.pauses is not None:
        environment |= {"PYTHONPATH": str(HERE / "startup"), "EDGE_PAUSES": f"{seed} {plan.pauses}"}
    if plan.disk_size is not None and may_mount():
        environment["EDGE_DISK"] = plan.disk_size
        arguments = [*UNSHARE, sys.executable, str(HERE / "small_disk.py"), plan.disk_size, *arguments]
    begun, says_begun = os.pipe()
    started = time.monotonic()
    program = subprocess.Popen(
        arguments,
        env=environment | {"EDGE_BEGUN": str(says_begun)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        pass_fds=[says_begun],
    )
    os.close(says_begun)
    striker = Striker(plan, begun, mark)
    striker.start()
    try:
        try:
            out, err = program.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            _show_stacks(mark)
            out, err = program.communicate()
            verdict.wrong.append(f"the program did not end within {RUN_SECONDS} s")
        _judge(verdict, program.returncode, out, err)
        _look_for_processes(mark, verdict)
        left = [str(path.relative_to(folder)) for path in folder.rglob("*") if "jobrunner" in path.name]
        if left:
            verdict.wrong.append(f"left in the folder for temporary files: {left}")
    finally:
        for pid in marked(mark):
            _kill(pid)
        striker.end()
        os.close(begun)
        shutil.rmtree(folder, ignore_errors=True)
    if verdict.wrong and plan.memory is not None and any(re.search(text, err) for text in BEYOND_US):
        verdict.wrong.clear()
        verdict.counts["beyond us"] += 1
    verdict.counts["signals"] += striker.struck
    verdict.seconds = time.monotonic() - started
    return verdict


@functools.cache
def may_mount() -> bool:
    """Whether a process may have disks that nobody else sees: for root, on Linux."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL).returncode == 0


def _judge(verdict: Verdict, code: int, out: str, err: str) -> None:
    plan, lines = verdict.plan, out.splitlines()
    verdict.wrong += [line for line in lines if line.startswith("wrong:")]
    for line in lines:
        name, _, count = line.partition(": ")
        if name in COUNTED:
            verdict.counts[name] += int(count)
    if any("forked child" in text for text in verdict.wrong):
        verdict.wrong.append(excerpt(err))
    if (code != 0 or "ended" not in lines) and code not in CODES.get(plan.on_signal, ()):
        verdict.wrong.append(f"the program ended with {code}: {excerpt(err)}")
    elif "Traceback" in err and not MAY_PRINT & {*plan.faults}:
        verdict.wrong.append(f"a traceback was printed: {excerpt(err)}")


def excerpt(text: str) -> str:
    """The begin says why, the end where."""
    return text if len(text) < 5000 else f"{text[:2000]}\n[...]\n{text[-3000:]}"


def _look_for_processes(mark: str, verdict: Verdict) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        verdict.wrong.append(f"a process is left: {command(pid)}")


def _show_stacks(mark: str) -> None:
    """Have the programs of a run print where each thread stands, and end."""
    for pid in marked(mark):
        if "victim.py" in command(pid):
            _kill(pid, signal.SIGCONT)
            _kill(pid, signal.SIGABRT)


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
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
    counts: Counter[str] = Counter()
    failed, runs, started = [], 0, time.monotonic()
    for seed in seeds:
        for _ in range(given.times):
            verdict = run_seed(seed, given.backend, given.fault)
            runs += 1
            injected.update(verdict.plan.faults)
            counts.update(verdict.counts)
            if verdict.wrong:
                failed.append(seed)
                print(verdict, flush=True)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(injected.items()))
    seconds = time.monotonic() - started
    print(f"{runs} runs in {seconds:.0f} s, {len(failed)} failed {sorted(set(failed))}; faults: {faults}")
    print("counted:", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
