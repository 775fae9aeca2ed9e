"""Amounts of resources as the scheduler counts them: integer numbers of millionths; pure.

Users and messages say amounts as floats, which do not add up: 0.1 + 0.2 + 0.3, taken from 1 and given back one by one,
leave less than 1. So an amount becomes an integer where it enters the coordinator's core, by the decimal string that
it is written with, and all sums are exact from there on. What has more than six decimal places is rounded down, so that
n calls that ask for a float of 1/n each fit into 1, whatever n; anything that is asked for is a millionth at the least.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

Resources: TypeAlias = "tuple[tuple[str, float], ...]"
"""Pairs of a name and an amount, as users say them."""

Requirements: TypeAlias = "tuple[tuple[str, int], ...]"
"""What a task needs of its worker, exactly: each name once. A function that goes by value needs a version of Python
too, see `placement.python_requirement`."""

UNIT = 1_000_000
"""The amount 1."""


def units(amount: float) -> int:
    """An amount, exactly."""
    # Not by `decimal`: a program may have set its precision for all threads.
    whole = int(Fraction(repr(float(amount))) * UNIT)
    return max(whole, 1) if amount > 0 else 0


def exact(resources: Iterable[tuple[str, float]]) -> dict[str, int]:
    """The sums of these amounts, by name."""
    sums: dict[str, int] = {}
    for name, amount in resources:
        sums[name] = sums.get(name, 0) + units(amount)
    return sums


def requirements_of(resources: Resources) -> Requirements:
    """What a task with these resources needs; the same for all orders in which they are said."""
    return tuple(sorted((name, amount) for name, amount in exact(resources).items() if amount))


def shown(requirements: Requirements) -> str:
    """As people write them: "gpu=0.5, licence=1, Python 3.11"."""
    return ", ".join(
        name if name.startswith((PYTHON, MODULE)) else f"{name}={amount / UNIT:g}"
        for name, amount in requirements
    )


PYTHON = "Python "
"""Begins the name of what a worker has that runs that version of Python."""


def python_requirement(version: str) -> tuple[str, int]:
    """What a worker of that version has without end, and others do not have at all."""
    return PYTHON + version, UNIT


MODULE = "module "
"""Begins the name of what a worker has that can import a module, see `missing`."""


def module_requirement(name: str) -> tuple[str, int]:
    """What every worker has until it says that it does not."""
    return MODULE + name, UNIT
