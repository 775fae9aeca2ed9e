"""The line that lets a host join: where the coordinator is, its public key, and a secret that is soon worth nothing.

    jobrunner://10.0.0.5:7077/SERVERKEY.SECRET

The secret is that of a key pair of its own: the coordinator knows the public half, so whoever holds the line can prove
it in the handshake, and the secret itself never travels and is written nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

from jobrunner.config import JOIN_SCHEME
from jobrunner.errors import ConfigError
from jobrunner.transport.curve import Credentials, from_text, pair_of


class Invitation(NamedTuple):
    address: str
    server: str
    secret: str

    def to_line(self) -> str:
        return f"{JOIN_SCHEME}{self.address.removeprefix('tcp://')}/{self.server}.{self.secret}"

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.server, pair_of(self.secret))


def parse_line(text: str) -> Invitation:
    """Raises ConfigError for what is not such a line, without showing what may be a secret."""
    place, slash, keys = text.strip().removeprefix(JOIN_SCHEME).partition("/")
    server, dot, secret = keys.partition(".")
    if not (text.strip().startswith(JOIN_SCHEME) and place and slash and dot):
        raise ConfigError(
            "this is not a line to join with: it must look like jobrunner://HOST:PORT/KEY.SECRET, as"
            " `jobrunner keys invite` prints it"
        )
    try:
        from_text(server)
        from_text(secret)
    except ConfigError as exc:
        raise ConfigError("the line to join with was cut or changed; paste it whole") from exc
    return Invitation(f"tcp://{place}", server, secret)
