"""What the Futures of calls ask of the backend that has made them."""

from __future__ import annotations

from typing import Any, Protocol

from jobrunner.futures import Future


class Home(Protocol):
    """The backend that a Future came from, as far as the Future needs it."""

    @property
    def cluster(self) -> str | None:
        """What tells a cluster that others can join from others; None where nobody can join."""

    def cancel(self, future: Future[Any], running: bool) -> bool:
        """Cancel the call (also one that runs, if `running`), and return whether it is cancelled."""

    def future_there(self, future: Future[Any]) -> tuple[Any, ...] | None:
        """Return what makes a Future for the same call in another process; None where nothing can."""
