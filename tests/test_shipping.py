"""What can be shipped, what travels, and what becomes of it in the process that it reaches."""

from __future__ import annotations

import os
import stat
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

import jobrunner
from jobrunner import ConfigError, Executor, InitializerError
from jobrunner.shipping import archive as shipment
from jobrunner.shipping import collect as shipping
from jobrunner.shipping.archive import File, Shipment, pack, unpack

SUFFIX = shipping.SUFFIXES[1]
"""Of compiled modules, here."""

WRONG_SUFFIX = ".cpython-27-vax-linux-gnu.so"


@pytest.fixture
def package(tmp_path):
    """A package with data, and with what must not travel."""
    folder = tmp_path / "home" / "shipped_package"
    for path, text in {
        "__init__.py": "from pathlib import Path\nvalue = Path(__file__).with_name('data.txt').read_text()\n",
        "data.txt": "data",
        "inner/__init__.py": "",
        "inner/deep.py": "def place():\n    return __file__\n",
        "inner/table.csv": "1,2",
        "__pycache__/deep.cpython-311.pyc": "compiled",
        ".git/config": "secret",
        ".env": "secret",
        "old.pyc": "compiled",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "home" / "shipped_module.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("def one():\n    return 1\n")
    return file


@pytest.fixture
def forgotten(monkeypatch):
    """sys.path and sys.modules are afterwards as they were."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(shipment, "installed", None)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("shipped_"):
            del sys.modules[name]


def names(*ship):
    return [file.path for file in unpack(shipping.pack_parts(shipping.find(ship), None, ()).archive)]


# --- what can be shipped --------------------------------------------------------------------------------------------


def test_a_package_travels_with_its_data_and_without_what_is_hidden_or_made_anew(package):
    assert names(package) == [
        "shipped_package/__init__.py",
        "shipped_package/data.txt",
        "shipped_package/inner/__init__.py",
        "shipped_package/inner/deep.py",
        "shipped_package/inner/table.csv",
    ]


def test_modules_and_paths_of_both_kinds(package, module, forgotten, monkeypatch):
    monkeypatch.chdir(package.parent)
    sys.path.insert(0, str(package.parent))
    import shipped_module
    import shipped_package.inner.deep

    assert names(shipped_module) == names("shipped_module.py") == ["shipped_module.py"]
    assert names(shipped_package.inner.deep) == names("shipped_package/") == names(Path("shipped_package"))
    monkeypatch.chdir(package)
    assert names(".") == names(package)
    assert len(shipping.find([package, "."])) == 1


def test_the_same_files_have_the_same_key(package, module):
    def key(*ship, initializer=None, initargs=()):
        return shipping.pack_parts(shipping.find(ship), initializer, initargs).dump().key

    first = key(package, module)
    assert key(module, package) == first
    os.utime(package / "data.txt", (1, 1))
    assert key(package, module) == first
    assert key(package) != first
    assert key(package, module, initializer=print, initargs=(1,)) != first
    (package / "data.txt").write_text("Data")
    assert key(package, module) != first


def test_links_are_followed_but_not_for_ever(package, module):
    (package / "linked.py").symlink_to(module)
    (package / "again").symlink_to(package)
    (package / "pipe").symlink_to("nowhere")
    assert "shipped_package/linked.py" in names(package)
    assert not [name for name in names(package) if "again" in name or "pipe" in name]


def namespace():
    found = types.ModuleType("spread_out")
    found.__path__ = ["/somewhere"]
    return found


@pytest.mark.parametrize(
    ("ship", "text"),
    [
        (["/no/such/thing.py"], "/no/such/thing.py does not exist"),
        (["numpy"], r"for the module of that name, ship=\[numpy\] \(no quotes\)"),
        ([sys], "'sys' has no file, because it is built into Python"),
        ([namespace()], "'spread_out' has no file, because it is a namespace package; ship the packages"),
        ([sys.modules["__main__"]], "__main__ cannot be shipped"),
        ([threading], "would hide the module 'threading'"),
        ([jobrunner], "would hide the module 'jobrunner'"),
        ([7], "7 is not a module or a path"),
        ("home/shipped_module.py", r"must be a list"),
        (np, r"must be a list"),
        (["home"], "is not a package, because it has no __init__.py; ship the modules in it instead"),
        (["home/shipped_package/data.txt"], "is not a package folder or a module"),
        (["home/my-module.py"], "'my-module' is not a module name"),
        ([f"home/fast{WRONG_SUFFIX}"], "compiled for another system or Python version"),
        (["home/broken"], "the compiled modules broken/fast are for another system"),
        (["home/shipped_module.py", "home/other/shipped_module.py"], "are both called 'shipped_module'"),
    ],
)
def test_what_cannot_be_shipped(ship, text, package, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("my-module.py", f"fast{WRONG_SUFFIX}", f"broken/fast{WRONG_SUFFIX}", "broken/__init__.py"):
        (tmp_path / "home" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "home" / path).write_text("")
    (tmp_path / "home" / "other").mkdir()
    (tmp_path / "home" / "other" / "shipped_module.py").write_text("")
    with pytest.raises(ConfigError, match=text):
        Executor("processes", ship=ship)


def test_a_module_in_an_archive(tmp_path):
    inside = types.ModuleType("zipped")
    inside.__file__ = str(tmp_path / "all.zip" / "zipped.py")
    with pytest.raises(ConfigError, match="unpack the archive and ship the folder"):
        shipping.find([inside])


def test_there_is_a_limit_that_is_named(package):
    with pytest.raises(
        ConfigError, match=r"data.txt the files have \d+ bytes, and at most 84 can be shipped"
    ):
        shipping.pack_parts(shipping.find([package]), None, (), limit=84)


def test_an_open_backend_takes_nothing_more(module):
    executor = Executor("threads", max_workers=1)
    with pytest.raises(ConfigError, match="so ship cannot be given to the Executor; give it to the Backend"):
        Executor(executor._lifetime.backend, ship=[module])
    executor.shutdown()


# --- unpacking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "a//b.py", "./a.py", ""])
def test_no_path_leads_out_of_the_folder(path):
    with pytest.raises(ConfigError, match="leads out of its folder"):
        unpack(pack([File(path, False, b"")]))


def test_nobody_else_can_read_what_is_unpacked(package, forgotten, tmp_path, monkeypatch):
    monkeypatch.setattr("jobrunner.nested.task_context.slot_folder", str(tmp_path / "slot"))
    (package / "run.sh").write_text("#!/bin/sh\n")
    (package / "run.sh").chmod(0o755)
    before = os.umask(0)
    try:
        shipping.pack_parts(shipping.find([package]), None, ())()
    finally:
        os.umask(before)
    import shipped_package

    assert shipped_package.value == "data"
    assert sys.path[0] == str(tmp_path / "slot")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "slot", *(tmp_path / "slot").rglob("*"))
        if "__pycache__" not in str(path)
    }
    assert (
        modes.pop("slot")
        == modes.pop("inner")
        == modes.pop("shipped_package")
        == modes.pop("run.sh")
        == 0o700
    )
    assert set(modes.values()) == {0o600}


def test_the_initializer_may_be_in_a_shipped_module(tmp_path, forgotten, monkeypatch):
    monkeypatch.setattr("jobrunner.nested.task_context.slot_folder", str(tmp_path / "slot"))
    (tmp_path / "shipped_start.py").write_text("started = []\ndef start(value):\n    started.append(value)\n")
    sys.path.insert(0, str(tmp_path))
    import shipped_start

    made = shipping.pack_parts(shipping.find([shipped_start]), shipped_start.start, (7,))
    dumped = made.dump()
    assert (dumped.name, dumped.ships, dumped.modules) == ("start", ("shipped_start",), ("shipped_start",))
    sys.path.remove(str(tmp_path))
    before = sys.modules.pop("shipped_start")
    jobrunner.calls.serialization.load_function(dumped.blob)()
    again = sys.modules["shipped_start"]
    assert again is not before
    assert (again.started, again.__file__) == ([7], str(tmp_path / "slot" / "shipped_start.py"))
    assert shipment.installed.dump().key == dumped.key


def test_what_was_loaded_from_elsewhere_is_loaded_anew(module, tmp_path, forgotten, monkeypatch):
    monkeypatch.setattr("jobrunner.nested.task_context.slot_folder", str(tmp_path / "slot"))
    monkeypatch.setitem(sys.modules, "shipped_module", types.ModuleType("shipped_module"))
    monkeypatch.setitem(sys.modules, "shipped_module_too", types.ModuleType("shipped_module_too"))
    shipping.pack_parts(shipping.find([module]), None, ())()
    import shipped_module

    assert shipped_module.one() == 1
    assert "shipped_module_too" in sys.modules


def test_compiled_parts_reach_no_other_system(package, tmp_path, monkeypatch):
    (package / f"fast{SUFFIX}").write_text("")
    made = shipping.pack_parts(shipping.find([package]), None, ())
    assert made.system == shipment.own_system()
    monkeypatch.setattr("jobrunner.nested.task_context.slot_folder", str(tmp_path / "slot"))
    with pytest.raises(
        ConfigError, match=r"compiled for vms vax, and this is .*; install them there instead"
    ):
        Shipment(made.archive, made.names, "vms vax", None)()
    monkeypatch.setattr("importlib.machinery.EXTENSION_SUFFIXES", [".other.so"])
    with pytest.raises(ConfigError, match="the compiled modules shipped_package/fast do not fit"):
        made()
    assert not (tmp_path / "slot").exists()


def test_one_file_for_each_version_of_python_is_fine(package):
    for suffix in (SUFFIX, WRONG_SUFFIX):
        (package / f"fast{suffix}").write_text("")
    assert f"shipped_package/fast{SUFFIX}" in names(package)


def test_what_the_killed_have_left_is_removed(module, tmp_path, forgotten, monkeypatch):
    own = tmp_path / f"{shipment.PREFIX}own"
    old, young, held, other = (
        tmp_path / f"{shipment.PREFIX}{name}" for name in ("old", "young", "held", "x")
    )
    for folder in (old, young, held):
        folder.mkdir()
    other.write_text("a file")
    long_ago = old.stat().st_mtime - shipment.ABANDONED_AFTER - 1
    for folder in (old, held, other):
        os.utime(folder, (long_ago, long_ago))
    descriptor = os.open(held, os.O_RDONLY)
    shipment.fcntl.flock(descriptor, shipment.fcntl.LOCK_EX)
    monkeypatch.setattr("jobrunner.nested.task_context.slot_folder", str(own))
    shipping.pack_parts(shipping.find([module]), None, ())()
    os.close(descriptor)
    assert sorted(tmp_path.glob(f"{shipment.PREFIX}*")) == sorted([own, young, held, other])


# --- backends of this host ------------------------------------------------------------------------------------------


@pytest.fixture
def on_path(package, module, forgotten):
    """The client can import them, and so its children can."""
    sys.path.insert(0, str(package.parent))


@pytest.mark.parametrize("backend", ["threads", "processes", "cluster"])
def test_what_the_children_find_anyway_does_not_travel(backend, on_path, package, module):
    import shipped_package.inner.deep

    with Executor(backend, max_workers=1, ship=[shipped_package, module]) as executor:
        assert executor.submit(shipped_package.inner.deep.place).result() == str(
            package / "inner" / "deep.py"
        )


@pytest.mark.parametrize("backend", ["threads", "processes", "cluster"])
def test_what_only_its_path_tells_of_can_be_imported(backend, package, module, forgotten):
    def use():
        import shipped_module
        import shipped_package

        return shipped_module.one(), shipped_package.value

    def use_inside():
        return jobrunner.current_executor().submit(use).result()

    with Executor(backend, max_workers=1, ship=[package, module]) as executor:
        assert executor.submit(use).result() == (1, "data")
        assert executor.submit(use_inside).result() == (1, "data")
        assert list(executor.map(lambda _: use(), range(3))) == [(1, "data")] * 3


def test_threads_have_one_version_only(on_path, module, tmp_path):
    import shipped_module

    other = tmp_path / "shipped_module.py"
    other.write_text("")
    with pytest.raises(
        ConfigError, match=f'{shipped_module.__file__} in this process, where calls run on "threads"'
    ):
        Executor("threads", ship=[other])


def test_an_executor_that_is_passed_on_brings_along_what_its_call_has(package, forgotten):
    def value():
        import shipped_package

        return shipped_package.value

    def pass_on(executor):
        return executor.submit(value).result()

    with Executor("processes", max_workers=1, ship=[package]) as executor:
        assert executor.submit(pass_on, executor).result() == "data"


def test_the_folder_goes_with_the_slot(package, forgotten, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def folder():
        import shipped_package

        return os.path.dirname(os.path.dirname(shipped_package.__file__))

    def die():
        folder()
        os._exit(1)

    with Executor("processes", max_workers=1, ship=[package]) as executor:
        first = executor.submit(folder).result()
        assert os.path.dirname(first) == str(tmp_path)
        with pytest.raises(jobrunner.TaskLostError):
            executor.with_options(at_most_once=True).submit(die).result()
        second = executor.submit(folder).result()
        assert second != first
        assert not os.path.exists(first)
    assert not os.path.exists(second)


def test_what_fails_in_the_slot_is_told_in_each_future(package, forgotten):
    def fail():
        raise OSError("no licence")

    with Executor("processes", max_workers=1, ship=[package], initializer=fail) as executor:
        for _ in range(2):
            with pytest.raises(InitializerError, match="fail failed in this slot: OSError: no licence"):
                executor.submit(os.getpid).result()
