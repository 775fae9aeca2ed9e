"""The contract, and what is particular to this backend."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from jobrunner import ConfigError, Executor
from jobrunner.testing.backend_contract import run


def test_the_contract_is_kept():
    report = run("pool")
    assert report.kept, str(report)


def test_any_pool_will_do():
    spawn = multiprocessing.get_context(
        "spawn"
    )  # the program has threads, and forking would copy their locks
    with ProcessPoolExecutor(2, spawn) as pool, Executor("pool", pool=pool) as executor:
        assert executor.max_workers == 2
        assert list(executor.map(lambda x: x * x, range(100))) == [x * x for x in range(100)]


def test_what_is_no_pool_is_refused():
    with pytest.raises(ConfigError, match="must be a"):
        Executor("pool", pool=4)
