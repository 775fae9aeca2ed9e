"""Writes the state diagram and the tables of docs/states.md from the table of transitions in `protocol.task`.

    python scripts/state_page.py            write the page anew
    python scripts/state_page.py --check    exit with 1 if the page is not what would be written

The words are here, the moves are there: a state or a move without words is an error, and so are words without a move.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from jobrunner.protocol.coordinator import task

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"
BEGIN = "<!-- begin: written by scripts/state_page.py -->"
END = "<!-- end: written by scripts/state_page.py -->"

MEANINGS = {
    "waiting": "The task is accepted and cannot be placed yet. The reasons are listed below.",
    "queued": "The task can be placed as soon as a worker has room for it.",
    "assigned": "A worker has the task. Whether it has started, only the worker knows.",
    "running": "The task has started, and has run for long enough (50 ms) that its worker has said so.",
    "cancelling": "The worker was asked to stop the task. Its slot stays taken until the worker confirms the end.",
    "succeeded": "The task ended with a result, or was split into parts that go on under other ids.",
    "failed": "The task ended without a result.",
    "cancelled": "The task ended because somebody cancelled it, or because its client is gone.",
}


class Move(NamedTuple):
    label: str
    """In the diagram."""
    causes: str
    """In the table; whole sentences."""


REFUSED = (
    "No worker can import the modules that it needs, run its initializer, or has its version of Python. The journal"
    " could not record it."
)
RETURNED = (
    "The worker gave it back, or its initializer failed there. The worker or the slot's process was lost, and the crash"
    " limit is not reached."
)
RETRIED = (
    "The function raised or ran out of time, and a retry is due after a pause. Or the worker gave it back, and a"
    " result that it depends on is not known here yet."
)
FAILED = (
    "The function raised or ran out of time, or its process or worker died, and it is not to be tried again."
)
OBSOLETE = "The worker or process was lost, or gave the task back, while a cancel request was under way."

MOVES = {
    ("waiting", "queued"): Move(
        "its reason to wait is over",
        "The last missing result came. The pause before a retry is over. No worker came back with the task in time.",
    ),
    ("waiting", "assigned"): Move("a worker has it", "A worker that has come back turns out to have it."),
    ("waiting", "failed"): Move(
        "cannot run",
        "A call that it depends on did not succeed. It may have run before, and is to run at most once. "
        + REFUSED,
    ),
    ("waiting", "cancelled"): Move("cancel", "Its client, or an operator, cancelled it. Its client is gone."),
    ("queued", "assigned"): Move(
        "placed", "The scheduler placed it on a worker. Or a worker that has come back turns out to have it."
    ),
    ("queued", "failed"): Move(
        "refused",
        REFUSED
        + " It can never start: calls that wait for it hold the resources that it needs, or all slots, and no further"
        " slot can be started.",
    ),
    ("queued", "cancelled"): Move("cancel", "Its client, or an operator, cancelled it. Its client is gone."),
    ("assigned", "running"): Move("takes a while", "The worker has announced that it runs."),
    ("assigned", "cancelling"): Move("cancel what runs", "Somebody wants it stopped even if it has started."),
    ("assigned", "queued"): Move("given back, lost", RETURNED),
    ("assigned", "waiting"): Move("retry", RETRIED),
    ("assigned", "succeeded"): Move("result", "Its outcome has come: a result, or a split."),
    ("assigned", "failed"): Move("error", FAILED),
    ("assigned", "cancelled"): Move(
        "cancelled before its start", "The worker had not started it, and dropped it on request. " + OBSOLETE
    ),
    ("running", "cancelling"): Move("cancel what runs", "Somebody wants it stopped although it runs."),
    ("running", "queued"): Move("given back, lost", RETURNED),
    ("running", "waiting"): Move("retry", RETRIED),
    ("running", "succeeded"): Move("result", "Its outcome has come: a result, or a split."),
    ("running", "failed"): Move("error", FAILED),
    ("running", "cancelled"): Move("cancelled, then lost", OBSOLETE),
    ("cancelling", "queued"): Move(
        "wanted again", "Its client, which was taken for dead, has come back and wants it after all."
    ),
    ("cancelling", "waiting"): Move(
        "wanted again, retry",
        "Its client, which was taken for dead, has come back, and a pause or a result is due before the next attempt.",
    ),
    ("cancelling", "succeeded"): Move("result", "It ended with a result before the stop took effect."),
    ("cancelling", "failed"): Move("error", "It ended with an error before the stop took effect."),
    ("cancelling", "cancelled"): Move(
        "stop confirmed", "The worker confirmed the stop. The process or the worker died meanwhile."
    ),
}


def transitions() -> list[tuple[str, str]]:
    """The moves that the table allows, by name, in the order of the states."""
    names = task.STATE_NAMES
    return [
        (names[state], names[after])
        for state in sorted(task.TRANSITIONS)
        for after in sorted(task.TRANSITIONS[state])
    ]


def diagram() -> list[str]:
    terminal = {task.STATE_NAMES[state] for state in task.TERMINAL}
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued: submit", "    [*] --> waiting: submit"]
    lines += [f"    {before} --> {after}: {MOVES[before, after].label}" for before, after in transitions()]
    lines += [f"    {name} --> [*]" for name in task.STATE_NAMES if name in terminal]
    return [*lines, "```"]


def states() -> list[str]:
    lines = ["| state | meaning | with a worker | may be followed by |", "|---|---|---|---|"]
    for state, name in enumerate(task.STATE_NAMES):
        after = ", ".join(task.STATE_NAMES[each] for each in sorted(task.TRANSITIONS[state])) or "nothing"
        active = "yes" if state in task.ACTIVE else "no"
        lines.append(f"| {name} | {MEANINGS[name]} | {active} | {after} |")
    return lines


def moves() -> list[str]:
    lines = ["| from | to | when |", "|---|---|---|"]
    return lines + [
        f"| {before} | {after} | {MOVES[before, after].causes} |" for before, after in transitions()
    ]


def section() -> str:
    """What stands between the two marks."""
    without_words = [*set(transitions()) ^ set(MOVES), *set(task.STATE_NAMES) ^ set(MEANINGS)]
    if without_words:
        raise SystemExit(f"scripts/state_page.py and the table of transitions differ: {without_words}")
    return "\n".join(["", *diagram(), "", *states(), "", "Each move, and what causes it:", "", *moves(), ""])


def page(text: str) -> str:
    """The page with its section written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section()}\n{END}{after}"


def main() -> int:
    present = PAGE.read_text()
    wanted = page(present)
    if "--check" in sys.argv[1:]:
        return int(present != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
