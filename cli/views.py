"""The tables of status, workers, tasks and one task; pure functions of the dicts that `ClusterAdmin` returns.

All text from the cluster goes through `plain` into `Text` cells, so it cannot act as markup or as terminal commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobrunner.cli.output import View
from jobrunner.cli.text import count, duration, one_line, plain, resources

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

STYLES = {
    "active": "green",
    "draining": "yellow",
    "silent": "yellow",
    "lost": "red",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
}
TASK_STATES = ("waiting", "queued", "assigned", "running", "cancelling", "succeeded", "failed", "cancelled")

WRAPPED = ("WORKER", "HOST", "NAME", "ERROR", "RESOURCES")
"""The columns that wrap in a narrow terminal, because half a number or half an id would be useless."""

CLIP = 60
"""Maximum number of characters of an error in a list; `jobrunner task` shows it in full."""

NO_WORKERS = "No workers yet. Start one on any host with: jobrunner worker start ADDRESS"


def columns(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> Table:
    """Return a plain table; the columns in `right` hold numbers, and a cell with a known state is coloured."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(headers)
    )
    for header in headers:
        table.add_column(
            header,
            justify="right" if header in right else "left",
            no_wrap=header not in WRAPPED,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(plain(cell), style=STYLES.get(cell, "")) for cell in row))
    return table


def group(*parts: RenderableType) -> Group:
    from rich.console import Group

    return Group(*parts)


def fields(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values, one pair per line; pairs without a value are omitted."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            table.add_row(name, Text(plain(value), style=STYLES.get(value, "")))
    return table


# --- status ------------------------------------------------------------------------------------------


def status_table(status: Mapping[str, Any]) -> RenderableType:
    """Return a summary of the cluster, followed by its workers."""
    from rich.text import Text

    parts: list[RenderableType] = [fields(summary(status))]
    workers = status.get("workers") or []
    if workers:
        parts += [Text(), workers_table(workers)]
    elif status.get("coordinator"):
        parts += [
            Text(),
            Text(NO_WORKERS.replace("ADDRESS", plain(status["coordinator"].get("address", "ADDRESS")))),
        ]
    return group(*parts)


def summary(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    coordinator = status.get("coordinator") or {}
    clients = status.get("clients") or []
    unfinished = sum(client.get("unfinished", 0) for client in clients)
    tasks = status.get("tasks") or {}
    known = [f"{tasks[state]:,} {state}" for state in TASK_STATES if tasks.get(state)]
    rate = status.get("tasks_per_second")
    return [
        ("coordinator", coordinator_line(coordinator)),
        ("slots", f"{status.get('busy', 0):,} busy of {status.get('slots', 0):,}"),
        ("tasks", ", ".join(known) or "none so far"),
        ("rate", "" if rate is None else f"{rate:,.1f} tasks/s"),
        ("clients", f"{len(clients)} ({count(unfinished, 'unfinished task')})" if clients else "none"),
    ]


def coordinator_line(coordinator: Mapping[str, Any]) -> str:
    if not coordinator:
        return ""
    facts = [f"pid {coordinator['pid']} on {coordinator['host']}"] if coordinator.get("host") else []
    if coordinator.get("uptime") is not None:
        facts.append(f"up {duration(coordinator['uptime'])}")
    if coordinator.get("version"):
        facts.append(f"version {coordinator['version']}")
    if coordinator.get("draining"):
        facts.append("draining")
    return (
        f"{coordinator.get('address', '')} ({', '.join(facts)})"
        if facts
        else str(coordinator.get("address", ""))
    )


# --- workers ------------------------------------------------------------------------------------------


def workers_table(workers: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not workers:
        return NO_WORKERS
    headers = ["WORKER", "STATE", "HOST", "PID", "BUSY", "WAITING", "DONE", "SEEN", "RESOURCES"]
    if not any(worker.get("resources") for worker in workers):
        headers.pop()
    rows = [worker_row(worker)[: len(headers)] for worker in workers]
    return columns(headers, rows, right=("PID", "BUSY", "WAITING", "DONE", "SEEN"))


def worker_row(worker: Mapping[str, Any]) -> list[str]:
    busy = worker.get("busy", 0)
    waiting = max(worker.get("assigned", busy) - busy, 0)
    return [
        str(worker.get("name", "")),
        str(worker.get("state", "")),
        str(worker.get("host", "")),
        str(worker.get("pid", "")),
        f"{busy:,}/{worker.get('slots', 0):,}",
        f"{waiting:,}",
        f"{worker.get('completed', 0):,}",
        f"{duration(worker.get('last_seen', 0))} ago",
        resources(worker.get("resources") or {}),
    ]


# --- tasks ------------------------------------------------------------------------------------------


def tasks_table(tasks: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not tasks:
        return "No tasks."
    headers = ["TASK", "STATE", "NAME", "WORKER", "TRY", "AGE", "RUNNING", "TOOK", "ERROR"]
    if not any(task.get("error") for task in tasks):
        headers.pop()
    rows = [task_row(task)[: len(headers)] for task in tasks]
    return columns(headers, rows, right=("TRY", "AGE", "RUNNING", "TOOK"))


def task_row(task: Mapping[str, Any]) -> list[str]:
    return [
        str(task.get("id", "")),
        str(task.get("state", "")),
        str(task.get("name", "")),
        str(task.get("worker", "")),
        str(task.get("attempt", "")),
        duration(task.get("age")),
        duration(task.get("running_for")),
        duration(task.get("duration")),
        clipped(one_line(task.get("error", ""))),
    ]


def clipped(text: str) -> str:
    """Return the start of a text that `jobrunner task` shows in full."""
    return text if len(text) <= CLIP else f"{text[: CLIP - 3]}..."


def task_table(task: Mapping[str, Any]) -> RenderableType:
    """Return everything that is known about one task, and its history."""
    from rich.text import Text

    pairs = [
        ("task", str(task.get("id", ""))),
        ("state", str(task.get("state", ""))),
        ("why", one_line(task.get("why", ""))),
        ("name", str(task.get("name", ""))),
        ("calls", str(task["elements"]) if task.get("elements", 1) != 1 else ""),
        ("client", str(task.get("client", ""))),
        ("worker", str(task.get("worker", ""))),
        ("attempt", str(task.get("attempt", ""))),
        ("retries", str(task.get("retries", ""))),
        ("priority", str(task.get("priority", ""))),
        ("age", duration(task.get("age"))),
        ("running for", duration(task.get("running_for"))),
        ("took", duration(task.get("duration"))),
        ("error", one_line(task.get("error", ""))),
    ]
    parts: list[RenderableType] = [fields(pairs)]
    history = task.get("history") or []
    if history:
        parts += [Text(), Text("history", style="bold"), *(Text(f"  {one_line(line)}") for line in history)]
    return group(*parts)


def cancels_table(answers: Sequence[Mapping[str, Any]]) -> RenderableType:
    return columns(["", ""], ([str(answer["id"]), cancel_words(answer)] for answer in answers))


def cancel_words(answer: Mapping[str, Any]) -> str:
    if answer.get("error"):
        return one_line(answer["error"])
    if answer["cancelled"]:
        return "cancelled"
    if answer["state"] == "cancelling":
        return "is being stopped"
    return f"not cancelled: {answer['state']}"


STATUS = View(status_table, lambda status: [worker["name"] for worker in status.get("workers") or []])
WORKERS = View(workers_table, lambda workers: [worker["name"] for worker in workers])
TASKS = View(tasks_table, lambda tasks: [task["id"] for task in tasks])
TASK = View(task_table, lambda task: [task["state"]])
CANCELS = View(cancels_table, lambda answers: [answer["id"] for answer in answers if answer["cancelled"]])
DRAIN = View(
    lambda answer: (
        f"Worker {plain(answer['name'])} finishes its running tasks, takes no new ones, and then leaves."
    ),
    lambda answer: [answer["name"]],
)


# --- keys --------------------------------------------------------------------------------------------


def keys_table(data: Mapping[str, Any]) -> RenderableType:
    """Return the table of `keys list`; `data` has the entries "keys" and "invitations"."""
    listed = columns(
        ("NAME", "ROLE", "KEY", "AGE"),
        [(key["name"], key["role"], key["key"][:12], duration(key["age"])) for key in data["keys"]],
        right=("AGE",),
    )
    texts = [
        f"{i['uses']} can join as {', '.join(i['roles'])} within {duration(i['seconds'])}"
        for i in data["invitations"]
    ]
    return group(listed, fields([("invitation", text) for text in texts]))


KEYS = View(keys_table, lambda data: [key["name"] for key in data["keys"]])
