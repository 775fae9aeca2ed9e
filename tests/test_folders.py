"""Folders for sockets and temporary files, wherever one can be had."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from jobrunner.errors import ConfigError
from jobrunner.system import folders
from jobrunner.system.folders import (
    MAX_SOCKET_LENGTH,
    SOCKET,
    hold_folder,
    make_folder,
    socket_folder,
    temporary_folder,
)


@pytest.fixture
def no_temporary_folder(monkeypatch):
    def fail():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)


@pytest.mark.parametrize("name", ["a b", "é日", "100%s", "a*b"])
def test_a_socket_is_where_temporary_files_are(monkeypatch, tmp_path, name):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", f"/proc/self/cwd/{name}")
    monkeypatch.chdir(tmp_path)
    assert os.path.dirname(socket_folder()) == f"/proc/self/cwd/{name}"


def test_a_long_path_is_left_alone(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert temporary_folder() == str(long)
    folder = socket_folder()
    assert len(os.fsencode(f"{folder}/{SOCKET}")) <= MAX_SOCKET_LENGTH
    make_folder(folder)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    os.rmdir(folder)


def test_without_a_temporary_folder_there_are_others(monkeypatch, no_temporary_folder):
    assert temporary_folder() is not None
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    assert socket_folder().startswith("/tmp/jobrunner-")


def test_a_folder_that_has_vanished_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert temporary_folder() == "/tmp"


def test_where_there_is_none_it_is_said(monkeypatch, no_temporary_folder, tmp_path):
    monkeypatch.setattr(folders, "_other_folders", lambda: iter(["/proc/1/fd"]))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert temporary_folder() is None
    with pytest.raises(ConfigError, match="there is no folder for a socket: each of /proc/1/fd is read-only"):
        socket_folder()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot create the folder"):
        make_folder(str(tmp_path / "file" / "x"))


def test_what_programs_have_left_that_were_killed_is_removed_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    abandoned, held, young, own = (
        str(tmp_path / os.path.basename(socket_folder())) for _ in ("abandoned", "held", "young", "own")
    )
    others = tmp_path / "jobrunner-results"
    others.mkdir()
    for folder in (abandoned, held, young):
        make_folder(folder)
    holds = hold_folder(held)
    (tmp_path / os.path.basename(abandoned) / SOCKET).touch()
    for folder in (abandoned, held, others):
        os.utime(folder, (0, 0))
    make_folder(own)
    descriptor = hold_folder(own)
    assert {str(path) for path in tmp_path.iterdir()} == {held, young, own, str(others)}
    os.close(descriptor)
    os.close(holds)


PROGRAM = """
import os, signal, sys
from jobrunner import Executor

executor = Executor("processes", max_workers=1)
executor._lifetime.backend.connection()
if sys.argv[1] == "os._exit":
    os._exit(0)
os.kill(os.getpid(), signal.Signals[sys.argv[1]])
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "os._exit"])
def test_the_folder_of_a_program_that_was_killed_is_removed_by_the_next_one(end):
    with tempfile.TemporaryDirectory() as short:

        def run():
            environment = {**os.environ, "TMPDIR": short}
            subprocess.run([sys.executable, "-c", PROGRAM, end], env=environment, check=False)
            (left,) = os.listdir(short)
            os.utime(f"{short}/{left}", (0, 0))
            return left

        assert run() != run()
