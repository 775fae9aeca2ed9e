"""The command as a whole: help, usage errors, exit codes, what an error looks like, and a fast start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobrunner.cli.app import Settings, exit_code
from jobrunner.errors import ConfigError, CoordinatorLostError, JobRunnerError

COMMANDS = ["demo", "coordinator", "worker", "join", "keys", "status", "workers", "tasks", "task", "cancel"]
COMMANDS += ["submit", "result", "forget", "journal", "version"]
SUBCOMMANDS = [
    *([name] for name in COMMANDS),
    ["coordinator", "start"],
    ["worker", "start"],
    ["worker", "drain"],
    ["journal", "check"],
    *(["keys", name] for name in ("list", "invite", "issue", "revoke", "rotate")),
]


def run_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobrunner", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, **environment},
        check=False,
    )


def test_alone_it_shows_help_with_every_command_in_order(cli: Any) -> None:
    result = cli()
    assert result.code == 0
    listed = [
        line.split()[0] for line in result.out.partition("Commands:")[2].splitlines() if line[:4].strip()
    ]
    assert listed[: len(COMMANDS)] == COMMANDS
    assert "sim" not in listed
    assert "jobrunner worker start" in result.out.partition("Examples:")[2]


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_every_command_has_help(cli: Any, command: list[str]) -> None:
    result = cli(*command, "--help")
    assert result.code == 0
    assert f"Usage: jobrunner {' '.join(command)} " in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        "bogus",
        "status --bogus",
        "tasks --state sleeping",
        "tasks --limit 0",
        "task",
        "cancel",
        "worker drain",
        "status --interval 0",
        "status --watch --quiet",
        "status --json --quiet",
        "status --address http://x",
        "worker start a:b",
        "worker start h:1 --slots 0",
        "worker start h:1 --resources gpu=many",
        "worker start h:1 --log-level loud",
        "coordinator start --port 70000",
        "coordinator start --port -1",
        "coordinator start --drain-timeout never",
        "demo --full --scale 3",
        "demo --workers 0",
    ],
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(cli: Any, arguments: str) -> None:
    result = cli(*arguments.split())
    assert result.code == 2
    assert result.out == ""
    assert result.err
    assert "Traceback" not in result.err


def test_a_bad_environment_or_config_file_is_a_usage_error(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOBRUNNER_SLOTS", "many")
    result = cli("worker", "start")
    assert (result.code, result.out) == (2, "")
    assert result.err == "jobrunner: error: environment variable JOBRUNNER_SLOTS: 'many' is not an integer\n"
    monkeypatch.setenv("JOBRUNNER_CONFIG", str(tmp_path / "missing.toml"))
    assert "does not exist" in cli("status").err


def failing(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (JobRunnerError("no\ntask"), 1, "jobrunner: error: no task\n"),
        (CoordinatorLostError(), 1, "jobrunner: error: CoordinatorLostError\n"),
        (ConfigError("bad"), 2, "jobrunner: error: bad\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert exit_code(failing(error), Settings()) == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_is_called_one_and_shows_its_traceback_only_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = failing(KeyError("x"))
    settings = Settings()
    assert exit_code(bug, settings) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(part in line for part in ("bug in jobrunner", "KeyError: 'x'", "--debug"))
    settings.debug = True
    exit_code(bug, settings)
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("JOBRUNNER_DEBUG", "1")
    exit_code(bug, Settings())
    assert "Traceback" in capsys.readouterr().err


def test_version_names_what_a_bug_report_needs(cli: Any) -> None:
    assert cli("--version").out.startswith("jobrunner 0.")
    lines = dict(line.split(maxsplit=1) for line in cli("version").out.splitlines())
    assert {"jobrunner", "python", "pyzmq", "msgpack", "libzmq"} <= set(lines)
    assert "does not exist; the defaults apply" in lines["config"]
    found = json.loads(cli("version", "--json").out)
    assert found["config_file_exists"] is False


def test_it_runs_as_a_module() -> None:
    result = run_process("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("jobrunner ")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        result = subprocess.run(
            [sys.executable, "-m", "jobrunner", "version"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
        )
    assert result.stderr == ""
    assert result.returncode == 1


def test_completion_knows_the_commands() -> None:
    result = run_process(
        _JOBRUNNER_COMPLETE="complete_bash",
        COMP_WORDS="jobrunner wor",
        COMP_CWORD="1",
        _TYPER_COMPLETE_ARGS="x",
    )
    assert result.stdout.split() == ["worker", "workers"]


def test_the_command_line_loads_neither_zmq_nor_rich_before_it_needs_them() -> None:
    code = (
        "import sys; from jobrunner.cli.app import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('zmq', 'msgpack', 'cloudpickle', 'rich', 'asyncio')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_simulation_runs_from_the_command_line(cli: Any) -> None:
    result = cli("sim", "--seeds", 2, "--first", 5)
    assert result.out.splitlines()[-1].startswith("2 seeds from 5: ")
    assert result.code == (0 if result.out.endswith(": 0 failed\n") else 1)
    assert cli("sim", "--seed", 5).out.splitlines()[-1].startswith("1 seed from 5: ")
