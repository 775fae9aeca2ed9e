"""Answers as tables, JSON and names, from dictionaries as a cluster gives them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from jobrunner.cli import views
from jobrunner.cli.output import Output, View
from jobrunner.cli.tasks import StateOption
from jobrunner.errors import ConfigError
from jobrunner.protocol.coordinator.task import STATE_NAMES

WORKER = {
    "id": "a1",
    "name": "left",
    "host": "node1",
    "pid": 12,
    "slots": 4,
    "busy": 3,
    "assigned": 5,
    "resources": {"gpu": 2.0},
    "state": "active",
    "last_seen": 0.25,
    "completed": 12345,
    "version": "0.1.0",
    "python": "3.11",
}
STATUS = {
    "coordinator": {
        "id": "c0",
        "version": "0.1.0",
        "address": "tcp://node0:7077",
        "host": "node0",
        "pid": 7,
        "uptime": 125.0,
        "draining": False,
    },
    "workers": [WORKER],
    "clients": [{"id": "c", "host": "h", "pid": 1, "unfinished": 15, "state": "active"}],
    "tasks": {
        "queued": 12,
        "assigned": 0,
        "running": 3,
        "cancelling": 0,
        "succeeded": 12345,
        "failed": 1,
        "cancelled": 0,
    },
    "slots": 4,
    "busy": 3,
}
TASK = {
    "id": "9f-42",
    "name": "pi",
    "state": "failed",
    "client": "9f",
    "worker": "left",
    "attempt": 2,
    "priority": 0,
    "retries": 1,
    "age": 12.0,
    "running_for": None,
    "duration": 0.5,
    "error": "ValueError: no\nsuch [thing]",
    "history": ["attempt 1: left died", "attempt 2: ValueError"],
}


def shown(capsys: pytest.CaptureFixture[str], data: Any, view: View, **form: bool) -> list[str]:
    Output(**form).show(data, view)
    return capsys.readouterr().out.splitlines()


def test_status_is_a_summary_and_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, STATUS, views.STATUS)
    assert lines[:5] == [
        "coordinator  tcp://node0:7077 (pid 7 on node0, up 2 min 5 s, version 0.1.0)",
        "slots        3 busy of 4",
        "tasks        12 queued, 3 running, 12,345 succeeded, 1 failed",
        "clients      1 (15 unfinished tasks)",
        "",
    ]
    assert " ".join(lines[5].split()) == "WORKER STATE HOST PID BUSY WAITING DONE SEEN RESOURCES"
    assert " ".join(lines[6].split()) == "left active node1 12 3/4 2 12,345 250 ms ago gpu=2"
    assert len(lines) == 7


def test_status_says_what_to_do_when_there_are_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, {**STATUS, "workers": [], "clients": [], "tasks": {}}, views.STATUS)
    assert lines[-1].endswith("jobrunner worker start tcp://node0:7077")
    assert "tasks        none so far" in lines
    assert "clients      none" in lines


def test_status_of_a_local_backend_needs_no_coordinator(capsys: pytest.CaptureFixture[str]) -> None:
    local = {"coordinator": {}, "workers": [], "clients": [], "tasks": {"running": 1}, "slots": 2, "busy": 1}
    assert shown(capsys, local, views.STATUS) == [
        "slots    1 busy of 2",
        "tasks    1 running",
        "clients  none",
    ]


def test_a_draining_coordinator_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    draining = {**STATUS, "coordinator": {**STATUS["coordinator"], "draining": True}}  # type: ignore[dict-item]
    assert "draining" in shown(capsys, draining, views.STATUS)[0]


def test_the_same_answer_as_json_and_as_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads("\n".join(shown(capsys, STATUS, views.STATUS, json=True))) == STATUS
    assert shown(capsys, [WORKER], views.WORKERS, quiet=True) == ["left"]
    assert shown(capsys, [TASK], views.TASKS, quiet=True) == ["9f-42"]
    assert shown(capsys, TASK, views.TASK, quiet=True) == ["failed"]
    with pytest.raises(ConfigError, match="exclude each other"):
        Output(json=True, quiet=True)


def test_tables_leave_out_columns_that_nobody_fills(capsys: pytest.CaptureFixture[str]) -> None:
    assert "RESOURCES" not in shown(capsys, [{**WORKER, "resources": {}}], views.WORKERS)[0]
    assert "ERROR" not in shown(capsys, [{**TASK, "error": ""}], views.TASKS)[0]
    assert "ERROR" in shown(capsys, [TASK], views.TASKS)[0]


def test_empty_lists_say_so_and_stay_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, [], views.TASKS) == ["No tasks."]
    assert shown(capsys, [], views.TASKS, json=True) == ["[]"]
    assert "worker start" in shown(capsys, [], views.WORKERS)[0]


def test_a_task_is_shown_with_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, TASK, views.TASK)
    assert "error     ValueError: no such [thing]" in lines
    assert "took      500 ms" in lines
    assert not any(line.startswith("running for") for line in lines)
    assert lines[-3:] == ["history", "  attempt 1: left died", "  attempt 2: ValueError"]


def test_a_name_is_neither_markup_nor_an_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, [{**TASK, "name": "[red]x[/red]\x1b[2J:smile:"}], views.TASKS)
    assert "[red]x[/red]\\x1b[2J:smile:" in lines[1]


def test_a_pipe_gets_whole_lines_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert "n" * 500 in shown(capsys, [{**TASK, "name": "n" * 500}], views.TASKS)[1]


def test_cancelling_says_what_became_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        {"id": "a", "cancelled": True, "state": "cancelled"},
        {"id": "b", "cancelled": False, "state": "cancelling"},
        {"id": "c", "cancelled": False, "state": "succeeded"},
        {"id": "d", "cancelled": False, "state": "unknown", "error": "no task d"},
    ]
    assert [line.split(maxsplit=1)[1] for line in shown(capsys, answers, views.CANCELS)] == [
        "cancelled",
        "is being stopped",
        "not cancelled: succeeded",
        "no task d",
    ]
    assert shown(capsys, answers, views.CANCELS, quiet=True) == ["a"]


def test_every_state_of_a_task_can_be_asked_for_and_is_summed_up() -> None:
    assert tuple(StateOption) == STATE_NAMES
    assert views.TASK_STATES == STATE_NAMES


def test_a_task_that_is_not_running_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    queued = {**TASK, "state": "queued", "why": "no worker provides gpu=9", "elements": 20}
    lines = shown(capsys, queued, views.TASK)
    assert "why       no worker provides gpu=9" in lines
    assert "calls     20" in lines


def test_a_narrow_terminal_wraps_names_and_keeps_numbers_and_ids() -> None:
    narrow = Console(width=80, file=io.StringIO())
    worker = {
        **WORKER,
        "name": "a-very-long-name-of-a-worker",
        "host": "a-host-with-a-very-long-name.example",
    }
    for table, kept in (
        (views.workers_table([worker]), ["3/4", "12,345", "250 ms ago"]),
        (views.tasks_table([{**TASK, "id": "9f3ac2e1b7d0-4242"}]), ["9f3ac2e1b7d0-4242", "12.0 s", "500 ms"]),
    ):
        with narrow.capture() as captured:
            narrow.print(table)
        assert all(text in captured.get() for text in kept), captured.get()
