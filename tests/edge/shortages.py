"""Too little memory, or too little room for files: in this process, and in others that belong to the same run."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from edge.calls import MAX_PIECES, PIECE
from edge.plan import CALLS, CLUSTER, PROGRAM, Plan, Shortage
from edge.processes import marked, of_kind

MEBIBYTE = 1024 * 1024
FILLER = "filler"


class Limits:
    """Lowers a limit of processes while a shortage lasts."""

    def __init__(self, shortage: Shortage, limit: int) -> None:
        self._shortage = shortage
        self._limit = limit
        self._hard = resource.getrlimit(limit)[1]

    def start(self) -> None:
        """Those that are started later have the limit of the one that starts them."""
        for pid in self._processes():
            self._set(pid, self._lowered(pid))

    def stop(self) -> None:
        """Also where a process has it of one that had it."""
        for kind in (PROGRAM, CLUSTER, CALLS):
            for pid in self._of_kind(kind):
                self._set(pid, self._hard)

    def _processes(self) -> Iterator[int]:
        for kind in self._shortage.processes:
            yield from self._of_kind(kind)

    def _of_kind(self, kind: str) -> list[int]:
        if kind == PROGRAM:
            return [os.getpid()]
        return [pid for pid in marked(f"EDGE_RUN={os.environ['EDGE_RUN']}") if of_kind(pid, kind)]

    def _lowered(self, pid: int) -> int:
        if self._limit == resource.RLIMIT_FSIZE:
            return self._shortage.amount
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        except (OSError, IndexError):  # it has just ended
            return self._hard
        return pages * resource.getpagesize() + self._shortage.amount * MEBIBYTE

    def _set(self, pid: int, soft: int) -> None:
        try:
            resource.prlimit(pid, self._limit, (soft, self._hard))
        except ProcessLookupError:
            pass


class FullDisk:
    """Fills the disk that the folder for temporary files is on."""

    def __init__(self) -> None:
        self._file = Path(os.environ["TMPDIR"], FILLER)

    def start(self) -> None:
        with open(self._file, "wb", buffering=0) as file:
            for piece in (bytes(4096), b"\0"):
                try:
                    while file.write(piece) == len(piece):
                        pass
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise

    def stop(self) -> None:
        self._file.unlink(missing_ok=True)


class Hoard:
    """Memory that the program keeps from everybody else in its process; at most as much as `exhaust` takes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def take(self) -> None:
        size = PIECE
        try:
            while len(self._pieces) < MAX_PIECES:
                try:
                    self._pieces.append(bytes(size))
                except MemoryError:
                    size //= 8
                    if size < 512:  # smaller ones come from what the interpreter has put aside
                        return
        except MemoryError:
            pass

    def release(self) -> None:
        self._pieces = []


def shortages_of(plan: Plan) -> list[tuple[Shortage, Limits | FullDisk]]:
    found: list[tuple[Shortage, Limits | FullDisk]] = []
    if plan.memory is not None:
        found.append((plan.memory, Limits(plan.memory, resource.RLIMIT_AS)))
    if plan.disk is not None:
        full = plan.disk_size is not None and "EDGE_DISK" in os.environ
        limits = Limits(plan.disk, resource.RLIMIT_FSIZE)
        found.append((plan.disk, FullDisk() if full else limits))
    return found
