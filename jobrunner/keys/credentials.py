"""The choice of the key for a cluster: the configured one, the one for the address, or this user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobrunner.errors import AuthenticationError
from jobrunner.keys import identity, keyring
from jobrunner.keys.identity import Identity
from jobrunner.protocol.wire.principals import CLIENT, OBSERVER, OPERATOR, WORKER
from jobrunner.system.host import own_host
from jobrunner.transport.curve import Credentials
from jobrunner.transport.sockets import is_loopback

CLIENT_ROLES = (OPERATOR, CLIENT, WORKER, OBSERVER)
"""The roles in which a program may connect, the one with the most rights first."""

WORKER_ROLES = (WORKER,)


def credentials_for(
    address: str, roles: Sequence[str], *, configured: str | None = None, insecure: bool = False
) -> Credentials | None:
    """Return the credentials for `address`; None if none are needed, on a Unix socket or with `insecure`.

    Raises AuthenticationError if this user has no key for the cluster.
    """
    if insecure or not address.startswith("tcp://"):
        return None
    if configured is not None:
        return identity.given(configured).credentials
    found = find(address, roles)
    if found is None:
        raise AuthenticationError(
            f"this user has no key for the cluster at {address}. Run `jobrunner keys invite` on the coordinator's host,"
            " then run `jobrunner join -` here and paste the line (for a worker: `jobrunner keys invite --as worker`"
            " and `jobrunner worker start -`). If the coordinator has no keys (--insecure), set JOBRUNNER_INSECURE=1"
            " here"
        )
    return found.credentials


def find(address: str, roles: Sequence[str]) -> Identity | None:
    """Return the identity with the first of `roles` that belongs to the cluster at `address`, as far as is known."""
    own = keyring.default_folder()
    everyone = [*identity.known(), *local(own)]
    candidates = sorted((i for i in everyone if i.role in roles), key=lambda i: roles.index(i.role))
    for candidate in candidates:
        if any(same_address(address, known) for known in candidate.addresses):
            # The identity with the most rights in this cluster, so that a worker on the coordinator's host does not
            # reduce the operator's rights.
            return next(other for other in candidates if other.server == candidate.server)
    host = address.removeprefix("tcp://").rpartition(":")[0]
    if is_loopback(host) or host == own_host():
        # This user's cluster on this host; the first program to come creates its keys.
        if not (own / "server.json").exists():
            keyring.open_keyring(own)
        return next((i for i in sorted(local(own), key=lambda i: i.role) if i.role in roles), None)
    # The cluster may have another name than when it was joined. If there is only one cluster there is no doubt, and a
    # wrong one does no harm. Keys of this host with which no coordinator was ever started do not count as a second
    # cluster.
    if not (own / "address").exists():
        unused = {one.server for one in local(own)}
        candidates = [candidate for candidate in candidates if candidate.server not in unused]
    return candidates[0] if len({candidate.server for candidate in candidates}) == 1 else None


def same_address(one: str, other: str) -> bool:
    """Return whether two addresses are the same, as far as their texts tell."""
    return one.replace("//localhost:", "//127.0.0.1:") == other.replace("//localhost:", "//127.0.0.1:")


def local(folder: Path) -> list[Identity]:
    found = (keyring.local_identity(folder, role) for role in keyring.LOCAL_ROLES)
    return [one for one in found if one is not None]
