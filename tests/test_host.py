from __future__ import annotations

import os
import sys

import pytest

from jobrunner.system import host
from jobrunner.system.host import (
    cgroup_limit,
    missing_modules,
    module_path,
    own_cgroup,
    own_host,
    python_version,
    usable_cpus,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder instead of /sys/fs/cgroup."""
    monkeypatch.setattr(host, "CGROUPS", tmp_path)
    return tmp_path


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_cgroups_there_is_no_limit(root):
    assert cgroup_limit(root, "/a/b") is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("odd\n", None), ("", None)],
)
def test_the_quota_of_the_unified_hierarchy(root, text, limit):
    write(root, "job/cpu.max", text)
    assert cgroup_limit(root, "/job") == limit


def test_the_smallest_quota_on_the_way_up_counts(root):
    write(root, "cpu.max", "800000 100000")
    write(root, "a/cpu.max", "200000 100000")
    write(root, "a/b/cpu.max", "400000 100000")
    assert cgroup_limit(root, "/a/b") == 2.0
    assert cgroup_limit(root, "/") == 8.0
    assert cgroup_limit(root, "/elsewhere") == 8.0


@pytest.mark.parametrize(("quota", "limit"), [("250000", 2.5), ("-1", None), ("0", None)])
def test_the_quota_of_the_older_hierarchy(root, quota, limit):
    write(root, "cpu/cpu.cfs_quota_us", quota)
    write(root, "cpu/cpu.cfs_period_us", "100000")
    assert cgroup_limit(root, "/") == limit


def test_the_own_group_is_somewhere():
    assert own_cgroup().startswith("/")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
@pytest.mark.parametrize(
    ("affinity", "limit", "usable"), [(8, None, 8), (8, 2.5, 3), (2, 6.0, 2), (8, 0.25, 1)]
)
def test_affinity_and_quota_together(root, monkeypatch, affinity, limit, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    monkeypatch.setattr(host, "own_cgroup", lambda: "/job")
    if limit is not None:
        write(root, "job/cpu.max", f"{int(limit * 100000)} 100000")
    assert usable_cpus() == usable


def test_without_affinity_the_machine_counts(root, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus() == 1


def test_names_for_people():
    assert own_host() == os.uname().nodename
    assert python_version() == ".".join(sys.version.split(".")[:2])


def test_what_this_program_can_import_a_child_can_too(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", ["/a", "", "/b"])
    assert module_path()[0] == "/a"
    assert "/b" in module_path()
    monkeypatch.chdir(tmp_path)
    assert {"", str(tmp_path)} & set(module_path())


def test_a_missing_module_is_found_out_without_an_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert missing_modules(["json", "sys", "nowhere_at_all", "pytest"]) == ["nowhere_at_all"]
    (tmp_path / "nowhere_at_all.py").write_text("raise SystemExit('it was imported')")
    assert missing_modules(["nowhere_at_all"]) == [], "the current folder is searched by slots too"


def test_who_cannot_tell_does_not_say_that_a_module_is_missing(monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            raise RuntimeError(name)

    monkeypatch.setattr(sys, "meta_path", [Finder])
    monkeypatch.setitem(sys.modules, "made_up", type(sys)("made_up"))
    assert missing_modules(["no_such_thing", "made_up"]) == []
