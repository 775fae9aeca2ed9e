"""Large numpy arrays among the arguments of calls, which on one host are sent as files that the slots map into memory.

An array is written once, however many calls have it among their arguments; its file is removed together with the array
or the ArrayFiles. An array that is a file already (`numpy.memmap`, or a view of one) is sent by the file's name, so
that changes by a call reach the file. Arrays are found in lists, tuples and dicts, at any depth; anywhere else an array
is copied, like all other objects.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from jobrunner.backends.futures_in_arguments import may_hold_futures, replace_futures
from jobrunner.protocol.wire.ids import random_token

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SHARED_MEMORY = "/dev/shm"
"""A folder in memory, on Linux."""

SHARE_OF_MEMORY = 4
"""Minimum number of arrays of the same size that must fit into this folder for an array to go there."""


class MappedArray(NamedTuple):
    """The place of an array in a file; unpickling returns the array itself, mapped into memory."""

    path: str
    mode: str
    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    """The strides; None for a contiguous array in the order `order`."""
    order: str
    start: int
    """The position in the file, in bytes, at which the array's memory begins."""
    first: int
    """The number of bytes from there to its first element; 0 unless a stride is negative."""
    size: int
    """The size of its memory in bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open_array, tuple(self)


def open_array(*place: Any) -> Any:
    """Return the array of a MappedArray; raise OSError if the file does not exist."""
    import numpy as np

    path, mode, dtype, shape, strides, order, start, first, size = place
    if strides is None:
        return np.memmap(path, dtype, mode, start, shape, order)
    return np.ndarray(shape, dtype, np.memmap(path, np.uint8, mode, start, (size,)), first, strides)


class ArrayFiles:
    """Replaces the large arrays of calls by MappedArrays.

    Its user keeps it, and the arrays, until the calls are done.

    Args:
        smallest: The minimum size in bytes of an array that is written to a file. None: no array is.
        mode: The mode in which slots map the files: "r" (read-only), "c" (changes of a call are private) or "r+".
        folder: The folder of the files. Default: a folder in memory while there is room, else that for temporary
            files.
        same_host: Whether the slots are on this host. If not, no file is written, and of the arrays that are backed
            by files, only writable ones travel by name; the slots must find the file under that name.
    """

    def __init__(
        self, smallest: int | None, *, mode: str = "r", folder: str | None = None, same_host: bool = True
    ) -> None:
        self._smallest = smallest
        self._mode = "r+" if mode == "w+" else mode
        self._folder = folder
        self._same_host = same_host
        self._written: dict[int, tuple[weakref.finalize[Any, Any], MappedArray]] = {}
        weakref.finalize(self, _remove_all, self._written)

    def replace(self, value: Any) -> Any:
        """Return `value` with its large arrays replaced; containers of such arrays are copied; raise OSError."""
        kind = getattr(
            sys.modules.get("numpy"), "ndarray", None
        )  # the module is incomplete while another thread imports it
        if kind is None or not may_hold_futures((value,), {}, kind):
            return value
        return replace_futures(value, self._replaced, kind)

    def _replaced(self, array: Array) -> Any:
        if array.nbytes == 0 or array.dtype.hasobject:
            return array
        file = file_behind(array)
        if file is not None:
            by_name = self._same_host or (file.mode != "r" and array.flags.writeable)
            return place_in(file, array) if by_name else array
        plain = type(array) is sys.modules["numpy"].ndarray  # a subclass may have more than its elements
        if not self._same_host or not plain or self._smallest is None or array.nbytes < self._smallest:
            return array
        known = self._written.get(id(array))
        return self._write(array) if known is None else known[1]

    def _write(self, array: Array) -> MappedArray:
        import numpy as np

        folder = self._folder or folder_for(array.nbytes)
        path = os.path.join(folder, f"jobrunner-{os.getpid()}-{random_token()}.array")
        order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        key = id(array)
        removal = weakref.finalize(array, _remove, self._written, key, path)
        np.memmap(path, array.dtype, "r+", 0, array.shape, order)[...] = array
        place = MappedArray(path, self._mode, array.dtype, array.shape, None, order, 0, 0, array.nbytes)
        self._written[key] = removal, place
        return place


def _remove(written: dict[int, Any], key: int, path: str) -> None:
    """Remove the file of an array that no longer exists; slots that have mapped the file keep the content."""
    written.pop(key, None)
    try:
        os.unlink(path)
    except OSError:
        pass  # somebody else has removed it


def _remove_all(written: dict[int, tuple[weakref.finalize[Any, Any], MappedArray]]) -> None:
    for removal, _ in list(written.values()):
        removal()


def folder_for(size: int) -> str:
    """Return the default folder for a file of `size` bytes."""
    try:
        memory = os.statvfs(SHARED_MEMORY)
        if os.access(SHARED_MEMORY, os.W_OK) and memory.f_bavail * memory.f_frsize >= SHARE_OF_MEMORY * size:
            return SHARED_MEMORY
    except OSError:
        pass  # there is no such folder
    return tempfile.gettempdir()


def file_behind(array: Array) -> np.memmap[Any, Any] | None:
    """Return the numpy.memmap that `array` is, or of which it is a view; None if its file lacks a part of the array."""
    import numpy as np

    owner: Any = array
    while owner is not None and not isinstance(getattr(owner, "base", None), mmap.mmap):
        owner = getattr(owner, "base", None)
    if not isinstance(owner, np.memmap) or owner.filename is None or owner.mode == "c":
        return None
    return owner


def place_in(file: np.memmap[Any, Any], array: Array) -> MappedArray:
    """Return the place of the elements of `array`, which is `file` or a view of it."""
    first = low = array.__array_interface__["data"][0]
    high = low + array.itemsize
    for count, stride in zip(array.shape, array.strides, strict=True):
        low += min(0, (count - 1) * stride)
        high += max(0, (count - 1) * stride)
    mode = "r" if file.mode == "r" or not array.flags.writeable else "r+"
    start = file.offset + low - file.__array_interface__["data"][0]
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    return MappedArray(
        str(file.filename),
        mode,
        array.dtype,
        array.shape,
        None if contiguous else array.strides,
        "C" if array.flags.c_contiguous else "F",
        start,
        first - low,
        high - low,
    )
