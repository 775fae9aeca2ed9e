"""Join a cluster: trade the line of an invitation for a key of this user's own."""

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
"""Seconds without an answer after which it is asked again; asking twice for one key does no harm."""


def join(line: str, role: str, name: str, timeout: float = PEER_TIMEOUT) -> Identity:
    """This user's identity in the cluster of that line; a new one where it has none for the role that is still known.

    Raises ConfigError for a line that is none, AuthenticationError where it is not valid (any more), and
    CoordinatorLostError when nobody answers within `timeout` seconds.
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
    """Whether the cluster lets this key in, for it may have been revoked; True also where nobody answers."""
    try:
        ask(own.credentials, Join(own.public, own.name, own.role), invitation.address, timeout)
    except AuthenticationError:
        return False
    except CoordinatorLostError:
        pass  # it may come yet
    return True


def ask(credentials: Credentials, message: Join, address: str, timeout: float) -> str:
    """The name under which the cluster now knows the key."""
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
