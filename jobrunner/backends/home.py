"""The part of a backend's interface that its Futures use."""

from __future__ import annotations

from typing import Any, Protocol

from jobrunner.futures import Future


class Home(Protocol):
    """The backend that has created a Future, as far as the Future uses it."""

    @property
    def cluster(self) -> str | None:
        """A string that identifies the cluster if other processes can join it, or None."""

    def cancel(self, future: Future[Any], running: bool) -> bool:
        """Cancel the call, even if it runs with `running`, and return whether it is cancelled."""

    def future_there(self, future: Future[Any]) -> tuple[Any, ...] | None:
        """Return a function and its arguments that create a Future for the same call in another process.

        Return None if other processes cannot have such a Future.
        """
