"""ZeroMQ, and every option of its sockets. Beside `curve`, which makes keys, no other module imports it.

ROUTER at the coordinator, DEALER at everyone else. What is set here and why:

- The sending water mark of a DEALER is 0 (no limit): what is sent is bounded by windows above, not here. That of the
  ROUTER is high, and for those who ask and ask and read no answer; with ROUTER_MANDATORY it drops nothing silently.
  Receiving has one: nothing is dropped there, but ZeroMQ stops reading a connection that sends faster than we
  take it, and who floods us is held up by TCP instead of filling our memory.
- ROUTER_MANDATORY: a message to a peer whose connection is gone raises instead of vanishing.
- ROUTER_HANDOVER with an identity that is fresh per process: a peer that reconnects takes over its own connection,
  and nobody else's.
- ZAP_DOMAIN, even if nobody handles ZAP: ZeroMQ then refuses peers that speak its protocol of before 2013. That has
  no greeting, so that any bytes at all are messages: a stray program would fill the memory with one small queue per
  connection, faster than we can empty them.
- BACKLOG is larger than usual: when everybody connects at once, whom the queue has no room for waits for a second.
- Reconnecting backs off to RECONNECT_LIMIT_MS, so that peers of a dead coordinator do not hammer its host.
- LINGER is 0 except for an orderly end: closing must never hang.

Sockets are neither thread-safe nor fork-safe: the thread that made a wire is the only one to use it.
"""

from __future__ import annotations

import errno
import ipaddress
import mmap
import os
import resource
import socket
import struct
import time
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import zmq

from jobrunner.config import DEFAULT_PORT, JOIN_SCHEME, line_is_no_address
from jobrunner.errors import ConfigError, ProtocolError
from jobrunner.protocol.effects import (
    Event,
    HandshakeFailed,
    Received,
    Rejected,
    Revoked,
    Send,
    Source,
    Unreachable,
)
from jobrunner.protocol.wire.checks import MAX_FRAMES
from jobrunner.protocol.wire.codec import VersionMismatch, decode, encode
from jobrunner.protocol.wire.payloads import BUFFER_BYTES, Buffer
from jobrunner.protocol.wire.principals import ANYONE, Principal
from jobrunner.system.descriptors import make_room
from jobrunner.transport.curve import Credentials, to_text, to_z85
from jobrunner.transport.driver import milliseconds
from jobrunner.transport.manifests import Sharing

RECONNECT_MS = 20
RECONNECT_LIMIT_MS = 2000
FAREWELL_MS = 2000
"""Maximum time in milliseconds for the last messages to leave at an orderly end."""

RECEIVE_LIMIT = 256
"""Maximum number of messages received per turn, so that a flood cannot keep the loop from its deadlines."""

RECEIVE_BYTES = 8 * 1024 * 1024
"""Bytes of headers, and of what frames take beside their own bytes, beyond which a turn receives no further message:
decoding and handling them takes seconds, and only payloads take none."""

RECEIVE_MARK = 1000
"""Maximum number of received messages of one connection that wait; beyond it, no more is read from the connection."""

SEND_MARK = 20_000
"""Maximum number of messages from a coordinator to one peer that wait; a peer that leaves more unread is
unreachable."""

BACKLOG = 1024
"""Maximum number of connections that wait to be accepted; the system may set a lower limit."""

ZMQ_HEARTBEAT_MS = 5000
"""Interval in milliseconds of ZeroMQ's own pings, which close dead connections so that they reconnect."""

ZAP = "inproc://zeromq.zap.01"
"""The address at which libzmq asks for permission to connect (RFC 27 of ZeroMQ)."""

REFUSED_KEY = (
    "it does not know this key: it was revoked, or the keys there were rotated, or the invitation is used up or old."
    " `jobrunner keys invite` on the coordinator's host prints a new line to join with"
)
OTHER_KEYS = (
    "something answers there, but not with the key of a cluster that this user has started or joined: another"
    " coordinator, one without keys (--insecure), or none at all. To join that one, `jobrunner keys invite` there"
    " prints a line that `jobrunner join -` reads here (for a worker: `--as worker`, and `jobrunner worker start -`)"
)
WANTS_KEYS = (
    "something answers there, but it wants a key, and this end has JOBRUNNER_INSECURE set and shows none"
)

FRAME_OVERHEAD = 1024
"""Upper bound in bytes of the size that encryption adds to a frame."""

MONITOR_EVENT = struct.Struct("=H")
"""The beginning of a monitor's message, which is the event's number; pyzmq's own function imports asyncio, which takes
long to load."""

HANDSHAKE_MS = 5_000
"""Maximum time in milliseconds in which a connection must prove its key, or it is closed."""

LAST_WORD_SECONDS = 0.5
"""Maximum time in seconds in which a connection that is to be closed can deliver the reason to its peer."""

MAX_UNWANTED = 1000
"""Maximum number of remembered connections that are to be closed; the oldest ones are forgotten first."""

DESCRIPTORS = 12
"""Upper bound of the number of descriptors of a socket and its context."""

THREADS = 2
"""The number of threads of a context."""

USUAL_STACK = 8 << 20
"""Upper bound in bytes of a thread's stack if the stack has no limit."""

Ready: TypeAlias = "set[int]"
Taken: TypeAlias = "tuple[Source, Principal | None, Sequence[Buffer]]"
"""A message and its sender; the principal is None for a sender without permission."""


class Gate(Protocol):
    """Decides which peers may connect to a coordinator."""

    @property
    def secret(self) -> str:
        """The secret key of the coordinator's own pair."""

    def principal(self, key: str) -> Principal | None: ...
    def next_look(self) -> float: ...
    def refresh(self, now: float) -> list[str]: ...
    def look(self) -> None: ...


class Context(zmq.Context["zmq.Socket[bytes]"]):
    """A context that the garbage collector can end although sockets of it were not closed, after an error.

    The end of a context waits until its sockets are closed. pyzmq's Context knows them by weak references, which are
    dead by the time the collector ends it, so that it would wait for ever.
    """

    def __init__(self) -> None:
        super().__init__(io_threads=1)
        self._sockets = set()  # type: ignore[assignment]

    def __del__(self) -> None:
        self.destroy(linger=0)


def make_room_for_socket() -> None:
    """Check that a socket can be created; raise OSError if descriptors or memory for threads are too few.

    ZeroMQ itself would end the process in this case.
    """
    make_room(DESCRIPTORS)
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    mmap.mmap(-1, THREADS * (USUAL_STACK if stack == resource.RLIM_INFINITY else stack)).close()


def describe_versions() -> dict[str, str]:
    """Return the versions of pyzmq and of the underlying library."""
    return {"pyzmq": zmq.__version__, "libzmq": zmq.zmq_version()}


def check_address(address: str) -> str:
    """Return `address` in ZeroMQ's form ("host:port" becomes "tcp://host:port"); raise ConfigError if it is wrong."""
    full = address if "://" in address else f"tcp://{address}"
    scheme, _, rest = full.partition("://")
    if scheme == "ipc" and rest:
        return full
    if full.startswith(JOIN_SCHEME):
        raise line_is_no_address(full)
    host, colon, port = rest.rpartition(":")
    if scheme == "tcp" and colon and host and port.isdigit() and 0 < int(port) < 65536:
        return full
    reason = ""
    if scheme == "tcp" and not colon:
        reason = f" (the port is missing; {DEFAULT_PORT} is the usual one)"
    elif scheme == "tcp" and port.isdigit():
        reason = " (a port is a number from 1 to 65535)" if host else " (the host is missing)"
    raise ConfigError(f"{address!r} is not an address{reason}; it must look like tcp://10.0.0.5:7077")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Wire:
    """A socket, and other descriptors for which its thread waits."""

    def __init__(self, kind: int) -> None:
        """Create the wire; raise OSError if descriptors or memory are too few."""
        make_room_for_socket()
        self._context = Context()
        self._socket = self._context.socket(kind)
        for option in (zmq.SNDHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_MARK)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, ZMQ_HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * ZMQ_HEARTBEAT_MS)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._ready: set[object] | None = None
        """The sockets that `wait` has found ready; None if nobody has waited since the last look. Asking an idle
        socket raises an exception, which takes longer than the rest of a turn without messages."""
        self._sharing: Sharing | None = None

    def share(self, sharing: Sharing) -> None:
        """Let large payloads go through shared memory, to and from peers on this host that do the same."""
        self._sharing = sharing

    def register(self, fd: int) -> None:
        """Let `wait` also wake up when this descriptor is readable."""
        self._poller.register(fd, zmq.POLLIN)

    def fileno(self) -> int:
        """Return a descriptor for another poll than `wait`. Sleep on it only while `pending` is false."""
        fd = self._socket.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        return fd

    def pending(self) -> bool:
        """Return whether a message has arrived."""
        events = self._socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        return bool(events & zmq.POLLIN)

    def next_deadline(self) -> float | None:
        """Return None, because this wire has no deadline of its own."""
        return None

    def wait(self, timeout: float | None) -> Ready:
        """Sleep at most `timeout` seconds until a message or descriptor is ready; return the ready descriptors."""
        self._ready = {where for where, _ in self._poller.poll(milliseconds(timeout))}
        return {where for where in self._ready if isinstance(where, int)}

    def receive(self, now: float) -> list[Event]:
        """Return the messages that have arrived, up to RECEIVE_LIMIT of them."""
        events: list[Event] = []
        may_have, self._ready = self._may_have(self._socket), None
        if not may_have:
            return events
        size = 0
        for _ in range(RECEIVE_LIMIT):
            if size >= RECEIVE_BYTES:
                break
            try:
                taken = self._receive_frames()
            except zmq.Again:
                break
            if taken is None:
                continue
            source, who, frames = taken
            size += BUFFER_BYTES * len(frames) + (len(frames[0]) if frames else 0)
            if who is None:
                events.append(Rejected(source, "its key may not connect (any more)"))
                continue
            if not frames:
                events.append(Rejected(source, "an empty message", who=who))
                continue
            try:
                whole = frames if self._sharing is None else self._sharing.resolve(source, frames)
                if whole is not None:
                    events.append(Received(source, decode(whole, who.largest_header), who))
            except ProtocolError as exc:
                events.append(Rejected(source, str(exc), isinstance(exc, VersionMismatch), who))
        return events

    def _may_have(self, where: object) -> bool:
        """Return whether the socket may have a message, as far as is known."""
        return self._ready is None or where in self._ready

    def send(self, effect: Send) -> Event | None:
        """Hand a message to ZeroMQ; return Unreachable if the peer has no connection."""
        try:
            self._send_frames(effect.destination, self._encode(effect))
        except zmq.ZMQError as exc:
            if exc.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return Unreachable(effect.destination)
            raise
        return None

    def close(self, *, orderly: bool = False) -> None:
        """Close the socket within a bounded time; `orderly` lets the last messages leave first."""
        self._socket.close(linger=FAREWELL_MS if orderly else 0)
        self._context.term()
        if self._sharing is not None:
            self._sharing.close()

    def _encode(self, effect: Send) -> Sequence[Buffer]:
        if self._sharing is None:
            return encode(effect.envelope)
        return self._sharing.encode(effect.destination, effect.envelope)

    def _receive_frames(self) -> Taken | None:
        """Return one message, or None if it was dropped."""
        raise NotImplementedError

    def _send_frames(self, destination: Source, frames: Sequence[Buffer]) -> None:
        raise NotImplementedError

    def _rest_of_message(self, frames: list[Buffer]) -> list[Buffer]:
        """Return `frames` and the further frames of the message, without copying large ones.

        Frames beyond MAX_FRAMES + 1 are not kept.
        """
        while self._socket.getsockopt(zmq.RCVMORE):
            frame = self._socket.recv(zmq.NOBLOCK) if not frames else self._socket.recv(copy=False).buffer
            if len(frames) <= MAX_FRAMES:
                frames.append(frame)
        return frames


class RouterWire(Wire):
    """The coordinator's end of all connections; without a `gate` every peer may connect, in every role."""

    def __init__(self, address: str, gate: Gate | None = None, largest_frame: int = -1) -> None:
        super().__init__(zmq.ROUTER)
        if largest_frame >= 0:
            # A peer that announces a larger one is disconnected before anything is allocated for it.
            self._socket.setsockopt(zmq.MAXMSGSIZE, largest_frame + FRAME_OVERHEAD)
        self._gate = gate
        self._unwanted: dict[Source, float] = {}
        """The time at which each connection that is to be closed has had time to deliver the last message."""
        self._zap: zmq.Socket[bytes] | None = None
        if gate is not None:
            self._zap = self._context.socket(zmq.REP)
            self._zap.setsockopt(zmq.LINGER, 0)
            self._zap.bind(ZAP)
            self._poller.register(self._zap, zmq.POLLIN)
            self._socket.setsockopt(zmq.CURVE_SERVER, 1)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, to_z85(gate.secret))
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.setsockopt(zmq.SNDHWM, SEND_MARK)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ZAP_DOMAIN, b"jobrunner")
        self._socket.setsockopt(zmq.BACKLOG, BACKLOG)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))  # else 127.0.0.1 is shown as an IPv6 address
        try:
            self._socket.bind(address)
        except zmq.ZMQError as exc:
            RouterWire.close(self)  # what a subclass closes is not made yet
            reason = f"cannot listen on {address}: {os.strerror(exc.errno or 0)}"
            if exc.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
                advice = (
                    "this host has no such address. --host takes one of its own, or 0.0.0.0 for all of them"
                )
            else:
                advice = "is another coordinator running there? Choose another --port, or --host"
            raise ConfigError(f"{reason}; {advice}") from exc
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.address = endpoint.rstrip(b"\0").decode()

    def next_deadline(self) -> float | None:
        """Return the time at which the keys have to be checked for changes."""
        return None if self._gate is None else self._gate.next_look()

    def receive(self, now: float) -> list[Event]:
        events: list[Event] = []
        if self._gate is not None:
            events += [Revoked(key) for key in self._gate.refresh(now)]
            if self._may_have(self._zap):
                self._answer_zap(self._gate)
        return events + super().receive(now)

    def disconnect(self, source: Source) -> None:
        """Drop further messages of a peer, and close its connection if it still sends after LAST_WORD_SECONDS."""
        self._unwanted[source] = time.monotonic() + LAST_WORD_SECONDS
        if len(self._unwanted) > MAX_UNWANTED:
            del self._unwanted[next(iter(self._unwanted))]

    def close(self, *, orderly: bool = False) -> None:
        if self._zap is not None:
            self._zap.close()
        super().close(orderly=orderly)

    def _answer_zap(self, gate: Gate) -> None:
        """Tell libzmq whether a peer may connect.

        The question has these frames: version, id, domain, address, identity, mechanism and key.
        """
        assert self._zap is not None
        while True:
            try:
                version, number, _domain, _address, _identity, mechanism, *keys = self._zap.recv_multipart(
                    zmq.NOBLOCK
                )
            except zmq.Again:
                return
            gate.look()  # so that a key that was revoked a moment ago opens nothing new
            known = mechanism == b"CURVE" and len(keys) == 1 and gate.principal(to_text(keys[0])) is not None
            user = to_text(keys[0]).encode() if known else b""
            verdict = (b"200", b"OK") if known else (b"400", b"unknown key")
            self._zap.send_multipart([version, number, *verdict, user, b""])

    def _receive_frames(self) -> Taken | None:
        first = self._socket.recv(zmq.NOBLOCK, copy=False)
        source = first.bytes
        if source in self._unwanted:
            if time.monotonic() >= self._unwanted[source]:
                shut_down(int(first.get(zmq.SRCFD)), self.address)
            self._rest_of_message([])
            return None
        if self._gate is None:
            return source, ANYONE, self._rest_of_message([])
        user = first.get("User-Id")
        assert isinstance(user, str)
        return source, self._gate.principal(user), self._rest_of_message([])

    def _send_frames(self, destination: Source, frames: Sequence[Buffer]) -> None:
        self._socket.send_multipart([destination, *frames], zmq.NOBLOCK, copy=len(frames) == 1)


class DealerWire(Wire):
    """A client's or worker's end of a connection.

    Without `credentials` it trusts any coordinator, without encryption.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        super().__init__(zmq.DEALER)
        self._mismatch = WANTS_KEYS if credentials is None else OTHER_KEYS
        if credentials is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, to_z85(credentials.server))
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, to_z85(credentials.pair.public))
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, to_z85(credentials.pair.secret))
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._poller.register(self._monitor, zmq.POLLIN)
        self._socket.setsockopt(zmq.IDENTITY, os.urandom(12))
        self._socket.setsockopt(zmq.IPV6, 1)  # names may lead to either
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_LIMIT_MS)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as exc:
            self.close()
            raise ConfigError(f"cannot connect to {address}: {exc.strerror}") from exc

    def receive(self, now: float) -> list[Event]:
        failures = self._failures() if self._may_have(self._monitor) else []
        return failures + super().receive(now)

    def close(self, *, orderly: bool = False) -> None:
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
        super().close(orderly=orderly)

    def _failures(self) -> list[Event]:
        """Return the handshakes that have failed."""
        events: list[Event] = []
        while True:
            try:
                message = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return events
            (number,) = MONITOR_EVENT.unpack_from(message[0])
            refused = number == zmq.EVENT_HANDSHAKE_FAILED_AUTH
            events.append(HandshakeFailed(REFUSED_KEY if refused else self._mismatch, refused))

    def _receive_frames(self) -> Taken | None:
        first: Buffer = self._socket.recv(zmq.NOBLOCK)
        return b"", ANYONE, self._rest_of_message([first])

    def _send_frames(self, destination: Source, frames: Sequence[Buffer]) -> None:
        if len(frames) == 1:
            self._socket.send(frames[0], zmq.NOBLOCK)
        else:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)


def shut_down(descriptor: int, address: str) -> None:
    """Shut down a connection that was accepted at `address`, so that ZeroMQ, which owns it, closes it.

    ZeroMQ has no call for that. The descriptor, which a message brought, may have been reused meanwhile. Then either
    it is not a connection that was accepted here, and nothing happens, or another peer loses its connection and
    reconnects.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            here = connection.getsockname()
            name = here if isinstance(here, str) else f":{here[1]}"
            if name and address.endswith(name):
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already
