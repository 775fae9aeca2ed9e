"""What slots are told of the program's process."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import types

import pytest

from jobrunner.program.flags import (
    BOARD_BYTES,
    ProgramPath,
    StartedWith,
    Telling,
    Whiteboard,
    hash_seed,
    interpreter_options,
    program_arguments,
    start_with,
    this_program,
)
from jobrunner.system.descriptors import unnamed_file


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], []),
        (["-O", "-B"], ["-O", "-B"]),
        (["-OO", "-bb", "-W", "error::UserWarning"], ["-OO", "-bb", "-Werror::UserWarning"]),
        (["-s", "-X", "dev", "-X", "mine=3"], ["-s", "-X", "dev", "-X", "mine=3"]),
        (["-E", "-W", "ignore"], ["-E", "-Wdefault::ImportWarning", "-Wignore"]),
    ],
)
def test_options_start_another_interpreter_like_this_one(options, expected):
    code = "from jobrunner.program.flags import interpreter_options; print(interpreter_options())"
    environment = {**os.environ, "PYTHONWARNINGS": "default::ImportWarning"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("PYTHONOPTIMIZE", None)
    run = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    if "-E" in options:
        expected = [option for option in expected if option != "-Wdefault::ImportWarning"]
    assert run.stdout == f"{expected}\n"


def test_arguments_are_what_a_process_can_be_given(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["a b", tmp_path, 3, "nul\0"])
    assert program_arguments() == ["a b", str(tmp_path), "3", "nul"]


def test_a_seed_is_what_the_environment_says_or_comes_from_a_secret_or_is_random(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    assert hash_seed() == hash_seed(b"secret") == 77
    for other in ("random", "", "4294967296"):
        monkeypatch.setenv("PYTHONHASHSEED", other)
        assert hash_seed(b"secret") == hash_seed(b"secret") != hash_seed(b"other")
        assert hash_seed() != hash_seed()


def test_variables_that_are_set_for_the_start_are_put_back(monkeypatch):
    options, environment = start_with({"PYTHONHASHSEED": "random", "A": "b"}, ["-O"], 5)
    code = "from jobrunner.program import takeover; takeover.settle(); import os; print(sorted(os.environ), hash('a'))"
    run = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    names, number = run.stdout.rsplit(maxsplit=1)
    assert "'PYTHONHASHSEED'" in names
    assert "JOBRUNNER" not in names
    seeded = subprocess.run(
        [sys.executable, "-c", "print(hash('a'))"],
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "5"},
    )
    assert number == seeded.stdout.strip()


def test_a_path_is_another_list_only_when_it_has_changed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/a", "", "lib"])
    path = ProgramPath()
    first = path.current()
    assert first == ["/a", str(tmp_path), f"{tmp_path}/lib"]
    assert path.current() is first
    sys.path.append("/b")
    second = path.current()
    assert second == [*first, "/b"]
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert path.current() == ["/a", f"{tmp_path}/there", f"{tmp_path}/there/lib", "/b", str(tmp_path)]
    sys.path[:] = ["/a"]
    last = path.current()
    assert last == ["/a", str(tmp_path)]
    monkeypatch.chdir("/")
    assert path.current() is last, "no entry begins at the current folder"


def test_slots_are_told_again_when_the_key_of_multiprocessing_is_another(monkeypatch):
    process = multiprocessing.current_process()
    monkeypatch.setitem(process._config, "authkey", process.authkey)
    telling = Telling()
    first = telling.current()
    assert first.authkey == process.authkey
    assert telling.current() is first
    process.authkey = b"another"
    assert telling.current() == first._replace(authkey=b"another")


def test_slots_are_told_what_the_program_has_changed_before_the_first_call(monkeypatch, tmp_path):
    monkeypatch.setenv("GOING", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    telling = Telling()
    before = telling.current()
    assert telling.current() is before
    monkeypatch.delenv("GOING")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("COMING", "2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["a", "b"])
    assert telling.current().configuration == before.configuration
    telling.begin()
    told = telling.current()
    changes = json.loads(told.configuration)
    assert changes["environment"] == {"GOING": None, "OMP_NUM_THREADS": "1", "COMING": "2"}
    assert (changes["folder"], changes["arguments"]) == (str(tmp_path), ["a", "b"])
    monkeypatch.setenv("COMING", "3")
    telling.begin()
    assert telling.current() is told


def test_modules_that_another_thread_imports_are_not_there_yet(monkeypatch):
    for name in ("multiprocessing", "multiprocessing.process", "multiprocessing.resource_tracker"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    program = this_program()
    assert (program.start_method, program.tracker(), program.told().authkey) == (None, None, b"")


def test_what_is_written_on_a_board_is_read_once():
    fd = unnamed_file("whiteboard", BOARD_BYTES)
    writer, reader = Whiteboard(fd), Whiteboard(fd)
    assert reader.read() is None
    assert writer.write("é")
    assert (reader.read(), reader.read()) == ("é", None)
    assert not writer.write("x" * BOARD_BYTES)
    assert reader.read() is None
    assert writer.write("")
    assert reader.read() == ""
    writer.close()
    reader.close()
    os.close(fd)


def test_options_of_this_process_are_known():
    assert all(isinstance(option, str) for option in interpreter_options())


def test_another_thread_may_take_from_the_environment_while_it_is_read(monkeypatch):
    monkeypatch.setenv("TAKEN_AWAY", "1")
    assert list(os.environ)[-1] == "TAKEN_AWAY"

    def trace(frame, event, argument):
        if frame.f_code is type(os.environ).__getitem__.__code__:
            os.environ._data.pop(
                os.environ.encodekey("TAKEN_AWAY"), None
            )  # as another thread may at any moment

    sys.settrace(trace)
    try:
        environment = StartedWith.now().environment
    finally:
        sys.settrace(None)
    assert environment == dict(os.environ)
