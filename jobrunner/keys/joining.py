"""Joining a cluster: an invitation line is traded for a key of this user's own."""

from __future__ import annotations

import time

from jobrunner.config import PEER_TIMEOUT
from jobrunner.errors import AuthenticationError, CoordinatorLostError, JobRunnerError
from jobrunner.keys import identity
from jobrunner.keys.identity import Identity
from jobrunner.keys.invitation import Invitation, parse_line
from jobrunner.protocol.effects import HandshakeFailed, Received, Send
from jobrunner.protocol.session import COORDINATOR
from jobrunner.protocol.wire.messages import Envelope, Join, Joined, Refused
from jobrunner.transport.curve import Credentials, new_pair
from jobrunner.transport.service import error_named
from jobrunner.transport.sockets import DealerWire

REPEAT_AFTER = 1.0
"""Time in seconds without an answer after which the request is repeated, which does no harm for the same key."""


def join(line: str, role: str, name: str, timeout: float = PEER_TIMEOUT) -> Identity:
    """Return this user's identity in the cluster of this line, and create one if none of the role is still known.

    Raises ConfigError if it is not an invitation line, AuthenticationError if the line is not valid (any more), and
    CoordinatorLostError if nobody answers within `timeout` seconds.
    """
    invitation = parse_line(line)
    for known in identity.known():
        if (
            known.server == invitation.server
            and known.role == role
            and still_known(known, invitation, timeout)
        ):
            known = known.met_at(invitation.address)
            identity.save(known)
            return known
    pair = new_pair()
    given = ask(invitation.credentials, Join(pair.public, name, role), invitation.address, timeout)
    joined = Identity(given, role, invitation.server, pair.public, pair.secret, (invitation.address,))
    identity.save(joined)
    return joined


def still_known(own: Identity, invitation: Invitation, timeout: float) -> bool:
    """Return whether the cluster still admits this key, which may have been revoked; True also if nobody answers."""
    try:
        ask(own.credentials, Join(own.public, own.name, own.role), invitation.address, timeout)
    except AuthenticationError:
        return False
    except CoordinatorLostError:
        pass  # the answer may still come
    return True


def ask(credentials: Credentials, message: Join, address: str, timeout: float) -> str:
    """Ask the cluster to admit the key, and return the name under which it is then known."""
    wire = DealerWire(address, credentials)
    try:
        return answer(wire, message, address, timeout)
    finally:
        wire.close()


def answer(wire: DealerWire, message: Join, address: str, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    problem = "it does not answer"
    send_at = 0.0
    while (now := time.monotonic()) < deadline:
        if now >= send_at:
            wire.send(Send(COORDINATOR, Envelope("", 0, 0, message)))
            send_at = now + REPEAT_AFTER
        wire.wait(min(deadline, send_at) - now)
        for event in wire.receive(now):
            if isinstance(event, HandshakeFailed):
                if event.refused:
                    raise AuthenticationError(f"the coordinator at {address}: {event.reason}")
                problem = event.reason
            elif isinstance(event, Received):
                said = event.envelope.message
                if isinstance(said, Joined):
                    return said.name
                if isinstance(said, Refused):
                    failure: JobRunnerError = error_named(said.kind, said.error)
                    raise failure
    raise CoordinatorLostError(
        f"the coordinator at {address}: {problem}. Check that it is running and reachable from here."
    )
