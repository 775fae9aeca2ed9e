"""A small share of benchmarks/fuzz.py, always the same; the long run finds what is rare."""

from __future__ import annotations

from collections import Counter

import fuzz
import pytest

from jobrunner.protocol.wire.codec import NUMBERS

ROUNDS = 16


def run(number: int) -> Counter[str]:
    """What became of the messages of that round."""
    round_ = fuzz.Round(f"test/{number}", every=10)
    round_.run()
    return round_.taken


@pytest.fixture(scope="module")
def rounds() -> list[Counter[str]]:
    return [run(number) for number in range(ROUNDS)]


def test_nonsense_is_refused_or_taken_without_harm(rounds):
    total = sum(rounds, Counter())
    assert total["messages"] == ROUNDS * fuzz.ROUND
    assert total["refused"] + total["decoded"] == total["messages"]
    assert min(total["refused"], total["decoded"]) > total["messages"] // 5, (
        "both sides of the line are visited"
    )
    assert {kind.__name__ for kind in NUMBERS} <= total.keys()


def test_a_round_is_the_same_for_the_same_seed(rounds):
    assert run(0) == rounds[0]


def test_what_breaks_the_law_is_found(monkeypatch):
    """With one of the checks left out, some of the messages do harm."""
    monkeypatch.setattr(
        "jobrunner.protocol.worker.function_store.FunctionStore.knows_functions_of", lambda *_: True
    )
    with pytest.raises(fuzz.LawBroken, match="WorkerVictim: Envelope"):
        list(map(run, range(ROUNDS)))
