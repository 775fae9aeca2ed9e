"""A user's identity in a cluster: a key pair, its role, and the cluster that knows it.

Each identity is a file of mode 0600 in `keys` below the user's config directory, or a string of the same form in an
environment variable.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jobrunner.config import config_folder
from jobrunner.errors import ConfigError
from jobrunner.keys.private_files import read_private, write_private
from jobrunner.protocol.wire.principals import ROLES
from jobrunner.transport.curve import Credentials, KeyPair, from_text

ADDRESSES_KEPT = 16
"""Maximum number of remembered addresses per cluster, because a coordinator on any free port has another address each
time."""


@dataclass(frozen=True)
class Identity:
    """An identity; `server` is the public key of the cluster, and `addresses` are those at which it was found."""

    name: str
    role: str
    server: str
    public: str
    secret: str
    addresses: tuple[str, ...] = ()

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.server, KeyPair(self.public, self.secret))

    def met_at(self, address: str) -> Identity:
        """Return the same identity with `address` as its latest address."""
        others = [known for known in self.addresses if known != address]
        return replace(self, addresses=(*others, address)[-ADDRESSES_KEPT:])

    def to_text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def parse(text: str, where: str) -> Identity:
    """Return the identity from its text, the reverse of `Identity.to_text`; raise a ConfigError that names `where`."""
    try:
        value = json.loads(text)
        identity = Identity(**{**value, "addresses": tuple(value.get("addresses", ()))})
        for key in (identity.server, identity.public, identity.secret):
            from_text(key)
    except (ValueError, TypeError, AttributeError) as exc:
        # Python's text about the arguments of a constructor does not help somebody who looks into the file.
        reason = f" ({exc})" if isinstance(exc, ValueError) else ""
        raise ConfigError(
            f"{where} does not contain a key of jobrunner{reason}; remove it, and join again"
        ) from exc
    if identity.role not in ROLES:
        raise ConfigError(f"{where}: there is no role {identity.role!r}; the roles are {', '.join(ROLES)}")
    return identity


def folder() -> Path:
    return config_folder() / "keys"


def path_of(identity: Identity) -> Path:
    return folder() / f"{identity.role}-{identity.server[:12]}.json"


def save(identity: Identity) -> Path:
    """Save the identity, and return its path; raise ConfigError if that fails."""
    path = path_of(identity)
    write_private(path, identity.to_text())
    return path


def read(path: Path) -> Identity:
    """Return the identity in a file; raise ConfigError, also if the file does not exist."""
    try:
        return parse(read_private(path), str(path))
    except FileNotFoundError:
        raise ConfigError(f"the key file {path} does not exist; check JOBRUNNER_IDENTITY") from None


def given(value: str) -> Identity:
    """Return the identity that a setting names by a path or by its content; raise ConfigError."""
    if value.lstrip().startswith("{"):
        return parse(value, "the text in JOBRUNNER_IDENTITY")
    return read(Path(value))


def known() -> list[Identity]:
    """Return this user's identities in the order of their files' names.

    Raise ConfigError for a file that cannot be used.
    """
    return [read(path) for path in sorted(folder().glob("*.json"))]
