"""Where a line to join with comes from, and who sees it."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from jobrunner.errors import ConfigError
from jobrunner.keys.invitation import Invitation, names_a_line, read_line
from jobrunner.transport.curve import new_pair

LINE = Invitation("tcp://10.0.0.5:7077", new_pair().public, new_pair().secret).to_line()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "line"
    path.touch(0o600)
    path.write_text(f"{LINE}\n")
    return path


def test_a_line_comes_from_standard_input_a_file_or_itself(file, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{LINE}\nanother line\n"))
    assert read_line("-") == LINE
    assert read_line(f"@{file}") == LINE
    assert read_line(str(file)) == LINE
    assert read_line(f" {LINE}\n") == LINE


def test_what_stands_for_a_line_is_told_from_an_address(file):
    assert all(map(names_a_line, ("-", f"@{file}", LINE, f" {LINE}")))
    assert not any(map(names_a_line, ("10.0.0.5", "tcp://10.0.0.5:7077", "node-7", "[::1]:7077")))


@pytest.mark.parametrize("standard_input", [io.StringIO(""), None])
def test_no_line_is_an_error(standard_input, monkeypatch):
    monkeypatch.setattr(sys, "stdin", standard_input)
    with pytest.raises(ConfigError, match="jobrunner keys invite"):
        read_line("-")


def test_a_file_that_is_not_there_or_that_others_may_read_is_refused(file):
    with pytest.raises(ConfigError, match=r"the file .*elsewhere for the invitation line does not exist"):
        read_line(f"@{file.parent / 'elsewhere'}")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {file}"):
        read_line(f"@{file}")


def test_calls_do_not_inherit_a_line(monkeypatch):
    monkeypatch.setenv("JOBRUNNER_INVITATION", LINE)
    assert read_line(LINE) == LINE
    assert "JOBRUNNER_INVITATION" not in os.environ


HIDING = """
import os, sys
from jobrunner.keys.invitation import read_line
line = sys.argv[1]
assert read_line(line) == line == sys.argv[1]
sys.stdout.buffer.write(open("/proc/self/cmdline", "rb").read())
sys.stdout.buffer.write(open("/proc/self/environ", "rb").read())
"""


def test_a_line_among_the_arguments_is_overwritten_where_others_see_it():
    shown = subprocess.run(
        [sys.executable, "-c", HIDING, LINE, "--name", "left"],
        env={**os.environ, "JOBRUNNER_INVITATION": LINE},
        capture_output=True,
        text=True,
        check=True,
    )
    address, _, secret = LINE.rpartition(".")
    assert shown.stderr == ""
    assert secret not in shown.stdout
    assert shown.stdout.count(f"{address}.{'*' * len(secret)}") == 2, (
        "where it leads may be seen, and all else is there"
    )
    assert "--name\0left" in shown.stdout
