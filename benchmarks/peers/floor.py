"""What lies below every runner: bytes to another process and back, with nothing that could be called a runner.

A "call" is 100 bytes there and 100 back. The two hops of ZeroMQ are a client (DEALER), a broker (ROUTER) that looks at
nothing but who sent it, and one worker (DEALER) that sends back what it gets. The last row is the opposite: no other
process, only pickle both ways and a Future.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from benchmarks.peers.functions import same
from benchmarks.peers.pools import Unsupported
from benchmarks.peers.workloads import MIB, timed

LOOPBACK = "127.0.0.1"
CALL = b"x" * 100
WINDOW = 256
"""Messages under way at a time."""

SPAWN = multiprocessing.get_context("spawn")


class Channel:
    """Another process that sends back what it gets; `send` and `receive` are one message each, of a size known here."""

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def receive(self, size: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class PipeChannel(Channel):
    """os.pipe, raw bytes."""

    def __init__(self) -> None:
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._write)
            os.close(self._read)
            while data := os.read(there, MIB):
                _write_all(back, data)
            os._exit(0)
        os.close(there)
        os.close(back)

    def send(self, data: bytes) -> None:
        _write_all(self._write, data)

    def receive(self, size: int) -> None:
        while size:
            size -= len(os.read(self._read, min(size, MIB)))

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        os.waitpid(self._pid, 0)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class SocketChannel(Channel):
    """TCP on loopback, raw bytes."""

    def __init__(self) -> None:
        with socket.create_server((LOOPBACK, 0)) as server:
            self._socket = socket.create_connection(server.getsockname())
            other = server.accept()[0]
        for end in (self._socket, other):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pid = os.fork()
        if not self._pid:
            self._socket.close()
            while data := other.recv(MIB):
                other.sendall(data)
            os._exit(0)
        other.close()
        self._buffer = memoryview(bytearray(MIB))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, size: int) -> None:
        while size:
            size -= self._socket.recv_into(self._buffer[: min(size, MIB)])

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self._pid, 0)


def _broker(ready: Any, keys: tuple[bytes, bytes] | None) -> None:
    import zmq

    router = zmq.Context().socket(zmq.ROUTER)
    router.sndhwm = router.rcvhwm = 0
    if keys is not None:
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = keys
    port = router.bind_to_random_port(f"tcp://{LOOPBACK}")
    ready.send(f"tcp://{LOOPBACK}:{port}")
    while True:
        source, data = router.recv_multipart(copy=False)
        router.send_multipart([b"worker" if source.bytes == b"client" else b"client", data], copy=False)


def _worker(address: str, server: bytes | None) -> None:
    dealer = _dealer(address, b"worker", server)
    dealer.send(b"")
    while True:
        dealer.send(dealer.recv(copy=False), copy=False)


def _dealer(address: str, name: bytes, server: bytes | None) -> Any:
    import zmq

    dealer: Any = zmq.Context.instance().socket(zmq.DEALER)
    dealer.identity = name
    dealer.linger = 0
    dealer.sndhwm = dealer.rcvhwm = 0
    if server is not None:
        dealer.curve_serverkey = server
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.connect(address)
    return dealer


class TwoHops(Channel):
    """Client, broker and worker over ZeroMQ on loopback TCP."""

    def __init__(self, *, curve: bool) -> None:
        import zmq

        keys = zmq.curve_keypair() if curve else None
        server = None if keys is None else keys[0]
        here, there = SPAWN.Pipe()
        self._processes = [SPAWN.Process(target=_broker, args=(there, keys), daemon=True)]
        self._processes[0].start()
        address = here.recv()
        self._dealer = _dealer(address, b"client", server)
        # A ROUTER drops what is for somebody it does not know, so ask until the worker answers.
        self._processes.append(SPAWN.Process(target=_worker, args=(address, server), daemon=True))
        self._processes[1].start()
        while not self._dealer.poll(20):
            self._dealer.send(b"hello")
        while self._dealer.poll(200):
            self._dealer.recv()

    def send(self, data: bytes) -> None:
        self._dealer.send(data, copy=False)

    def receive(self, size: int) -> None:
        got = self._dealer.recv(copy=False)
        if len(got) != size:
            raise RuntimeError(f"{len(got)} bytes instead of {size}")

    def close(self) -> None:
        self._dealer.close()
        for process in self._processes:
            process.kill()
            process.join()


def over(
    channel: Callable[[], Channel], calls_per_message: int = 1
) -> Callable[[str, float], dict[str, float]]:
    """The workloads that mean something for bytes."""

    def run(workload: str, scale: float) -> dict[str, float]:
        if workload not in ("submit", "latency", "arrays", "array-256"):
            raise Unsupported("no runner")
        opened = channel()
        try:
            exchange(opened, CALL, 200, WINDOW)
            if workload == "submit":
                messages = max(
                    20, round(20_000 * scale * (5 if calls_per_message > 1 else 1) / calls_per_message)
                )
                seconds = exchange(opened, CALL * calls_per_message, messages, WINDOW)
                return {"rate": messages * calls_per_message / seconds}
            if workload == "latency":
                times = [exchange(opened, CALL, 1, 1) for _ in range(max(20, round(500 * scale)))]
                return {"seconds": statistics.median(times)}
            count, size = (max(4, round(64 * scale)), 8 * MIB) if workload == "arrays" else (1, 256 * MIB)
            if workload == "array-256":
                size = max(MIB, round(size * min(1.0, scale)))
            return {"rate": 2 * size * count / exchange(opened, os.urandom(size), count, 4)}
        finally:
            opened.close()

    return run


def exchange(channel: Channel, message: bytes, count: int, window: int) -> float:
    """Seconds for `count` messages there and back, at most `window` of them under way.

    What does not fit into the kernel's buffers is sent from a thread, or both sides would wait for each other.
    """
    if len(message) * min(count, window) > 64 * 1024 and not isinstance(channel, TwoHops):
        permits = threading.Semaphore(window)

        def send() -> None:
            for _ in range(count):
                permits.acquire()
                channel.send(message)

        began = time.perf_counter()
        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(count):
            channel.receive(len(message))
            permits.release()
        sender.join()
        return time.perf_counter() - began
    began = time.perf_counter()
    for sent in range(count):
        if sent >= window:
            channel.receive(len(message))
        channel.send(message)
    for _ in range(min(count, window)):
        channel.receive(len(message))
    return time.perf_counter() - began


def pickles(workload: str, scale: float) -> dict[str, float]:
    """A call as (function, args), its result, each through pickle, and a Future; in one thread."""

    def call(value: int) -> int:
        future: Future[int] = Future()
        function, arguments = pickle.loads(pickle.dumps((same, (value,)), 5))
        future.set_result(pickle.loads(pickle.dumps(function(*arguments), 5)))
        return future.result()

    count = max(20, round(20_000 * scale))
    seconds = timed(lambda: list(map(call, range(count))))
    if workload == "submit":
        return {"rate": count / seconds}
    if workload == "latency":
        return {"seconds": seconds / count}
    raise Unsupported("no runner")


FLOOR: dict[str, Callable[[str, float], dict[str, float]]] = {
    "bare pipe": over(PipeChannel),
    "bare TCP": over(SocketChannel),
    "bare ZeroMQ 2 hops": over(lambda: TwoHops(curve=False)),
    "bare ZeroMQ 2 hops 64/message": over(lambda: TwoHops(curve=False), 64),
    "bare ZeroMQ 2 hops CURVE": over(lambda: TwoHops(curve=True)),
    "bare ZeroMQ 2 hops CURVE 64/message": over(lambda: TwoHops(curve=True), 64),
    "pickle + Future alone": pickles,
}
"""By the name of their rows; each takes a workload and a scale."""

FLOOR_WORKLOADS = ("submit", "latency", "arrays", "array-256")
