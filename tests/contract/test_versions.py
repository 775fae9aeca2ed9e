"""A program that reloads its modules, or imports them again: its calls find what it has itself."""

from __future__ import annotations

import importlib
import json
import os
import sys

import pytest
import zoo

from jobrunner import current_executor

pytestmark = pytest.mark.own


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Writes the module `edited_module`, whose functions say which version they are of."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(version):
        lines = [f"VERSION = {version!r}", "import os", "def tell(_=None):", "    return VERSION"]
        lines += ["def tell_with_pid(_=None):", "    return VERSION, os.getpid()"]
        (tmp_path / "edited_module.py").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()

    write("first")
    yield write
    sys.modules.pop("edited_module", None)


@pytest.fixture
def module(edited):
    import edited_module

    return edited_module


def meet(folder, own, other, fn):
    """What `fn` returns, once the other call runs too."""
    zoo.append_line(f"{folder}/{own}", "here")
    zoo.wait_for(f"{folder}/{other}")
    return fn()


def each_slot(executor, fn, folder):
    """What `fn` returns in both slots."""
    folder.mkdir()
    futures = [executor.submit(meet, str(folder), own, 1 - own, fn) for own in range(2)]
    return [future.result(30) for future in futures]


def test_a_reloaded_module_is_what_calls_find_in_all_slots(make_executor, edited, module, tmp_path):
    executor = make_executor()
    assert each_slot(executor, module.tell, tmp_path / "a") == ["first"] * 2
    edited("the second")
    importlib.reload(module)
    assert set(executor.map(module.tell, range(1000), chunksize=10)) == {"the second"}
    assert each_slot(executor, module.tell, tmp_path / "b") == ["the second"] * 2
    assert executor.submit(lambda: module.tell()).result() == "the second"
    edited("and the third one")
    importlib.reload(module)
    assert each_slot(executor, module.tell, tmp_path / "c") == ["and the third one"] * 2


def test_a_module_that_is_imported_again(make_executor, edited, module, tmp_path):
    executor = make_executor()
    assert each_slot(executor, module.tell, tmp_path / "a") == ["first"] * 2
    edited("the second")
    del sys.modules["edited_module"]
    import edited_module as again

    assert each_slot(executor, again.tell, tmp_path / "b") == ["the second"] * 2
    assert list(executor.map(again.tell, range(10))) == ["the second"] * 10


def test_calls_of_calls_find_it_too(make_executor, edited, module, tmp_path):
    executor = make_executor()
    assert each_slot(executor, module.tell, tmp_path / "a") == ["first"] * 2
    edited("the second")
    importlib.reload(module)

    def told():
        inner = current_executor()
        return [inner.submit(module.tell).result(), *inner.map(module.tell, range(10))]

    assert executor.submit(told).result(30) == ["the second"] * 11


def test_the_initializer_has_run_where_a_reloaded_module_is_used(make_executor, edited, module):
    executor = make_executor(initializer=zoo.initialize, initargs=("set",))
    assert executor.submit(zoo.initialized).result() == ["set"]
    edited("the second")
    importlib.reload(module)
    assert executor.submit(zoo.initialized).result() == ["set"]


def test_processes_stay_where_a_reload_changes_nothing(make_executor, module, tmp_path):
    executor = make_executor()
    before = each_slot(executor, module.tell_with_pid, tmp_path / "a")
    importlib.reload(json.decoder)
    os.utime(module.__file__)
    importlib.reload(module)
    executor.submit(module.tell).result()  # a file that was touched may have been another one
    later = each_slot(executor, module.tell_with_pid, tmp_path / "b")
    importlib.reload(module)
    importlib.reload(json.decoder)
    assert sorted(each_slot(executor, module.tell_with_pid, tmp_path / "c")) == sorted(later)
    assert len({pid for _, pid in before}) == 2


def test_an_executor_that_is_made_after_a_reload(make_executor, edited, module):
    assert make_executor().submit(module.tell).result() == "first"
    edited("the second")
    importlib.reload(module)
    assert make_executor().submit(module.tell).result() == "the second"
