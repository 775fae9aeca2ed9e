"""How a program notices that it has come to another version of a module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types

import pytest

from jobrunner import ConfigError
from jobrunner.shipping.module_versions import Finder, Version, check, digest_of, found


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules that can be imported; they are unloaded at the end."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return str(path)

    yield write
    for name in [name for name in sys.modules if name.startswith("version_")]:
        del sys.modules[name]


@pytest.fixture
def finder(monkeypatch):
    """One that has just begun to watch."""
    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder


def test_nothing_happens_without_a_change(finder, write):
    first = finder.epoch()
    assert first.number == 0
    write("version_a", "A = 1")
    import version_a

    assert finder.epoch() is first
    assert importlib.util.find_spec("version_a") is not None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("version_that_is_not_there")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("version_that_is_not_there")
    assert finder.epoch() is first
    assert version_a.A == 1


def test_a_reloaded_module_begins_an_epoch(finder, write):
    file = write("version_b", "B = 1")
    import version_b

    assert finder.epoch().number == 0
    write("version_b", "B = 'changed'")
    importlib.reload(version_b)
    assert finder.epoch() == (1, (Version("version_b", file, digest_of(file)),))
    assert finder.epoch() is finder.epoch()
    importlib.reload(version_b)
    assert finder.epoch().number == 1, "its file is the same"
    write("version_b", "B = 'changed again'")
    importlib.reload(version_b)
    assert finder.epoch() == (2, (Version("version_b", file, digest_of(file)),))


def test_what_was_imported_before_the_watch_counts_too(write, monkeypatch):
    write("version_c", "C = 1")
    import version_c

    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    write("version_c", "C = 'changed'")
    importlib.reload(version_c)
    assert finder.epoch().number == 1


def test_a_file_that_is_older_than_the_watch_has_not_changed(finder, monkeypatch, write):
    write("version_d", "D = 1")
    import version_d

    finder.epoch()
    monkeypatch.setattr(finder, "_since", os.stat(version_d.__file__).st_ctime + 1)
    importlib.reload(version_d)
    assert finder.epoch().number == 0


def test_a_module_that_was_never_used_by_a_call_may_be_imported_twice(finder, write):
    write("version_e", "E = 1")
    importlib.import_module("version_e")
    del sys.modules["version_e"]
    write("version_e", "E = 'changed'")
    importlib.import_module("version_e")
    assert finder.epoch().number == 0, "no slot can have the first one"
    del sys.modules["version_e"]
    assert finder.epoch().number == 0
    write("version_e", "E = 'changed again'")
    assert importlib.import_module("version_e").E == "changed again"
    assert finder.epoch().number == 1


def test_a_module_from_another_file_is_another_version(finder, write, tmp_path, monkeypatch):
    write("version_f", "F = 1")
    import version_f

    finder.epoch()
    monkeypatch.setattr(finder, "_since", os.stat(version_f.__file__).st_ctime + 1000)
    other = tmp_path / "other"
    other.mkdir()
    (other / "version_f.py").write_text("F = 2")
    monkeypatch.syspath_prepend(str(other))
    importlib.reload(version_f)
    assert finder.epoch().number == 1


def test_modules_without_files_do_not_count(finder):
    importlib.reload(sys)
    made = sys.modules["version_made"] = types.ModuleType("version_made")
    del sys.modules["version_made"]
    sys.modules["version_made"] = made
    assert finder.epoch().number == 0


# --- what a slot looks at -------------------------------------------------------------------------------------------


def test_a_module_that_is_another_version_here_is_named_with_both(write):
    write("version_g/__init__", "raise AssertionError('it need not be imported')")
    file = write("version_g/inner", "G = 1")
    assert found("version_g.inner") == file
    check(Version("version_g.inner", "/there/inner.py", digest_of(file)))
    with pytest.raises(ConfigError) as caught:
        check(Version("version_g.inner", "/there/inner.py", "0123456789ab"))
    text = str(caught.value)
    assert "'version_g.inner', which is version 0123456789ab there (/there/inner.py)" in text
    assert f"version {digest_of(file)} on {os.uname().nodename} ({file})" in text
    assert "ship=[version_g]" in text


def test_a_module_that_is_not_here_is_left_to_the_call_that_needs_it():
    assert found("version_nowhere") is None
    assert found("json.nowhere") is None
    check(Version("version_nowhere.inner", "/there/inner.py", "0123456789ab"))
