"""A cable between two hosts that loses and delays packets, in user space: many kernels come without tc's netem.

    python bad_cable.py NEAR FAR LOSS DELAY

makes the TAP devices NEAR and FAR, says "ready", and carries every frame from one to the other after DELAY seconds,
but for a share of LOSS of them.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from itertools import count

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
MAX_FRAME_BYTES = 65536


def tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def carry(near: int, far: int, loss: float, delay: float) -> None:
    rng = random.Random(1)
    order = count()
    under_way: list[tuple[float, int, int, bytes]] = []
    poll = select.poll()
    for device in (near, far):
        poll.register(device, select.POLLIN)
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) * 1000 if under_way else None
        for device, _ in poll.poll(wait):
            try:
                frame = os.read(device, MAX_FRAME_BYTES)
            except OSError:
                continue  # the device is down
            if rng.random() >= loss:
                other = far if device == near else near
                heapq.heappush(under_way, (time.monotonic() + delay, next(order), other, frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, device, frame = heapq.heappop(under_way)
            try:
                os.write(device, frame)
            except OSError:
                pass  # it is down: this frame is lost, too


if __name__ == "__main__":
    ends = tap(sys.argv[1]), tap(sys.argv[2])
    print("ready", flush=True)
    carry(*ends, float(sys.argv[3]), float(sys.argv[4]))
