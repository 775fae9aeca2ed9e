"""Texts for people: durations, resources, and strings of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def plain(value: object) -> str:
    """Return `value` as text without control characters.

    Names and errors come from other users' programs, so an escape sequence in one must not reach a terminal.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(value: object) -> str:
    """Return `value` on one line, with its line breaks replaced by blanks."""
    return plain(" ".join(str(value).split()))


def duration(seconds: float | None) -> str:
    """Return a time in seconds as people write it: "3 ms", "4.2 s", "5 min 7 s", "2 h 5 min", "3 d 4 h"."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < MINUTE - 0.05:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def resources(amounts: Mapping[str, float]) -> str:
    """Return resources as text, like "gpu=2, licence=0.5"."""
    return plain(", ".join(f"{name}={amount:g}" for name, amount in sorted(amounts.items())))


def count(number: int, noun: str) -> str:
    """Return a number with its noun, like "1 task" or "2 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
