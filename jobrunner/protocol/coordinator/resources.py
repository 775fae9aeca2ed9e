"""Amounts of resources as the scheduler counts them: integer numbers of millionths. Pure.

Users and messages give amounts as floats, whose sums are not exact: if 0.1 + 0.2 + 0.3 are taken from 1 and given back
one by one, less than 1 is left. So an amount becomes an integer where it enters the coordinator's core, by its decimal
string, and all sums are exact from there on. Amounts with more than six decimal places are rounded down, so that n
calls that require a float of 1/n each fit into 1 for any n. Every required amount is at least a millionth.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

Resources: TypeAlias = "tuple[tuple[str, float], ...]"
"""Pairs of a name and an amount, as users give them."""

Requirements: TypeAlias = "tuple[tuple[str, int], ...]"
"""The exact requirements of a task; each name occurs once.

A function by value also requires a Python version, see `python_requirement`.
"""

UNIT = 1_000_000
"""The amount 1."""


def units(amount: float) -> int:
    """Return the exact value of an amount."""
    # `decimal` is not used, because a program may have set its precision for all threads.
    whole = int(Fraction(repr(float(amount))) * UNIT)
    return max(whole, 1) if amount > 0 else 0


def exact(resources: Iterable[tuple[str, float]]) -> dict[str, int]:
    """Return the sums of these amounts by name."""
    sums: dict[str, int] = {}
    for name, amount in resources:
        sums[name] = sums.get(name, 0) + units(amount)
    return sums


def requirements_of(resources: Resources) -> Requirements:
    """Return the requirements of a task with these resources, which do not depend on their order."""
    return tuple(sorted((name, amount) for name, amount in exact(resources).items() if amount))


def shown(requirements: Requirements) -> str:
    """Return the requirements as people write them: "gpu=0.5, licence=1, Python 3.11"."""
    return ", ".join(
        name if name.startswith((PYTHON, MODULE)) else f"{name}={amount / UNIT:g}"
        for name, amount in requirements
    )


PYTHON = "Python "
"""The prefix of a requirement that workers of one version of Python meet."""


def python_requirement(version: str) -> tuple[str, int]:
    """Return the requirement that only workers of this Python version meet, and meet without limit."""
    return PYTHON + version, UNIT


MODULE = "module "
"""The prefix of a requirement that a worker meets if it can import the module, see `missing_modules`."""


def module_requirement(name: str) -> tuple[str, int]:
    """Return the requirement that every worker meets until it says that it lacks the module."""
    return MODULE + name, UNIT
