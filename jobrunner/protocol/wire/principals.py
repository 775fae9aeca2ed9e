"""The sender of a message, as the transport has authenticated it, and its rights.

A principal is a key with a name and a role. Without authentication (in one process, on a socket that only its user can
reach, or with `--insecure`) everybody is ANYONE, who may do everything.
"""

from __future__ import annotations

from typing import NamedTuple

from jobrunner.protocol.wire.checks import MAX_HEADER_BYTES

OPERATOR = "operator"
"""An operator sees and cancels all calls, and drains workers."""
CLIENT = "client"
"""A client submits calls, and sees and cancels its own calls and those whose ids it was given."""
OBSERVER = "observer"
"""An observer sees the status, but no ids, arguments or results."""
WORKER = "worker"
"""A worker runs calls, and submits the calls that its tasks make."""
INVITED = "invited"
"""The holder of an invitation, who may obtain a key of its own with it."""

ROLES = (OPERATOR, CLIENT, OBSERVER, WORKER)
"""The roles of permanent keys."""


MAX_QUESTION_BYTES = 64 * 1024
"""Maximum size in bytes of the messages of peers that only ask something."""


class Principal(NamedTuple):
    """A peer's name, role and key; `key` is the public key that the transport has verified, or empty."""

    key: str
    name: str
    role: str

    @property
    def submits(self) -> bool:
        return self.role != OBSERVER

    @property
    def sees_all(self) -> bool:
        return self.role in (OPERATOR, OBSERVER)

    @property
    def largest_header(self) -> int:
        """The maximum size in bytes of a message's first frame, because decoding needs much more memory."""
        return MAX_HEADER_BYTES if self.role not in (OBSERVER, INVITED) else MAX_QUESTION_BYTES

    @property
    def operates(self) -> bool:
        return self.role == OPERATOR


ANYONE = Principal("", "", OPERATOR)
