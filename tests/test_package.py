"""The package as its users get it: quick to import, and alone at its top level."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jobrunner

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("zmq", "rich", "typer", "cloudpickle", "msgpack", "asyncio", "platformdirs", "numpy")


def python(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light(tmp_path):
    loaded = python("import sys, jobrunner; print(*sys.modules)", tmp_path).split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_threads_need_no_zmq(tmp_path):
    code = "import sys; from jobrunner import Executor\nwith Executor('threads') as ex: ex.submit(int).result()\n"
    loaded = python(code + "print(*sys.modules)", tmp_path).split()
    assert "zmq" not in loaded
    assert "rich" not in loaded


def test_every_public_name_exists():
    for name in jobrunner.__all__:
        assert getattr(jobrunner, name) is not None
    assert set(dir(jobrunner)) == set(jobrunner.__all__)


def test_what_programs_import_beside_a_pool_is_there_under_the_same_name():
    pools = {name for name in concurrent.futures.__all__ if name.endswith("PoolExecutor")}
    assert set(concurrent.futures.__all__) - pools <= set(jobrunner.__all__)
    for name in ("BrokenExecutor", "CancelledError", "InvalidStateError", "TimeoutError"):
        assert getattr(jobrunner, name) is getattr(concurrent.futures, name), "caught under either name"


def test_a_star_import_brings_the_public_names(tmp_path):
    assert python("from jobrunner import *; print(Executor.__name__)", tmp_path) == "Executor\n"


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(jobrunner, "Hub")


def test_no_source_imports_the_folders_by_their_generic_names():
    for folder in ("jobrunner", "workers", "cli", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["import"], ["from"]):
                    assert words[1].partition(".")[0] not in ("workers", "cli"), f"{path}: {line}"


def test_the_links_lead_to_the_folders():
    for name, target in (
        ("workers", "../workers"),
        ("cli", "../cli"),
        ("testing/contract", "../../tests/contract"),
    ):
        link = ROOT / "jobrunner" / name
        assert link.is_symlink()
        assert os.readlink(link) == target


def test_the_wheel_has_one_top_level_and_every_module(tmp_path):
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    names = zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jobrunner"}
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("jobrunner", "jobrunner/workers", "jobrunner/cli", "jobrunner/testing/contract")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert sources <= set(names)
    assert "jobrunner/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


TYPED = """
import concurrent.futures
from collections.abc import Iterator
from multiprocessing import get_context

import jobrunner
from jobrunner import Executor, Future, as_completed, wait

def double(x: int) -> int:
    return 2 * x

def first(futures: list[Future[int]]) -> int:
    return len(wait(futures).not_done) + next(as_completed(futures)).result()

def standard(executor: concurrent.futures.Executor) -> concurrent.futures.Future[int]:
    return executor.submit(double, 3)

class Pool(Executor):
    def __init__(self, size: int) -> None:
        super().__init__(size, get_context("spawn"), print, ("ready",), max_tasks_per_child=3)

with Executor("threads", "prefix") as executor:
    future: Future[int] = executor.submit(double, 1)
    theirs: concurrent.futures.Future[int] = future
    results: Iterator[int] = executor.map(double, [1, 2], timeout=3, chunksize=2)
    assert first([future]) + standard(executor).result() + sum(results) == 14
    assert theirs is future
    annotated: "jobrunner.Future[str]" = executor.submit(str, 1)
"""


@pytest.mark.timeout(300)
def test_types_are_as_those_of_the_standard_library(tmp_path):
    """What is written for `concurrent.futures` is well typed with this package, and runs."""
    program = tmp_path / "typed.py"
    program.write_text(TYPED)
    python(TYPED, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n"), done.stdout
