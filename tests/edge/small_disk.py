"""Runs a program whose folder for temporary files, and /dev/shm, are small disks of its own, which nobody else sees.

    unshare --mount --propagation private python tests/edge/small_disk.py SIZE COMMAND ...

What it leaves on them is looked at here, since they are gone with this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from edge.processes import marked

LEAVE_SECONDS = 10.0


def main(size: str, command: list[str]) -> int:
    folder = os.environ["TMPDIR"]
    for place in (folder, "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "edge", place], check=True)
    code = subprocess.Popen(command, start_new_session=True, close_fds=False).wait()
    deadline = time.monotonic() + LEAVE_SECONDS
    while set(marked(f"EDGE_RUN={folder}")) - {os.getpid()} and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [path.name for path in Path(folder).rglob("*") if "jobrunner" in path.name]
    if left:
        print(f"wrong: left on the small disk: {left}", flush=True)
    if code < 0:  # end as it did
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
