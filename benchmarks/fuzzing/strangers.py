"""Connections without a known key: noise, other protocols, and ZeroMQ's own with damage.

Among it are the first steps of a real handshake: the greeting and the HELLO that a libzmq has sent which knows the
cluster's public key, and has none that the cluster knows.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter, deque

import zmq

from fuzzing.vandal import Frames, Vandal
from jobrunner.transport.curve import new_pair, to_z85

BOUND = 10.0
"""Seconds for one system call."""

GREETING = 64
HELLO = 202
"""Bytes of them in ZMTP 3.1 with CURVE."""

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"

OTHERS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-scanner\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x01\x00" + b"".join(bytes([n + 1, 0]) + b"x" * n for n in range(1, 100)),
]
"""Other protocols, and ZeroMQ's first."""


def greeting(mechanism: bytes, version: bytes = b"\x03\x01", as_server: int = 0) -> bytes:
    """ZeroMQ's own, of 64 bytes."""
    return SIGNATURE + version + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def command(name: bytes, body: bytes) -> bytes:
    """Of ZMTP 3: a short or a long one."""
    body = bytes([len(name)]) + name + body
    if len(body) < 256:
        return bytes([4, len(body)]) + body
    return b"\x06" + struct.pack("!Q", len(body)) + body


def handshake(server: str) -> tuple[bytes, bytes]:
    """What a libzmq with an unknown key sends at first to whom it takes for the holder of this public key."""
    with socket.create_server(("127.0.0.1", 0)) as listener, zmq.Context() as context:
        listener.settimeout(BOUND)
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        pair = new_pair()
        dealer.curve_serverkey = to_z85(server)
        dealer.curve_publickey, dealer.curve_secretkey = to_z85(pair.public), to_z85(pair.secret)
        dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(BOUND)
                connection.sendall(greeting(b"CURVE", as_server=1))
                sent = b""
                while len(sent) < GREETING + HELLO:
                    piece = connection.recv(GREETING + HELLO - len(sent))
                    if not piece:
                        raise ConnectionError("libzmq gave up its own handshake")
                    sent += piece
        finally:
            dealer.close()
    return sent[:GREETING], sent[GREETING:]


class Strangers:
    """Each connects, says its piece, and stays until `MAX_STRANGERS` others have come.

    Number n is the same for the same seed, but for the one-time keys in its handshake.
    """

    MAX_STRANGERS = 200

    def __init__(self, socket_address: tuple[str, int], server: str, seed: str) -> None:
        self.taken: Counter[str] = Counter()
        self._socket_address = socket_address
        self._seed = seed
        self._rng = random.Random()
        self._vandal = Vandal(self._rng)
        self._real = handshake(server)
        self._there: deque[socket.socket] = deque()
        self._number = 0

    def come(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            self._rng.seed(f"{self._seed}/stranger/{self._number}")
            self._say(b"".join(self.piece()))
            if len(self._there) > self.MAX_STRANGERS:
                self._leave()

    def piece(self) -> Frames:
        rng = self._rng
        kind = rng.choices(("noise", "other protocol", "greeting", "handshake"), (2, 1, 3, 6))[0]
        self.taken[kind] += 1
        if kind == "noise":
            beginning = rng.choice((b"", SIGNATURE, greeting(b"CURVE")))
            return [beginning, rng.randbytes(rng.choice((1, 60, 2000, 50_000)))]
        if kind == "other protocol":
            return [rng.choice(OTHERS), rng.randbytes(rng.randrange(200))]
        ready = command(b"READY", b"\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00")
        message = b"\x00" + bytes([40]) + rng.randbytes(40)
        if kind == "greeting":
            mechanism = rng.choice((b"NULL", b"CURVE", b"PLAIN", b"GSSAPI", b"X"))
            version = rng.choice((b"\x03\x01", b"\x03\x00", b"\x02\x00", b"\x01\x00", b"\x7f\xff"))
            frames: Frames = [greeting(mechanism, version, rng.randrange(2)), ready, message]
        else:
            initiate = command(b"INITIATE", rng.randbytes(rng.choice((16, 248, 300, 9000))))
            frames = [*self._real, initiate, command(b"PING", b"\0\0"), message]
            frames = frames[: rng.randrange(1, 6)]
        return self._vandal.damaged(frames) if rng.random() < 0.8 else frames

    def _say(self, data: bytes) -> None:
        self.taken["connections"] += 1
        connection = socket.socket()
        self._there.append(connection)
        connection.settimeout(BOUND)
        try:
            connection.connect(self._socket_address)
            connection.sendall(data)
        except (ConnectionError, TimeoutError) as exc:  # a connection that is closed on us is what we deserve
            self.taken[f"{type(exc).__name__}s"] += 1

    def _leave(self) -> None:
        """With a reset, so that no port stays taken for a minute."""
        connection = self._there.popleft()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def close(self) -> None:
        while self._there:
            self._leave()
