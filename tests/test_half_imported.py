"""Modules that another thread is importing at the moment: they are in sys.modules, with nothing in them yet."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import zoo

from jobrunner import Executor
from jobrunner.calls import serialization
from jobrunner.fixed import atoms
from jobrunner.fixed.elements import Input
from jobrunner.integrations.files import ArrayFiles
from jobrunner.program import configuration as configured
from jobrunner.program import flags as program
from jobrunner.program.inheritance import inheritable

LOOKED_FOR = (
    "cloudpickle",
    "decimal",
    "logging",
    "multiprocessing",
    "multiprocessing.connection",
    "multiprocessing.context",
    "multiprocessing.process",
    "multiprocessing.resource_tracker",
    "multiprocessing.synchronize",
    "numpy",
)
"""Those that jobrunner looks for there, and does not import itself."""


@pytest.fixture(params=LOOKED_FOR)
def half_imported(request, monkeypatch):
    monkeypatch.setitem(sys.modules, request.param, ModuleType(request.param))


@pytest.mark.usefixtures("half_imported")
@pytest.mark.parametrize(
    "use",
    [
        lambda: serialization.dump_function(zoo.echo),
        lambda: serialization.dump_call((1, [2.0], "three"), {}, snapshot=True),
        lambda: configured.configuration(),
        lambda: program.this_program().told(),
        lambda: program.tracker(),
        lambda: inheritable((1, [])),
        lambda: ArrayFiles(None).replace([1]),
        lambda: Input([iter(range(3))]).take(3),
        lambda: Input([range(3)]).take(3),
        lambda: atoms.is_array(type("ndarray", (), {"__module__": "numpy"})),
        lambda: atoms.is_scalar_of_numpy(type("float64", (), {"__module__": "numpy"})),
    ],
)
def test_they_are_as_good_as_absent(use):
    use()


@pytest.mark.usefixtures("half_imported")
def test_calls_can_be_made_meanwhile():
    with Executor("threads", max_workers=1) as executor:
        assert executor.submit(zoo.echo, 1).result() == 1
        assert list(executor.map(zoo.echo, [1, 2])) == [1, 2]
