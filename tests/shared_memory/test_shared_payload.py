"""What comes from elsewhere is looked at before it is used."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest
from support.counting import MIB, descriptors

from jobrunner.shared_memory import shared_payload as module
from jobrunner.shared_memory.shared_payload import (
    HEADER,
    MAGIC,
    Label,
    SharedMemoryError,
    SharedPayload,
    checked_label,
    opened,
    received,
)


def test_a_payload_crosses_by_its_descriptor(pool):
    payload = pool.store([b"pickle", b"x" * MIB])
    label = checked_label(*payload.label)
    other = received(payload.locked(), label)
    assert isinstance(other, SharedPayload)
    del payload
    assert [bytes(view) for view in other.views()] == [b"pickle", b"x" * MIB]


def test_a_payload_crosses_by_its_address(pool):
    payload = pool.store([b"pickle", b"x" * MIB])
    other = opened(f"/proc/{os.getpid()}/fd/{payload.fileno()}", payload.label)
    known = payload.label.segment
    del payload
    assert pool.store([b"y" * MIB]).label.segment != known
    assert [bytes(view) for view in other.views()] == [b"pickle", b"x" * MIB]


def file_like_a_segment(label, size, seal=fcntl.F_SEAL_SHRINK):
    fd = os.memfd_create("forged", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, HEADER.pack(MAGIC, label.segment, label.fill), 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
    return fd


LABEL = Label(b"s" * 16, 3, (100, MIB))


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.open("/dev/null", os.O_RDONLY),
        lambda: os.open(os.devnull, os.O_RDWR),
        lambda: os.eventfd(0),
        lambda: socket.socket().detach(),
        lambda: os.open(__file__, os.O_RDONLY),
        lambda: file_like_a_segment(LABEL, 2 * MIB, 0),
        lambda: file_like_a_segment(LABEL, 2 * MIB, fcntl.F_SEAL_GROW),
        lambda: file_like_a_segment(LABEL, MIB),
        lambda: file_like_a_segment(LABEL._replace(fill=2), 2 * MIB),
        lambda: file_like_a_segment(LABEL._replace(segment=b"t" * 16), 2 * MIB),
    ],
    ids=[
        "null",
        "null rw",
        "eventfd",
        "socket",
        "file",
        "may shrink",
        "other seal",
        "too short",
        "other fill",
        "other segment",
    ],
)
def test_what_is_no_such_memory_is_refused(make):
    fd = make()
    with pytest.raises(SharedMemoryError):
        received(os.dup(fd), LABEL)
    count = descriptors()
    with pytest.raises(SharedMemoryError):
        opened(f"/proc/self/fd/{fd}", LABEL)
    assert descriptors() <= count
    os.close(fd)


def test_an_address_where_nothing_is(pool):
    with pytest.raises(SharedMemoryError):
        opened("/proc/self/fd/99999", LABEL)
    with pytest.raises(SharedMemoryError):
        opened("/proc/0/fd/1", LABEL)


@pytest.mark.parametrize(
    "label",
    [
        (b"s" * 15, 1, [1]),
        ("s" * 16, 1, [1]),
        (b"s" * 16, "1", [1]),
        (b"s" * 16, True, [1]),
        (b"s" * 16, 1, []),
        (b"s" * 16, 1, [-1]),
        (b"s" * 16, 1, [1 << 61]),
        (b"s" * 16, 1, [1.5]),
        (b"s" * 16, 1, None),
    ],
)
def test_labels_are_checked(label):
    with pytest.raises(SharedMemoryError):
        checked_label(*label)


def test_very_many_payloads_are_copied_rather_than_held(pool, monkeypatch):
    most = len(module._received) + 2
    monkeypatch.setattr(module, "most_descriptors", lambda: most)
    payload = pool.store([b"pickle", b"x" * MIB])
    held = [received(payload.locked(), payload.label) for _ in range(4)]
    assert [isinstance(one, SharedPayload) for one in held] == [True, True, False, False]
    assert held[3] == (b"pickle", b"x" * MIB)
    count = descriptors()
    held.clear()
    assert descriptors() <= count - 2


def test_a_payload_may_be_closed_early(pool):
    count = descriptors()
    payload = pool.store([b"x" * MIB])
    other = received(payload.locked(), payload.label)
    views = other.views()
    other.close()
    other.close()
    assert bytes(views[0]) == b"x" * MIB
    del views, payload, other
    pool.trim(0.0)
    assert descriptors() <= count
