"""A coordinator and a worker on this host, for one executor: started and stopped with it.

They talk through a Unix socket in a folder that only this user may enter, so nobody else on the machine can reach
them. Both hold the end of a pipe whose other end is here: however this process dies, they notice and leave.
A worker or coordinator that dies is started again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from jobrunner.config import ClientConfig, load
from jobrunner.host import module_path, usable_cpus

BOOT = """
import sys
module, argument, sys.path[:] = sys.argv[1], sys.argv[2], sys.argv[3:]
from importlib import import_module
sys.exit(import_module(module).main([argument]))
"""
"""What a daemon's interpreter starts with: what this program can import, its tasks can too."""

STOP_WAIT = 5.0
"""Seconds that the daemons have to leave before they are killed."""

RESTART_PAUSE = 1.0
"""Seconds before a daemon that died is started again, so that a broken one does not spin."""


class LocalCluster:
    """`slots` defaults to the configured `max_workers`, else to the CPUs that this process may use."""

    def __init__(self, slots: int | None = None, *, crash_limit: int = 3) -> None:
        self.slots = slots or load(ClientConfig).max_workers or usable_cpus()
        self._folder = tempfile.mkdtemp(prefix="jobrunner-")
        self.address = f"ipc://{self._folder}/coordinator"
        self._lifeline, self._hold = os.pipe()
        self._stopping = threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._watchers = [
            self._watch("jobrunner.coordinator", {"crash_limit": crash_limit, "folder": self._folder}),
            self._watch("jobrunner.workers.daemon", {"slots": self.slots}),
        ]

    def stop(self) -> None:
        """End both daemons, within a bound; may be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.close(self._hold)
        deadline = time.monotonic() + STOP_WAIT
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for watcher in self._watchers:
            watcher.join()
        os.close(self._lifeline)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self, module: str, extra: dict[str, Any]) -> threading.Thread:
        """Start a daemon, and a thread that starts it again whenever it ends."""
        first = self._start(module, extra)
        watcher = threading.Thread(
            target=self._keep_alive, args=(first, module, extra), name=f"watch-{module}", daemon=True
        )
        watcher.start()
        return watcher

    def _keep_alive(self, process: subprocess.Popen[bytes], module: str, extra: dict[str, Any]) -> None:
        while True:
            process.wait()
            if self._stopping.wait(RESTART_PAUSE):
                return
            with self._lock:
                if self._stopping.is_set():
                    return
                self._processes.remove(process)
                process = self._start(module, extra)

    def _start(self, module: str, extra: dict[str, Any]) -> subprocess.Popen[bytes]:
        argument = json.dumps({"address": self.address, "lifeline": self._lifeline, **extra})
        process = subprocess.Popen(
            [sys.executable, "-c", BOOT, module, argument, *module_path()],
            stdin=subprocess.DEVNULL,
            pass_fds=[self._lifeline],
            start_new_session=True,  # Ctrl-C at the terminal is for the program, which then stops these
        )
        self._processes.append(process)
        return process
