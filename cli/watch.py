"""`status --watch`: repeat the query, and show the last answer while the coordinator is unreachable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from jobrunner.cli.text import duration, one_line
from jobrunner.errors import AuthenticationError, ConfigError, JobRunnerError, ProtocolError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobrunner.cli.output import Output

FINISHED = ("succeeded", "failed", "cancelled")


class Admin(Protocol):
    """The part of `ClusterAdmin` that watching needs."""

    def status(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Snapshot:
    """The result of one query; while the coordinator is unreachable, `status` is the last one received, if any."""

    status: dict[str, Any] | None
    away_for: float | None = None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Return the document for --json: the status or {"unreachable": ...}, but never an old status."""
        if self.away_for is not None:
            return {"unreachable": {"seconds": round(self.away_for, 3), "reason": self.reason}}
        return self.status or {}


@dataclass
class Watcher:
    """Takes snapshots; a failed connection is replaced at the next query."""

    connect: Callable[[], Admin]
    clock: Callable[[], float] = time.monotonic
    _admin: Admin | None = None
    _last: dict[str, Any] | None = None
    _seen_at: float = 0.0
    _away_since: float | None = None
    _reason: str = field(default="", repr=False)

    def look(self) -> Snapshot:
        """Take one snapshot, with "tasks_per_second" since the previous one."""
        started = self.clock()
        try:
            if self._admin is None:
                self._admin = self.connect()
            status = self._admin.status()
        except (ConfigError, ProtocolError, AuthenticationError):
            raise  # waiting would not help
        except JobRunnerError as exc:
            self.close()
            if self._away_since is None:
                self._away_since = started
            return Snapshot(self._last, self.clock() - self._away_since, str(exc))
        now = self.clock()
        status = {**status, "tasks_per_second": rate(self._last, status, now - self._seen_at)}
        self._last, self._seen_at, self._away_since = status, now, None
        return Snapshot(status)

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


def rate(before: dict[str, Any] | None, after: dict[str, Any], seconds: float) -> float | None:
    """Return the tasks finished per second between two queries; None if the coordinator was restarted meanwhile."""
    if before is None or seconds <= 0:
        return None
    if before.get("coordinator", {}).get("id") != after.get("coordinator", {}).get("id"):
        return None
    finished = [
        sum(status.get("tasks", {}).get(state, 0) for state in FINISHED) for status in (before, after)
    ]
    # Finished tasks may be forgotten, and a number that falls says nothing about speed.
    return None if finished[1] < finished[0] else (finished[1] - finished[0]) / seconds


def render(snapshot: Snapshot) -> RenderableType:
    from rich.text import Text

    from jobrunner.cli.views import group, status_table

    if snapshot.away_for is None:
        return status_table(snapshot.status or {})
    line = Text(f"unreachable for {duration(snapshot.away_for)}: {one_line(snapshot.reason)}", style="red")
    if snapshot.status is None:
        return line
    return group(line, Text("Its last answer:", style="dim"), status_table(snapshot.status))


def snapshots(watcher: Watcher, interval: float, pause: Callable[[float], None]) -> Iterator[Snapshot]:
    """Yield snapshots without end, `interval` seconds apart; `pause` waits between them."""
    while True:
        started = watcher.clock()
        yield watcher.look()
        pause(max(interval - (watcher.clock() - started), 0.0))


def watch(
    connect: Callable[[], Admin], output: Output, interval: float, pause: Callable[[float], None] = time.sleep
) -> None:
    """Show snapshots until Ctrl-C, which is the regular end and not an error."""
    watcher = Watcher(connect)
    try:
        _print_all(snapshots(watcher, interval, pause), output)
    except KeyboardInterrupt:
        pass
    finally:
        watcher.close()


def _print_all(found: Iterator[Snapshot], output: Output) -> None:
    from jobrunner.cli.output import console, show_table

    if output.json:
        for snapshot in found:
            output.line(snapshot.document())
        return
    screen = console()
    if not screen.is_terminal:
        for snapshot in found:
            show_table(time.strftime("%H:%M:%S"), render(snapshot), "")
        return
    from rich.live import Live

    # No refresh thread: the picture changes only when a snapshot arrives.
    with Live(console=screen, auto_refresh=False) as live:
        for snapshot in found:
            live.update(render(snapshot), refresh=True)
