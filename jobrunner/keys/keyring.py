"""The coordinator's keys: its own pair, who else may connect and as what, and the open invitations.

A folder (0700) with files of mode 0600:

    server.json     the coordinator's own pair
    address         where the coordinator was last
    allowed.json    public keys, names and roles; invitations (public keys as well), with their time and uses
    operator.json, worker.json     identities of the user who owns the folder, so that programs on this host just work

The coordinator and the commands of `jobrunner keys` change `allowed.json` under a lock; a running coordinator sees
changes of others by the file's stamp.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from jobrunner.config import config_folder
from jobrunner.errors import AuthenticationError, ConfigError
from jobrunner.keys.identity import Identity, read
from jobrunner.keys.private_files import locked, read_private, write_private
from jobrunner.protocol.wire.ids import unused_name
from jobrunner.protocol.wire.principals import CLIENT, INVITED, OBSERVER, OPERATOR, ROLES, WORKER, Principal
from jobrunner.transport.curve import KeyPair, from_text, new_pair, pair_of

log = logging.getLogger("jobrunner.coordinator.daemon")

ADMITS = {WORKER: (WORKER,), CLIENT: (CLIENT, OBSERVER), OBSERVER: (OBSERVER,)}
"""The roles in which one may join with a line for each role: never as an operator, and never with more rights than the
line's."""

LOCAL_ROLES = (OPERATOR, WORKER)

MAX_NAME_LENGTH = 64

REFRESH_INTERVAL = 0.5
"""Interval in seconds between two checks of the file's stamp."""


@dataclass(frozen=True)
class Member:
    """A peer that may connect: its name, its role, its public key, and the time when it was added."""

    name: str
    role: str
    key: str
    added: float
    """The time of addition, in seconds since the epoch."""
    invitation: str = ""
    """The public key of the invitation with which the key was obtained."""


@dataclass(frozen=True)
class OpenInvitation:
    """An invitation that can be used: its key, the roles that it permits, its end, and the uses that are left."""

    key: str
    roles: tuple[str, ...]
    until: float
    uses: int


class Revoked(NamedTuple):
    """The result of revoking a key."""

    member: Member
    ended_invitation: bool
    """Whether the invitation with which the key was obtained was still open."""
    others: list[str]
    """The names of the keys from the same invitation, which remain valid."""


@dataclass
class Allowed:
    """The content of allowed.json."""

    members: list[Member] = field(default_factory=list)
    invitations: list[OpenInvitation] = field(default_factory=list)

    def to_text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def parse(cls, text: str, path: Path) -> Allowed:
        try:
            value: dict[str, Any] = json.loads(text)
            return cls(
                [Member(**member) for member in value["members"]],
                [
                    OpenInvitation(**{**invitation, "roles": tuple(invitation["roles"])})
                    for invitation in value["invitations"]
                ],
            )
        except (ValueError, TypeError, KeyError) as exc:
            raise ConfigError(f"{path} is damaged ({exc}); `jobrunner keys rotate` creates new keys") from exc


class Keyring:
    """A coordinator's keys; `open_keyring` creates one per process that uses them."""

    def __init__(self, folder: Path, server: KeyPair) -> None:
        self.folder = folder
        self.server = server
        self._file = folder / "allowed.json"
        self._stamp: tuple[int, int] | None = None
        self._allowed = Allowed()
        self._principals: dict[str, Principal] = {}
        self._gone: list[str] = []
        """The keys that were known, and that `refresh` has not reported as removed yet."""
        self._next_look = 0.0
        self._load()

    # --- what the transport asks ---

    @property
    def secret(self) -> str:
        return self.server.secret

    def principal(self, key: str) -> Principal | None:
        """Return the holder of this public key; None if the key may not connect."""
        found = self._principals.get(key)
        if found is None:
            self.look()  # it may have become known a moment ago
            found = self._principals.get(key)
        if found is None or found.role != INVITED:
            return found
        return found if any(i.key == key and usable(i) for i in self._allowed.invitations) else None

    def next_look(self) -> float:
        """Return the time at which `refresh` is due, on the clock of its `now`."""
        return self._next_look

    def refresh(self, now: float) -> list[str]:
        """Check whether somebody has changed the file; return the keys that may no longer connect."""
        if now < self._next_look:
            return []
        self._next_look = now + REFRESH_INTERVAL
        self.look()
        gone, self._gone = self._gone, []
        return gone

    # --- changes ---

    def invite(self, role: str, seconds: float, uses: int) -> str:
        """Return the secret of a new invitation, for `role` and for roles with fewer rights."""
        roles, pair = ADMITS[role], new_pair()
        with locked(self.folder):
            self._load()
            self._allowed.invitations.append(OpenInvitation(pair.public, roles, time.time() + seconds, uses))
            self._save()
        return pair.secret

    def admit(self, invitation: str, key: str, name: str, role: str) -> Member:
        """Trade one use of an invitation, given by its public key, for a permanent key; repetitions for a key are free.

        Raises AuthenticationError.
        """
        try:
            from_text(key)
        except ConfigError as exc:
            raise AuthenticationError(str(exc)) from exc
        self.look()
        member = self._admitted(invitation, key)
        if member is not None:
            return member
        self._open_for(invitation, role)  # what comes to nothing, however often it is asked, takes no lock
        with locked(self.folder):
            self._load()
            member = self._admitted(invitation, key)
            return member or self._trade(self._open_for(invitation, role), key, name, role)

    def _admitted(self, invitation: str, key: str) -> Member | None:
        """Return who has obtained this key with this invitation, if somebody has."""
        for member in self._allowed.members:
            if member.key == key:
                if member.invitation != invitation:
                    raise AuthenticationError("this key is known already")
                return member
        if key == self.server.public or any(i.key == key for i in self._allowed.invitations):
            raise AuthenticationError("this key is that of an invitation, or of the coordinator")
        return None

    def _open_for(self, invitation: str, role: str) -> OpenInvitation:
        """Return this invitation, which can be used in this role."""
        found = next((i for i in self._allowed.invitations if i.key == invitation and usable(i)), None)
        if found is None:
            raise AuthenticationError(
                "the invitation has expired or has been used up; `jobrunner keys invite` prints a new one"
            )
        if role not in found.roles:
            raise AuthenticationError(
                f"the invitation is for {' or '.join(found.roles)}, not for {role!r}; `jobrunner keys invite --as"
                f" {role}` on the coordinator's host prints the right one"
            )
        return found

    def _trade(self, invitation: OpenInvitation, key: str, name: str, role: str) -> Member:
        """Take one use of the invitation for this key."""
        others = [i for i in self._allowed.invitations if i is not invitation]
        self._allowed.invitations = [*others, replace(invitation, uses=invitation.uses - 1)]
        member = Member(self._unused(name), role, key, time.time(), invitation.key)
        self._allowed.members.append(member)
        self._save()
        return member

    def issue(self, name: str, role: str, addresses: Sequence[str] = ()) -> Identity:
        """Return a new key pair under a new name, which is known here; raise ConfigError."""
        if role not in ROLES:
            raise ConfigError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")
        pair = new_pair()
        with locked(self.folder):
            self._load()
            if self._unused(name) != name:
                raise ConfigError(
                    f"there is already a key named {name!r}; `jobrunner keys revoke {name}` revokes it"
                )
            self._allowed.members.append(Member(name, role, pair.public, time.time()))
            self._save()
        return Identity(name, role, self.server.public, pair.public, pair.secret, tuple(addresses))

    def revoke(self, name: str) -> Revoked:
        """Revoke a key, and its invitation, because the key's holder may still have that line.

        Raises ConfigError if the name is unknown.
        """
        with locked(self.folder):
            self._load()
            found = next((member for member in self._allowed.members if member.name == name), None)
            if found is None:
                raise ConfigError(
                    f"there is no key named {name!r}; the names are: "
                    f"{', '.join(m.name for m in self.members()) or 'none'}"
                )
            self._allowed.members.remove(found)
            invitations = self._allowed.invitations
            came_with = [i for i in invitations if i.key == found.invitation]
            self._allowed.invitations = [i for i in invitations if i not in came_with]
            self._save()
        others = [m.name for m in self.members() if found.invitation and m.invitation == found.invitation]
        return Revoked(found, any(usable(i) for i in came_with), others)

    def close_invitations(self) -> int:
        """Revoke all open invitations, and return their number."""
        with locked(self.folder):
            self._load()
            count = len([i for i in self._allowed.invitations if usable(i)])
            self._allowed.invitations.clear()
            self._save()
        return count

    def members(self) -> list[Member]:
        return list(self._allowed.members)

    def invitations(self) -> list[OpenInvitation]:
        """Return the invitations that can still be used."""
        return [invitation for invitation in self._allowed.invitations if usable(invitation)]

    @property
    def address(self) -> str | None:
        """The coordinator's last address, as other hosts see it; None if it has never been started."""
        try:
            return read_private(self.folder / "address").strip()
        except FileNotFoundError:
            return None

    def note_address(self, address: str) -> None:
        write_private(self.folder / "address", address + "\n")

    # --- the file ---

    def look(self) -> None:
        """Take over the changes of others.

        A file that cannot be read changes nothing, so that a running cluster continues.
        """
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        try:
            self._load()
        except ConfigError as exc:
            self._stamp = stamp
            log.warning("the keys stay as they were: %s", exc)

    def _load(self) -> None:
        stamp = self._stamp_now()
        try:
            self._allowed = Allowed.parse(read_private(self._file), self._file)
        except FileNotFoundError:
            raise ConfigError(
                f"{self._file} no longer exists; `jobrunner keys rotate` creates new keys"
            ) from None
        self._index(stamp)

    def _save(self) -> None:
        self._allowed.invitations = self.invitations()
        write_private(self._file, self._allowed.to_text())
        self._index(self._stamp_now())

    def _index(self, stamp: tuple[int, int] | None) -> None:
        self._stamp = stamp
        before = self._principals
        self._principals = {i.key: Principal(i.key, "", INVITED) for i in self._allowed.invitations}
        for member in self._allowed.members:
            self._principals[member.key] = Principal(member.key, member.name, member.role)
        self._gone += sorted(before.keys() - self._principals.keys())

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            state = self._file.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino

    def _unused(self, name: str) -> str:
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:MAX_NAME_LENGTH] or "unnamed"
        return unused_name(name, {member.name for member in self._allowed.members})


def usable(invitation: OpenInvitation) -> bool:
    return invitation.uses > 0 and time.time() < invitation.until


def default_folder() -> Path:
    """Return the folder of the keys of this user's coordinator."""
    return Path(os.environ.get("JOBRUNNER_KEYS") or config_folder() / "coordinator")


def has_keys(folder: Path) -> bool:
    return (folder / "server.json").exists()


def check_keys(folder: Path) -> None:
    """Raise ConfigError if no coordinator has keys in this folder."""
    if not has_keys(folder):
        raise ConfigError(
            f"there are no keys of a coordinator in {folder}. Run `jobrunner keys` as the coordinator's user on its"
            " host. `jobrunner coordinator start` creates the keys; --keys FOLDER or JOBRUNNER_KEYS names their folder"
        )


def require(folder: Path) -> Keyring:
    """Return the keys in this folder; raise ConfigError if no coordinator has keys there."""
    check_keys(folder)
    return open_keyring(folder)


def local_identity(folder: Path, role: str) -> Identity | None:
    """Return the identity of the folder's own user; None if there is none."""
    path = folder / f"{role}.json"
    return read(path) if path.exists() else None


def open_keyring(folder: Path) -> Keyring:
    """Return the keys in this folder, and create them if there are none; raise ConfigError."""
    path = folder / "server.json"
    with locked(folder):
        try:
            server = pair_of(json.loads(read_private(path))["secret"])
        except FileNotFoundError:
            server = _make(folder)
        except (ValueError, TypeError, KeyError) as exc:
            raise ConfigError(f"{path} is damaged ({exc}); `jobrunner keys rotate` creates new keys") from exc
    return Keyring(folder, server)


def rotate(folder: Path) -> Keyring:
    """Create new keys for the coordinator and the folder's user.

    Everybody else is unknown then, and must join again.
    """
    with locked(folder):
        server = _make(folder)
    return Keyring(folder, server)


def _make(folder: Path) -> KeyPair:
    """Create the files; the one with the coordinator's own pair comes last, because it completes the folder."""
    server, allowed = new_pair(), Allowed()
    for role in LOCAL_ROLES:
        pair = new_pair()
        name = f"local-{role}"
        identity = Identity(name, role, server.public, pair.public, pair.secret)
        write_private(folder / f"{role}.json", identity.to_text())
        allowed.members.append(Member(name, role, pair.public, time.time()))
    write_private(folder / "allowed.json", allowed.to_text())
    write_private(folder / "server.json", json.dumps(server._asdict(), indent=1) + "\n")
    return server
