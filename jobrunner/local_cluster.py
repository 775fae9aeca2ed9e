"""A cluster on this host, for one executor: the process of `embedded`, started and stopped with it.

It listens at a Unix socket in a folder that only this user may enter, so nobody else on the machine can reach it. It
holds the end of a pipe whose other end is here: however this process dies, it notices and leaves. Should it die, it is
started again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

from jobrunner.config import ClientConfig, load
from jobrunner.host import module_path, usable_cpus

BOOT = """
import sys
argument, sys.path[:] = sys.argv[1], sys.argv[2:]
from jobrunner.embedded import main
sys.exit(main([argument]))
"""
"""What its interpreter starts with: what this program can import, its tasks can too."""

STOP_WAIT = 5.0
"""Seconds that it has to leave before it is killed."""

RESTART_PAUSE = 1.0
"""Seconds before it is started again, so that a broken one does not spin."""


class LocalCluster:
    """`slots` defaults to the configured `max_workers`, else to the CPUs that this process may use."""

    def __init__(
        self, slots: int | None = None, *, crash_limit: int = 3, max_tasks_per_slot: int | None = None
    ) -> None:
        self.slots = slots or load(ClientConfig).max_workers or usable_cpus()
        self._folder = tempfile.mkdtemp(prefix="jobrunner-")
        self.address = f"ipc://{self._folder}/coordinator"
        self._lifeline, self._hold = os.pipe()
        self._stopping = threading.Event()
        self._argument = json.dumps(
            {
                "address": self.address,
                "slots": self.slots,
                "crash_limit": crash_limit,
                "max_tasks_per_slot": max_tasks_per_slot,
                "lifeline": self._lifeline,
                "folder": self._folder,
            }
        )
        self._lock = threading.Lock()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._keep_alive, name="jobrunner-watch", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End it, within a bound; may be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.close(self._hold)
        with self._lock:
            process = self._process
        try:
            process.wait(STOP_WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._watcher.join()
        os.close(self._lifeline)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_alive(self) -> None:
        """Start it again whenever it ends."""
        while True:
            self._process.wait()
            if self._stopping.wait(RESTART_PAUSE):
                return
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", BOOT, self._argument, *module_path()],
            stdin=subprocess.DEVNULL,
            pass_fds=[self._lifeline],
            start_new_session=True,  # Ctrl-C at the terminal is for the program, which then stops it
        )
