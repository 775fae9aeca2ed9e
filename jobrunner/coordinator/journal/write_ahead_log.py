"""The inspection of SQLite's write-ahead log before SQLite opens it: how much of it will be cut off.

SQLite reads the log up to the first frame that is damaged or incomplete, and says nothing about the rest.
"""

from __future__ import annotations

import struct

WAL_HEADER = 32
FRAME_HEADER = 24


def torn_bytes(log: bytes) -> int:
    """Return the number of bytes at the end of SQLite's write-ahead log that belong to no complete transaction.

    The format is described at https://www.sqlite.org/fileformat2.html#walformat
    """
    if len(log) < WAL_HEADER:
        return len(log)
    magic, _, page_size, _, *salt = struct.unpack(">IIIIII", log[:24])
    if magic not in (0x377F0682, 0x377F0683):
        return len(log)
    order = "<" if magic == 0x377F0682 else ">"
    sums = checksum(log[:24], order, (0, 0))
    if sums != struct.unpack(">II", log[24:32]):
        return len(log)
    good = position = WAL_HEADER
    while position < len(log):
        frame = log[position : position + FRAME_HEADER + page_size]
        if len(frame) < FRAME_HEADER:
            break
        _, commit, *frame_salt = struct.unpack(">IIII", frame[:16])
        if frame_salt != salt:
            if is_of_an_older_log(log[position:], FRAME_HEADER + page_size, salt):
                return position - good
            break
        if len(frame) < FRAME_HEADER + page_size:
            break
        sums = checksum(frame[:8] + frame[FRAME_HEADER:], order, sums)
        if sums != struct.unpack(">II", frame[16:24]):
            break
        position += len(frame)
        if commit:
            good = position
    return len(log) - good


def is_of_an_older_log(rest: bytes, frame_bytes: int, salt: list[int]) -> bool:
    """Return whether nothing in `rest` was written since the log was restarted in the same file.

    A restart changes both salts. A frame that shares one of them with the present log was written to it, and damaged
    later.
    """
    for position in range(0, len(rest) - 15, frame_bytes):
        found = struct.unpack(">II", rest[position + 8 : position + 16])
        if not any(found) or found[0] == salt[0] or found[1] == salt[1]:
            return False
    return True


def checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Return SQLite's checksum over 32-bit words."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & 0xFFFFFFFF
        second = (second + words[index + 1] + first) & 0xFFFFFFFF
    return first, second
