"""A thread that a backend cannot do without, and that therefore reaches the backend's end wherever it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jobrunner.system.atexit_hooks import do_all


class BackendThread:
    """The thread through which all outcomes of a backend arrive.

    It calls `work`, then `failed` with whatever that raised, and at last every step of the end: no Future may stay
    pending, nothing that was started may stay behind, and nobody may go on waiting. Any step may raise, or be repeated.
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
        """Whatever is raised, and wherever: the thread gets to `_end`, and if need be once more."""
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
        """Raise what the first of these steps raised that could not be done, after the others."""
        do_all(*self._steps(), self._has_ended)

    def _has_ended(self) -> None:
        self._ended = True
