"""The figures of prefetch, bundles and chunks stand in one module, and relate as its page says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from jobrunner.protocol import tuning
from jobrunner.protocol.tuning import (
    ANSWER_WITHIN,
    BUNDLE_SECONDS,
    CHUNK_SECONDS,
    CHUNK_SURE_SECONDS,
    CHUNK_TAIL_SECONDS,
    ENGINE_GIVE_BACK_AFTER,
    MIN_ESTIMATE,
    ONE_AHEAD_MAX_SECONDS,
    PREFETCH_SECONDS,
    RECALL_AFTER,
    RETRACT_WHEN_IDLE_AFTER,
    RETURN_AFTER,
    RUNNING_AFTER,
    SLOT_SECONDS,
)

PACKAGE = Path(tuning.__file__).parents[1]

DECIDING = (
    "backends/bundle_builder.py",
    "backends/engine/call_queue.py",
    "backends/thread_chunks.py",
    "mapping/chunk_queue.py",
    "mapping/chunk_runner.py",
    "mapping/chunking.py",
    "mapping/repeating.py",
    "mapping/run.py",
    "protocol/bundles.py",
    "protocol/chunks.py",
    "protocol/estimates.py",
    "protocol/client/bundle_tracker.py",
    "protocol/coordinator/division.py",
    "protocol/coordinator/placement.py",
    "protocol/worker/slots.py",
)
"""The modules that decide about prefetch, bundles and chunks."""

OTHER_FIGURES = {
    "MAX_FUNCTIONS",  # a bound of a client's memory
    "UNLIMITED",  # no figure: more than there can be
    "_LONGEST_INDEX",
    "MAX_DIVIDED_LENGTH",
}
"""Constants of these modules that are about something else."""


def test_what_waits_is_shorter_the_closer_it_waits():
    assert BUNDLE_SECONDS < SLOT_SECONDS < ONE_AHEAD_MAX_SECONDS <= PREFETCH_SECONDS


def test_several_bundles_fit_into_what_a_slot_is_given():
    assert SLOT_SECONDS >= 2 * BUNDLE_SECONDS


def test_the_next_chunk_is_at_hand_when_one_ends():
    assert CHUNK_SURE_SECONDS < CHUNK_TAIL_SECONDS < CHUNK_SECONDS < ONE_AHEAD_MAX_SECONDS


def test_an_estimate_that_was_right_takes_nothing_back():
    assert ONE_AHEAD_MAX_SECONDS < RECALL_AFTER
    assert BUNDLE_SECONDS < RETRACT_WHEN_IDLE_AFTER


def test_a_wrong_guess_is_corrected_by_the_slot_then_by_the_worker_then_without_the_slot():
    assert RETRACT_WHEN_IDLE_AFTER < RECALL_AFTER < RETURN_AFTER < ANSWER_WITHIN


def test_no_chunk_of_the_intended_length_is_divided():
    assert min(RUNNING_AFTER, ENGINE_GIVE_BACK_AFTER) > 2 * CHUNK_SECONDS


def test_a_bundle_of_the_shortest_calls_has_several():
    assert BUNDLE_SECONDS > 2 * MIN_ESTIMATE


def assigned(path: Path) -> dict[str, ast.expr]:
    """The constants of a module, with their values."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
    return {name: value for name, value in found.items() if name.isupper()}


def is_figure(value: ast.expr) -> bool:
    numbers = (ast.BinOp, ast.UnaryOp, ast.Constant)
    return isinstance(value, numbers) and not any(
        isinstance(node, ast.Constant) and not isinstance(node.value, (int, float))
        for node in ast.walk(value)
    )


@pytest.mark.parametrize("name", DECIDING)
def test_no_figure_stands_elsewhere(name):
    figures = {constant for constant, value in assigned(PACKAGE / name).items() if is_figure(value)}
    assert not figures - OTHER_FIGURES, "it belongs into protocol/tuning.py"


def test_times_are_in_their_order():
    values = [
        value.value for value in assigned(Path(tuning.__file__)).values() if isinstance(value, ast.Constant)
    ]
    times = [value for value in values if isinstance(value, float)]
    first_count = values.index(tuning.PREFETCH_LIMIT)
    seconds = [value for value in values[:first_count] if isinstance(value, float)]
    assert seconds == sorted(seconds)
    assert len(times) - len(seconds) == 3, "after the times come counts, bytes and three weights"


def test_every_figure_is_used():
    sources = [
        path.read_text()
        for folder in (PACKAGE, PACKAGE / "workers")
        for path in folder.rglob("*.py")
        if path != Path(tuning.__file__)
    ]
    unused = {
        name for name in assigned(Path(tuning.__file__)) if not any(name in source for source in sources)
    }
    assert not unused
