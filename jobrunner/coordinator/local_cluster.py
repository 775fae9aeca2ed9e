"""A cluster on this host for one executor: the process of `embedded`, which starts and stops with the executor.

It listens at a Unix socket in a folder that only this user may enter, so nobody else on the machine can reach it. It
holds the end of a pipe whose other end is here, so that it notices the death of this process and leaves. If it dies, it
is started again.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from jobrunner.config import EXIT_WAIT, ClientConfig, load
from jobrunner.program.flags import (
    BOARD_BYTES,
    FAILED,
    GAVE_UP,
    LISTENS,
    ORDERLY,
    Told,
    Whiteboard,
    hash_seed,
    interpreter_options,
    this_program,
)
from jobrunner.program.takeover import as_started
from jobrunner.system import conditions
from jobrunner.system.atexit_hooks import do_all
from jobrunner.system.descriptors import beyond_streams, unnamed_file
from jobrunner.system.folders import SOCKET, hold_folder, leave_folder, make_folder, socket_folder
from jobrunner.system.forks import no_forks
from jobrunner.system.host import current_environment, usable_cpus

MAX_STARTS = 4
"""Maximum number of starts in a row that end before the cluster can be reached; after that it is given up."""

BOOT = """
import sys
end = 3 + int(sys.argv[2])
argument, sys.path[:], sys.argv = sys.argv[1], sys.argv[end:], sys.argv[3:end]
from jobrunner.coordinator.embedded import main
sys.exit(main(argument, sys.argv))
"""
"""The code with which its interpreter starts, so that its tasks can import whatever this program can."""

STOP_WAIT = 5.0
"""Maximum time in seconds for the process to leave before it is killed."""

RESTART_PAUSE = 1.0
"""Pause in seconds before it is started again, so that a broken one does not use up a processor."""

LOGGER = logging.getLogger("jobrunner.cluster")


def failure_in(words: list[list[Any]], code: int, in_vain: int) -> tuple[str, str] | None:
    """Return the class and text of the error for which it is not started again, or None.

    `code` is its exit code, and `in_vain` the number of starts in a row in which it could not be reached.
    """
    if code == GAVE_UP:
        for word, *failure in words:
            if word == FAILED:
                return failure[0], failure[1]
    if in_vain < MAX_STARTS:
        return None
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return "JobRunnerError", (
        f"the process of the embedded cluster ended {in_vain} times in a row before it could be reached ({how}); what"
        " it wrote to stderr says why"
    )


_open: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _after_fork() -> None:
    for cluster in _open:
        cluster._let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class LocalCluster:
    """An embedded cluster.

    `slots` defaults to the configured `max_workers`, else to the CPUs that this process may use.
    """

    def __init__(
        self,
        slots: int | None = None,
        *,
        crash_limit: int = 3,
        exit_wait: float = EXIT_WAIT,
        max_tasks_per_slot: int | None = None,
        start_method: str | None = None,
        interpreter: str | None = None,
    ) -> None:
        self._program = this_program(start_method, interpreter)
        self.slots = slots or load(ClientConfig).max_workers or usable_cpus()
        self._folder = socket_folder()
        make_folder(self._folder)
        self.address = f"ipc://{self._folder}/{SOCKET}"
        self.exit_wait = exit_wait
        """Time in seconds for the end of its slots' processes; any thread may set it to 0, which skips that end."""
        self._pid = os.getpid()
        self._ends: dict[int, int] = {}
        """The open descriptors: those of the pipes, the one that holds the folder, and the whiteboard's.

        They are in a dict, so that one expression takes a descriptor out and closes it, and Ctrl-C cannot come in
        between.
        """
        self._stopping = conditions.Event()
        self._stopped = False
        self._told: Told | None = None
        try:
            with no_forks:
                _open.add(self)
                self._lifeline, self._hold = self._opened(*os.pipe())
                self._last_words, self._words_in = self._opened(*os.pipe())
                self._opened(hold_folder(self._folder))
                (self._board,) = self._opened(unnamed_file("jobrunner-path", BOARD_BYTES))
            self._whiteboard = Whiteboard(self._board)
            self.tell()
        except BaseException:
            self._remove()
            raise
        self._argument: dict[str, Any] = {
            "address": self.address,
            "slots": self.slots,
            "crash_limit": crash_limit,
            "max_tasks_per_slot": max_tasks_per_slot,
            "folder": self._folder,
            "program_folder": self._program.folder,
            "start_method": self._program.start_method,
            "hash_seed": hash_seed(),
            "exit_wait": exit_wait,
        }
        self._lock = threading.Lock()
        self._failure: tuple[str, str] | None = None
        self._on_failure: Callable[[str, str], None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher = threading.Thread(target=self._keep_alive, name="jobrunner-watch", daemon=True)
        try:
            self._process = self._start()
            self._watcher.start()
        except BaseException:
            self.exit_wait = 0.0
            self.stop()
            raise

    def begin(self) -> None:
        """Note that a call begins while there are no others."""
        self._program.begin()

    def _opened(self, *ends: int) -> tuple[int, ...]:
        self._ends.update(zip(ends, ends, strict=True))
        return ends

    def _remove(self) -> None:
        """Remove the folder, and close all open descriptors."""
        leave_folder(self._folder)
        for end in list(self._ends):
            self._close(end)

    def tell(self) -> None:
        """Tell the slots, for calls that are sent from now on, the present facts about the program."""
        told = self._program.told()
        if told is not self._told:
            text = json.dumps([told.path, told.authkey.hex(), told.configuration])
            if self._whiteboard.write(text):
                self._told = told

    def stop(self, show: Callable[[list[tuple[int, str]]], None] = lambda texts: None) -> None:
        """End the process within a limited time; further calls have no effect. `show` gets the slots' last output."""
        if self._stopped or os.getpid() != self._pid:
            return
        until = time.monotonic() + self.exit_wait + STOP_WAIT
        do_all(
            self._stopping.set,
            self._cut_lifeline,
            lambda: self._relay(show, until),
            lambda: self._await_end(until),
            self._await_watcher,
            self._whiteboard.close,
            self._remove,
        )
        self._stopped = True

    # The steps of `stop`; each of them may be repeated.

    def _cut_lifeline(self) -> None:
        if self.exit_wait and self._hold in self._ends:
            os.write(self._hold, ORDERLY)
        self._close(self._hold)
        self._close(self._words_in)

    def _await_end(self, until: float) -> None:
        with self._lock:
            process = self._process
        if process is not None:  # otherwise it could not be started
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await_watcher(self) -> None:
        if self._watcher.ident is not None:
            self._watcher.join()

    def _relay(self, show: Callable[[list[tuple[int, str]]], None], until: float) -> None:
        """Pass on the last output, until the process is gone or its time is up."""
        if self._last_words not in self._ends:
            return
        waiting = select.poll()
        waiting.register(self._last_words, select.POLLIN)
        text = b""
        while waiting.poll(max(0.0, until - time.monotonic()) * 1000):
            piece = os.read(self._last_words, 65536)
            if not piece:
                break
            *lines, text = (text + piece).split(b"\n")
            show([(words[0], words[1]) for words in map(json.loads, lines) if isinstance(words[0], int)])
        self._close(self._last_words)

    def _close(self, end: int) -> None:
        with no_forks:
            if end in self._ends:
                os.close(self._ends.pop(end))

    def _let_go(self) -> None:
        """Close the descriptors in a forked process, which would otherwise keep the cluster and its pipe alive."""
        for end in self._ends:
            os.close(end)
        self._ends = {}

    def when_failed(self, tell: Callable[[str, str], None]) -> None:
        """Call `tell`, in any thread, with an error's class and text, once the process cannot be kept alive."""
        with self._lock:
            self._on_failure, failure = tell, self._failure
        if failure is not None:
            tell(*failure)

    def _keep_alive(self) -> None:
        """Start the process again whenever it ends, until it says that this is useless, or ends at once each time."""
        process, in_vain = self._process, 0
        while process is not None:
            code = process.wait()
            with self._lock:
                if self._stopping.is_set():
                    return
                words = self._words()
                in_vain = 1 if [LISTENS] in words else in_vain + 1
                failure = failure_in(words, code, in_vain)
                if failure is not None:
                    self._failure, tell = failure, self._on_failure
                    break
            process = self._start_again()
        else:
            return
        if tell is not None:
            tell(*failure)

    def _start_again(self) -> subprocess.Popen[bytes] | None:
        """Start the process again, and retry, because the cause of its death (such as a lack of memory) may last.

        Returns None if the cluster is being stopped.
        """
        tries = 0
        while not self._stopping.wait(RESTART_PAUSE):
            with self._lock:
                if self._stopping.is_set():
                    break
                try:
                    self._process = self._start()
                except Exception as exc:
                    tries += 1
                    error = exc
                else:
                    return self._process
            if tries == 1:
                LOGGER.warning(
                    "the embedded cluster could not be restarted: %r; it will be tried again", error
                )
        return None

    def _words(self) -> list[list[Any]]:
        """Return the lines that the process has written, after its end."""
        waiting = select.poll()
        waiting.register(self._last_words, select.POLLIN)
        text = b""
        while waiting.poll(0):
            text += os.read(self._last_words, 65536)
        return [json.loads(line) for line in text.split(b"\n") if line]

    def _start(self) -> subprocess.Popen[bytes]:
        tracker = self._program.tracker()
        own = {"lifeline": self._lifeline, "board": self._board, "last_words": self._words_in}
        if tracker is not None:
            own["tracker"] = tracker
        with no_forks, beyond_streams(list(own.values())) as inherited:
            argument = {"tracker": None, **self._argument, **dict(zip(own, inherited, strict=True))}
            return subprocess.Popen(
                [
                    self._program.interpreter,
                    *interpreter_options(),
                    "-c",
                    BOOT,
                    json.dumps(argument),
                    str(len(self._program.arguments)),
                    *self._program.arguments,
                    *self._program.told().path,
                ],
                stdin=subprocess.DEVNULL,
                env=as_started(current_environment()),
                pass_fds=inherited,
                # Ctrl-C at the terminal is meant for the program, which then stops the cluster
                start_new_session=True,
            )
