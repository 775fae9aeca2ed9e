"""A thread that is essential to a backend, and that therefore performs the backend's end wherever it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jobrunner.system.atexit_hooks import do_all


class BackendThread:
    """The thread through which all outcomes of a backend arrive.

    The thread calls `work`, then `failed` with the exception of `work`, if any, and at last every step of the end, so
    that all Futures are resolved, everything that was started is stopped, and all waits end. Any step may raise, or be
    repeated.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        failed: Callable[[BaseException], None],
        end: Callable[[], Sequence[Callable[[], object]]],
    ) -> None:
        self._work = work
        self._failed = failed
        self._steps = end
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"jobrunner-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this is the calling thread, which then cannot wait for anything that this thread brings."""
        return threading.current_thread() is self._thread

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the thread for at most `timeout` seconds; return whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Run the thread, which reaches `_end` wherever an exception is raised, and again if that was interrupted."""
        try:
            try:
                self._work()
            except BaseException as exc:
                self._failed(exc)
            finally:
                self._end()
        finally:
            if not self._ended:
                self._end()

    def _end(self) -> None:
        """Perform all steps of the end, and then raise the exception of the first step that failed."""
        do_all(*self._steps(), self._has_ended)

    def _has_ended(self) -> None:
        self._ended = True
