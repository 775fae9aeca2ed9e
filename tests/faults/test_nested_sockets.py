"""Nested calls need a socket in a folder for temporary files, which may be gone, full, or have too long a path."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import zoo

from jobrunner import ConfigError, Executor, current_executor


def nested(value):
    return current_executor().submit(zoo.echo, value).result()


@pytest.fixture
def folder(monkeypatch):
    """The folder for temporary files of programs that start now; its path is short, as it is for a socket."""
    with tempfile.TemporaryDirectory(prefix="jr") as above:
        folder = Path(above) / "t"
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield folder


def vanishes(executor, folder):
    shutil.rmtree(folder)
    folder.touch()


def comes_back(executor, folder):
    folder.unlink()
    folder.mkdir()


def becomes_too_long(executor, folder):
    executor._backend._local._folder = f"{folder}/{'x' * 120}"


def test_a_call_whose_socket_has_no_folder_fails_alone_and_at_once(folder):
    with Executor("processes", max_workers=1) as executor:
        assert executor.submit(zoo.echo, 1).result() == 1
        vanishes(executor, folder)
        with pytest.raises(ConfigError, match=r"cannot make calls of their own.*set TMPDIR"):
            executor.submit(nested, 2).result(timeout=8)
        assert executor.submit(zoo.echo, 3).result() == 3
        comes_back(executor, folder)
        assert executor.submit(nested, 4).result() == 4


def test_a_call_whose_sockets_path_is_too_long_fails_alone_and_at_once(folder):
    with Executor("processes", max_workers=1) as executor:
        becomes_too_long(executor, folder)
        with pytest.raises(ConfigError, match="cannot make calls of their own"):
            executor.submit(nested, 1).result(timeout=8)
        assert executor.submit(zoo.echo, 2).result() == 2


def test_an_executor_that_is_an_argument_of_a_call_needs_a_socket_too_and_the_pool_goes_on_without(
    folder, capfd
):
    with Executor("processes", max_workers=1) as executor:
        becomes_too_long(executor, folder)
        executor._backend.connection()
        assert executor.submit(zoo.echo, 2).result() == 2
    assert "calls cannot make calls of their own" in capfd.readouterr().err


def test_a_call_in_a_new_process_whose_socket_has_gone_meanwhile_fails_alone_and_at_once(folder):
    with Executor("processes", max_workers=1, max_tasks_per_child=1) as executor:
        assert executor.submit(nested, 1).result() == 1
        vanishes(executor, folder)
        with pytest.raises(ConfigError, match="cannot make calls of their own"):
            executor.submit(nested, 2).result(timeout=8)
        assert executor.submit(zoo.echo, 3).result() == 3


def test_a_call_on_an_embedded_cluster_whose_socket_is_gone_fails_alone_and_at_once(folder):
    with Executor("cluster", max_workers=1) as executor:
        assert executor.submit(zoo.echo, 1).result() == 1
        vanishes(executor, folder)
        with pytest.raises(ConfigError, match="cannot make calls of their own"):
            executor.submit(nested, 2).result(timeout=8)
        assert executor.submit(zoo.echo, 3).result() == 3
