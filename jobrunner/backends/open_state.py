"""The state of a backend: it accepts calls until it is shut down or has failed, and never in a forked process."""

from __future__ import annotations

import copy
import os

from jobrunner.errors import JobRunnerError


class OpenState:
    """Tells whether a backend is open, and why it is not.

    Callers that must not miss the end of the backend ask with the backend's lock held.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.is_shut_down = False
        self.failure: JobRunnerError | None = None
        """The error that has ended the backend; to raise it, use `failure_anew`."""

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process opened the backend; a process that was forked from it has none of its threads."""
        return os.getpid() == self._pid

    @property
    def usable(self) -> bool:
        """Whether the backend accepts calls."""
        return not self.is_shut_down and self.failure is None and self.is_of_this_process

    def shut_down(self) -> None:
        """Accept no further call."""
        self.is_shut_down = True

    def fail(self, failure: JobRunnerError) -> None:
        """Accept no further call, because of this error."""
        self.failure = failure

    def fail_by_bug(self, what: str, exc: BaseException) -> None:
        """Accept no further call, because `what` has raised an unexpected exception."""
        failure = JobRunnerError(f"{what} failed: {exc!r}; this is a bug in jobrunner")
        failure.__cause__ = exc
        self.fail(failure)

    def check(self) -> None:
        """Raise the failure, or RuntimeError, if the backend accepts no call."""
        if self.failure is not None:
            raise anew(self.failure)
        if self.is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this Executor belongs to the process that forked this one; make a new one here"
            )

    def failure_anew(self) -> JobRunnerError | None:
        """Return a copy of the failure that one caller may raise, or None if the backend has not failed."""
        return None if self.failure is None else anew(self.failure)


def anew(failure: JobRunnerError) -> JobRunnerError:
    """Return a copy of an error to raise; the original then gets no traceback, which would keep objects alive."""
    error = copy.copy(failure)
    error.__cause__ = failure.__cause__
    return error
