"""Damage to messages: to their bytes, their frames, and the values in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack

from fuzzing.author import IDS, KEYS, WORDS

Frames = list[Any]

ODD: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**53, 2**53 + 1, 10**18, 2**63, 2**64 - 1, -(2**63), 0.0, -1.0, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "x" * 257, "x" * 5000, "c-1", b"", b"key 0", bytes(300),
    (), ((),), ((((((),),),),),), (1, 2), {}, {"a": 1}, {"error": 1}, {"a": {"b": {"c": ()}}}, (None,) * 100,
]  # fmt: skip
CLAIMS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 700,
]


ALIKE: dict[type, list[Any]] = {
    int: [0, 1, 2, 3, 4, 5, 6, 7, 2**20, 2**31 - 1, 2**31, 2**53],
    float: [0.0, 1e-9, 1.0, 1e300],
    str: [*IDS, *WORDS],
    bytes: [b"", *KEYS, b"never sent"],
    bool: [False, True],
    type(None): [(0, 1), b"key 1", 1.0, {}],
}
"""Values that may pass for the one that they replace."""


DEEP = b"stands for what is too deep to be written by msgpack"
ODD += [DEEP, DEEP, {"error": "deep", "new": DEEP}]


def replaced(rng: random.Random, value: Any) -> Any:
    """The same with one value, somewhere in it, that is another."""
    if type(value) in ALIKE and rng.random() < 0.5:
        return rng.choice(ALIKE[type(value)])
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.85:
        items = list(value)
        match rng.random():
            case x if x < 0.85:
                at = rng.randrange(len(items))
                items[at] = replaced(rng, items[at])
            case x if x < 0.9:
                del items[rng.randrange(len(items))]
            case x if x < 0.95:
                items.append(rng.choice(items))
            case _:
                rng.shuffle(items)
        return items
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        return {**value, key: replaced(rng, value[key])}
    return rng.choice(ODD)


class Vandal:
    """Damages the frames of a message, once or a few times."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.before: Frames = [b""]
        """An earlier message, to be spliced with."""
        self.kinds: list[Callable[[Frames], Frames]] = [
            self.flip, self.cut, self.grow, self.splice, self.claim, self.double_frame, self.drop_frame,
            self.replace, self.replace, self.replace, self.replace, self.noise,
        ]  # fmt: skip

    def damaged(self, frames: Frames) -> Frames:
        original = frames
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            frames = self.rng.choice(self.kinds)(list(frames) or [b""])
        self.before = original
        return frames

    def flip(self, frames: Frames) -> Frames:
        at = self.rng.randrange(len(frames))
        frame = bytearray(frames[at]) or bytearray(1)
        for _ in range(self.rng.randrange(1, 4)):
            frame[self.rng.randrange(len(frame))] = self.rng.randrange(256)
        frames[at] = bytes(frame)
        return frames

    def cut(self, frames: Frames) -> Frames:
        frames[0] = frames[0][: self.rng.randrange(len(frames[0]) + 1)]
        return frames

    def grow(self, frames: Frames) -> Frames:
        frames[0] = bytes(frames[0]) + self.rng.randbytes(self.rng.randrange(1, 9))
        return frames

    def splice(self, frames: Frames) -> Frames:
        other = bytes(self.before[0])
        mine, theirs = self.rng.randrange(len(frames[0]) + 1), self.rng.randrange(len(other) + 1)
        return [bytes(frames[0][:mine]) + other[theirs:], *frames[1:]]

    def claim(self, frames: Frames) -> Frames:
        at = self.rng.randrange(len(frames[0]) + 1)
        claims = self.rng.choice(CLAIMS) * self.rng.choice((1, 1, 300))
        frames[0] = bytes(frames[0][:at]) + claims + bytes(frames[0][at:])
        return frames

    def double_frame(self, frames: Frames) -> Frames:
        at = self.rng.randrange(len(frames))
        frames.insert(at, frames[at])
        return frames

    def drop_frame(self, frames: Frames) -> Frames:
        del frames[self.rng.randrange(len(frames))]
        return frames

    def noise(self, frames: Frames) -> Frames:
        return [self.rng.randbytes(self.rng.randrange(60)) for _ in range(self.rng.randrange(3))]

    def replace(self, frames: Frames) -> Frames:
        try:
            head = msgpack.unpackb(frames[0], unicode_errors="surrogatepass", strict_map_key=False)
            start = 5 if self.rng.random() < 0.8 and len(head) > 5 else 1
            head = [*head[:start], *replaced(self.rng, head[start:] or [0])]
            packed: bytes = msgpack.packb(head, unicode_errors="surrogatepass")
            levels = self.rng.choice((20, 40, 600, 1000))
            return [packed.replace(msgpack.packb(DEEP), b"\x91" * levels + b"\xc0"), *frames[1:]]
        except (ValueError, TypeError, msgpack.UnpackException):
            return frames  # what has been damaged before has no values any more
