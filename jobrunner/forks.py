"""Starting processes in one thread while others may fork.

A process that is forked at such a moment keeps what was meant for the one that starts: the pipe by which `subprocess`
learns that it has begun, which then never ends, and the other end of its sockets. So nobody forks meanwhile.
"""

from __future__ import annotations

import os
import threading

no_forks = threading.RLock()
"""`os.fork`, which multiprocessing uses too, waits for whoever holds it. `subprocess` does not."""

os.register_at_fork(
    before=no_forks.acquire, after_in_parent=no_forks.release, after_in_child=no_forks.release
)
