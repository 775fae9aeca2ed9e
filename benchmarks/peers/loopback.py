"""A network with nothing but loopback in it: some peers listen on every interface whatever they are told.

`unshare` moves this process into a network namespace of its own, where all that it starts is from then on. A user who
is not root needs user namespaces for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCADDRT = 0x890B
OWN_ADDRESS = "192.0.2.1"
"""Of those that are for documentation, and lead nowhere."""
IFF_UP = 1
RTF_UP = 1
RTENTRY_BYTES = 120


def only_loopback() -> str:
    """Leave every network but loopback, for good. Empty if done, else why it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    try:
        if libc.unshare(CLONE_NEWNET):
            if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
                return os.strerror(ctypes.get_errno())
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _start_loopback()
    except (AttributeError, OSError) as error:
        return str(error)
    return ""


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
        # An address and a way to everywhere, which end here: Ray complains where there are none.
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(OWN_ADDRESS))
        name = ctypes.create_string_buffer(b"lo")
        inet = struct.pack("H14x", socket.AF_INET)
        route = struct.pack(
            "L16s16s16sHhLPhP", 0, inet, inet, inet, RTF_UP, 0, 0, 0, 0, ctypes.addressof(name)
        )
        with contextlib.suppress(OSError):
            fcntl.ioctl(any_socket, SIOCSIFADDR, struct.pack("16s16s8x", b"lo:1", address))
            fcntl.ioctl(any_socket, SIOCADDRT, route.ljust(RTENTRY_BYTES, b"\0"))
