"""CurveZMQ keys: pairs of 32 bytes, written as 43 characters that need no quoting anywhere (base64url).

CurveZMQ (RFC 26 of ZeroMQ) encrypts a connection, and proves to each end that the other holds the secret of its key.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import NamedTuple

import zmq
from zmq.utils import z85

from jobrunner.errors import ConfigError

KEY_BYTES = 32


class KeyPair(NamedTuple):
    """A public and a secret CURVE key, each as 43 characters."""

    public: str
    secret: str


class Credentials(NamedTuple):
    """The keys of one end of a connection: its own pair, and the public key of the coordinator."""

    server: str
    pair: KeyPair

    @property
    def key(self) -> str:
        """The public key, written exactly as the other end's transport writes it; a file may write it differently."""
        return to_text(from_text(self.pair.public))


def new_pair() -> KeyPair:
    """Return a new key pair; raise ConfigError if ZeroMQ was built without CURVE."""
    return pair_of(to_text(os.urandom(KEY_BYTES)))


def pair_of(secret: str) -> KeyPair:
    """Return the pair that belongs to a secret, which may be any 32 bytes; raise ConfigError for other lengths."""
    if not zmq.has("curve"):
        raise ConfigError(
            "this build of ZeroMQ has no encryption; `pip install pyzmq` installs one that has (or use --insecure)"
        )
    return KeyPair(from_z85(zmq.curve_public(to_z85(secret))), secret)


def to_text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """Return the bytes of a key; raise ConfigError if the text is not a key."""
    try:
        key = base64.urlsafe_b64decode(text + "=")
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{text[:6]}... is not a key; a key has {KEY_BYTES} bytes, written as 43 letters, digits, - and _"
        )
    return key


def to_z85(text: str) -> bytes:
    """Return a key in the Z85 encoding, which ZeroMQ uses."""
    return z85.encode(from_text(text))


def from_z85(key: bytes) -> str:
    return to_text(z85.decode(key))
