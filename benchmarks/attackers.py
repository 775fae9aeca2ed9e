"""Who attacks in attack.py: a process of its own, on loopback only, that ends with its time or with its input.

    python attackers.py KIND PORT SECONDS COUNT KEYS

KIND is one of ATTACKS, COUNT how many connections it may have open, KEYS the path of a client's key for the cluster.
Says "ready" when all connections stand, and at the end how much it did. Not for any port but that of attack.py's own
cluster: what is there has to be stopped and started again by who started it.
"""

from __future__ import annotations

import random
import resource
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fuzzing.insiders import FITTING, Insider
from fuzzing.strangers import SIGNATURE, greeting, handshake

from jobrunner.keys import identity
from jobrunner.protocol.wire import messages as m

HOST = "127.0.0.1"
BOUND = 10.0
"""Seconds for one system call."""

PIECE = 64 * 1024
MARK = 1000
"""Messages that wait to be sent."""


class Attacker:
    def __init__(self, port: int, seconds: float, count: int, keys: str) -> None:
        self.socket_address = (HOST, port)
        self.count = count
        self.identity = identity.read(Path(keys))
        self.done = 0
        """Connections made, or messages or pieces sent."""
        self._end = time.monotonic() + seconds
        self._stopped = threading.Event()
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def _wait_for_end(self) -> None:
        sys.stdin.read()
        self._stopped.set()

    def going_on(self) -> bool:
        return not self._stopped.is_set() and time.monotonic() < self._end

    def connect(self) -> socket.socket | None:
        """None: not this time."""
        connection = socket.socket()
        connection.settimeout(BOUND)
        try:
            connection.connect(self.socket_address)
        except OSError:
            connection.close()
            return None
        self.done += 1
        return connection

    # --- the attacks ---

    def burn(self) -> None:
        """Takes a processor, and sends nothing."""
        ready()
        while self.going_on():
            self.done += sum(range(1000)) > 0

    def scan(self) -> None:
        """Connects and closes, with a reset, so that no port stays taken for a minute."""
        ready()
        while self.going_on():
            connection = self.connect()
            if connection is not None:
                abandon(connection)

    def half_open(self) -> None:
        """Handshakes that stop after the first step, for which the coordinator has computed something."""
        self._hold(b"".join(handshake(self.identity.server)))

    def idle(self) -> None:
        self._hold(b"")

    def _hold(self, beginning: bytes) -> None:
        """Keeps `count` connections open that have sent `beginning`; those that are closed are replaced."""
        poller = select.poll()
        held: dict[int, socket.socket] = {}

        def add() -> None:
            if (connection := self.connect()) is not None:
                held[connection.fileno()] = connection
                poller.register(connection, select.POLLIN)
                connection.sendall(beginning)

        while len(held) < self.count and self.going_on():
            add()
        ready()
        while self.going_on():
            for descriptor, _ in poller.poll(100):
                if not heard(held[descriptor]):
                    poller.unregister(descriptor)
                    held.pop(descriptor).close()
            while len(held) < self.count and self.going_on():
                add()
        for connection in held.values():
            abandon(connection)

    def garbage(self) -> None:
        """Four connections at a time that send noise as fast as it is taken, after beginnings that are right."""
        real = handshake(self.identity.server)
        beginnings = [b"", SIGNATURE, greeting(b"CURVE"), b"".join(real)]
        noise = random.Random(1).randbytes(2 * PIECE)

        def send(beginning: bytes, rng: random.Random) -> None:
            while self.going_on():
                connection = self.connect()
                if connection is None:
                    continue
                try:
                    connection.sendall(beginning)
                    while self.going_on():
                        start = rng.randrange(PIECE)
                        connection.sendall(noise[start : start + PIECE])
                except OSError:
                    pass  # it was closed on us
                abandon(connection)

        threads = [
            threading.Thread(target=send, args=(beginning, random.Random(number)))
            for number, beginning in enumerate(beginnings)
        ]
        for thread in threads:
            thread.start()
        ready()
        for thread in threads:
            thread.join()

    def nonsense(self) -> None:
        """Well-formed messages that mean nothing, from a client with a key, in its session; no calls among them.

        Every hundredth ends the session, for no client may say so. Who is disconnected for that comes again.
        """
        address = f"tcp://{HOST}:{self.socket_address[1]}"
        insider = Insider(address, self.identity.credentials, "client", 0, "attack", damage=0.0, mark=MARK)
        wanted = {*FITTING["client"]} - {m.Submit, m.Goodbye, m.ClientHello}
        messages: list[m.Message] = []
        while len(messages) < 5000:
            said = insider.next_message()[1]
            if said is not None and type(said.message) in wanted:
                messages.append(said.message)
        ready()
        at = 0
        while self.going_on():
            if not insider.ready():
                time.sleep(0.001)
                continue
            insider.flood(messages[at : at + 100])
            insider.flood([m.Running([])])
            at = (at + 100) % len(messages)
            self.done = insider.taken["messages"]
        insider.close()
        print(dict(insider.taken), dict(insider.errors), file=sys.stderr)


ATTACKS: dict[str, Callable[[Attacker], None]] = {
    "burn": Attacker.burn,
    "scan": Attacker.scan,
    "half-open": Attacker.half_open,
    "idle": Attacker.idle,
    "garbage": Attacker.garbage,
    "nonsense": Attacker.nonsense,
}


def ready() -> None:
    print("ready", flush=True)


def heard(connection: socket.socket) -> bool:
    """Whether it is open still."""
    try:
        return bool(connection.recv(4096))
    except OSError:
        return False


def abandon(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def main() -> None:
    kind, port, seconds, count, keys = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attacker = Attacker(int(port), float(seconds), int(count), keys)
    ATTACKS[kind](attacker)
    print(attacker.done, flush=True)


if __name__ == "__main__":
    main()
