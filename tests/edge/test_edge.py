"""Some runs of the edge; many more are a command away, see `runner`."""

from __future__ import annotations

import pytest
from edge.plan import BACKENDS, FAULTS, ONLY_APART, plan_of
from edge.runner import run_seed

SEEDS = 6
"""In the normal run."""

MANY_SEEDS = 150


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_hangs_and_nothing_is_left(seed):
    verdict = run_seed(seed)
    assert not verdict.wrong, str(verdict)


@pytest.mark.parametrize("fault", ["disk", "locks", "memory", "signals"])
def test_nor_with_faults_that_few_of_these_seeds_have(fault):
    verdict = run_seed(SEEDS, fault=fault)
    assert not verdict.wrong, str(verdict)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", list(FAULTS))
def test_nothing_hangs_whatever_goes_wrong(backend, fault):
    if backend == "threads" and fault in ONLY_APART:
        pytest.skip("it means nothing there")
    verdicts = [run_seed(seed, backend, fault) for seed in range(1000, 1000 + MANY_SEEDS)]
    failed = [str(verdict) for verdict in verdicts if verdict.wrong]
    assert not failed, "\n".join(failed)


def test_a_seed_decides_everything():
    assert [plan_of(seed) for seed in range(50)] == [plan_of(seed) for seed in range(50)]
    assert {plan.backend for plan in map(plan_of, range(50))} == {*BACKENDS}
    assert {fault for plan in map(plan_of, range(200)) for fault in plan.faults} == {*FAULTS}
    assert "forks" in plan_of(3, "threads", "forks").faults
