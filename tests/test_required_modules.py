"""Which modules a function is said to need: those that its pickle makes the reader import."""

from __future__ import annotations

import collections
import functools
import importlib
import os.path
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import zoo

from jobrunner import errors
from jobrunner.calls import serialization
from jobrunner.pickling.required_modules import MAX_NAMED


def needs(fn):
    return serialization.dump_function(fn).modules


class Callable:
    def __init__(self, value):
        self.value = value

    def __call__(self):
        return self.value


def test_a_function_by_reference_needs_its_package():
    assert needs(zoo.add) == ("zoo",)
    assert needs(np.linalg.norm) == ("numpy",)
    assert needs(np.sum) == ("numpy",)


@pytest.mark.parametrize(
    "fn", [len, os.path.join, collections.Counter, errors.ConfigError, zoo.add.__call__.__class__]
)
def test_what_every_worker_has_is_not_named(fn):
    assert needs(fn) == ()


def test_a_function_by_value_needs_what_it_refers_to():
    one = zoo.StrFailsError

    def fn(x, kind=one):
        return np.mean(x), os.path, collections.OrderedDict, errors.JobRunnerError

    assert needs(fn) == ("numpy", "zoo")
    assert needs(lambda: zoo) == ("zoo",)
    assert needs(lambda: np.linalg.norm) == ("numpy",), "the top-level package of it"
    assert needs(lambda: fn) == ("numpy", "zoo")
    assert needs(lambda: np.float64(2.0) + one.__doc__) == ("numpy", "zoo")
    assert needs(lambda: "numpy" + "zoo") == ()


def test_a_function_by_value_does_not_need_the_module_where_it_is_written():
    def fn():
        return 1

    assert fn.__module__ == __name__
    assert needs(fn) == ()
    assert needs(lambda: fn()) == ()


def test_objects_that_can_be_called():
    assert needs(functools.partial(zoo.add, 1)) == ("zoo",)
    assert needs(functools.partial(zoo.add, np.arange(3))) == ("numpy", "zoo")
    assert needs(functools.partial(np.sum)) == ("numpy",)
    assert needs(Callable(zoo.add)) == (__name__.partition(".")[0], "zoo")


def test_the_initializer_and_its_arguments():
    assert serialization.dump_initializer(zoo.add, (np.float64(1), 2)).modules == ("numpy", "zoo")


def test_modules_that_go_by_value_are_not_needed(tmp_path, monkeypatch):
    (tmp_path / "goes_by_value.py").write_text(
        "def add(a, b): return a + b\nclass OwnError(Exception): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("goes_by_value")
    cloudpickle.register_pickle_by_value(module)
    try:
        assert needs(lambda: module.add) == ()
        assert needs(lambda: module.OwnError) == ()
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert needs(lambda: module.add) == ("goes_by_value",)
    del sys.modules["goes_by_value"]


def test_a_program_of_its_own():
    program = "from jobrunner.calls import serialization as s\nimport zoo\nclass C(zoo.StrFailsError): pass\n"
    program += "def f(x=C): return x\nprint(s.dump_function(f).modules, s.dump_function(C).modules)"
    folder = Path(zoo.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "('zoo',) ('zoo',)"


def test_very_many_modules_are_not_all_named(monkeypatch):
    modules = []
    for number in range(100):
        module = type(sys)(f"made_up_{number:03}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        modules.append(module)
    assert len(needs(lambda: modules)) == MAX_NAMED


def test_a_changed_closure_is_looked_at_anew():
    held = [zoo]
    assert needs(lambda: held) == ("zoo",)
    held[0] = np
    assert needs(lambda: held) == ("numpy",)
