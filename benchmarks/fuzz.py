"""Messages that no jobrunner would send: is each one refused, or taken without harm?

    python benchmarks/fuzz.py                              # a million messages, about ten minutes
    python benchmarks/fuzz.py --messages 20000 --seed 7
    python benchmarks/fuzz.py --seed 7 --only 12           # the thirteenth round of that run again, alone

Valid messages of every type are damaged (bytes flipped, cut, spliced; frames doubled and dropped; values replaced by
those of other types and sizes; counts that promise more than there is) or left as they are, and decoded. What can be
decoded is given to a coordinator, a client and a worker in the middle of their work, most of it under the next number
of an open session: outcomes of tasks that nobody has, attempts of the future, messages of another role. The law:

- decoding raises ProtocolError and nothing else;
- a core raises nothing, its invariants hold, and whatever it answers can be encoded and decoded again;
- memory stays flat.

A round is a thousand messages and fresh cores. Exit code 1, and the message, where the law is broken. Needs psutil.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
import traceback
from collections import Counter

import psutil
from fuzzing.author import Author
from fuzzing.vandal import Frames, Vandal
from fuzzing.victims import ClientVictim, CoordinatorVictim, Victim, WorkerVictim

from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire.codec import VERSION, decode, encode

ROUND = 1000
"""Messages per set of cores."""


class LawBroken(Exception):
    """What was sent, to whom, and what happened."""


class Round:
    """A thousand messages, the same for the same seed."""

    def __init__(self, seed: str, every: int = 20) -> None:
        self.rng = random.Random(seed)
        self.every = every
        """Messages between two looks at the invariants."""
        self.author = Author(self.rng)
        self.vandal = Vandal(self.rng)
        self.kinds: list[type[Victim]] = [CoordinatorVictim, ClientVictim, WorkerVictim]
        self.victims = [kind(self.author) for kind in self.kinds]
        self.taken: Counter[str] = Counter()
        """What was done with the messages."""

    def run(self, messages: int = ROUND) -> None:
        for number in range(messages):
            frames: Frames = encode(self.author.envelope())
            if self.rng.random() < 0.7:
                frames = self.vandal.damaged(frames)
            self.taken["messages"] += 1
            try:
                envelope = decode(frames)
            except ProtocolError:
                self.taken["refused"] += 1
                continue
            except BaseException as exc:
                raise LawBroken(f"message {number}, decode: {describe(frames)}") from exc
            self.taken["decoded"] += 1
            self.taken[type(envelope.message).__name__] += 1
            for index, victim in enumerate(self.victims):
                try:
                    victim.attack(envelope)
                    if number % self.every == 0:
                        victim.turn()
                        victim.core.check_invariants()
                    if victim.ended:
                        self.victims[index] = self.kinds[index](self.author)
                        self.taken["cores that ended"] += 1
                except BaseException as exc:
                    who = type(victim).__name__
                    raise LawBroken(f"message {number}, {who}: {envelope!r:.1500}") from exc


def describe(frames: Frames) -> str:
    return f"{[bytes(frame)[:200] for frame in frames]} (version {VERSION})"


def flat(samples: list[float]) -> bool:
    """Whether the last quarter is no higher than the second one, but for a tenth and 10 MB."""
    quarter = len(samples) // 4
    if quarter < 3:
        return True
    before, after = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    return after <= 1.1 * before + 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int, help="a round to run alone")
    arguments = parser.parse_args()
    rounds = range(max(1, arguments.messages // ROUND))
    if arguments.only is not None:
        rounds = range(arguments.only, arguments.only + 1)
    total: Counter[str] = Counter()
    memory: list[float] = []
    process = psutil.Process()
    began = time.monotonic()
    for number in rounds:
        round_ = Round(f"{arguments.seed}/{number}")
        try:
            round_.run()
        except LawBroken as exc:
            traceback.print_exception(exc)
            print(f"\nagain: python benchmarks/fuzz.py --seed {arguments.seed} --only {number}")
            return 1
        total += round_.taken
        if number % 5 == 4:
            del round_
            gc.collect()
            memory.append(process.memory_info().rss / 1e6)
        if number % 50 == 49:
            rate = total["messages"] / (time.monotonic() - began)
            print(f"{total['messages']:,} messages, {rate:,.0f} a second, {memory[-1]:.0f} MB", flush=True)
    for name, count in total.most_common():
        print(f"{name:20} {count:12,}")
    if memory:
        print(f"memory, MB: first {memory[0]:.0f}, highest {max(memory):.0f}, last {memory[-1]:.0f}")
    if not flat(memory):
        print("memory has grown")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
