"""Who a message comes from, as the transport has proved it, and what that one may do.

A principal is a key with a name and a role. Where nothing is proved (in one process, on a socket that only its user can
reach, or with `--insecure`) everybody is ANYONE, who may do everything.
"""

from __future__ import annotations

from typing import NamedTuple

from jobrunner.protocol.wire.checks import MAX_HEADER_BYTES

OPERATOR = "operator"
"""Sees and cancels everything, drains workers."""
CLIENT = "client"
"""Submits calls; sees and cancels its own, and those whose id it was given."""
OBSERVER = "observer"
"""Sees the status; no ids, arguments or results."""
WORKER = "worker"
"""Runs calls, and makes those that its tasks make."""
INVITED = "invited"
"""Holds an invitation, and may trade it for a key of its own."""

ROLES = (OPERATOR, CLIENT, OBSERVER, WORKER)
"""Those of lasting keys."""


MAX_QUESTION_BYTES = 64 * 1024
"""Bytes of the messages of those who only ask for something."""


class Principal(NamedTuple):
    """`key` is the public key that the transport has verified; empty: nothing was."""

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
        """Bytes of one message's first frame, of which far more is made than it has."""
        return MAX_HEADER_BYTES if self.role not in (OBSERVER, INVITED) else MAX_QUESTION_BYTES

    @property
    def operates(self) -> bool:
        return self.role == OPERATOR


ANYONE = Principal("", "", OPERATOR)
