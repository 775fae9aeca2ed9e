"""The demo's function: pi by the Wallis product, pure arithmetic that keeps one CPU busy.

It lives in the package so that workers on any host find it by its import name.
"""

from __future__ import annotations

NUMBERS = (34567890, 5432198, 44444444, 22222222, 56565656, 43236653, 23545353, 32425262)
"""The number of factors of each call of the full demo."""


def pi(factors: int) -> float:
    """Return twice the product of the first `factors` factors of 2/1 * 2/3 * 4/3 * 4/5 * 6/5 * ...

    Each quotient is rounded before it is multiplied, so the result is the same to the last bit on every host.
    """
    product = 1.0
    numerator, denominator = 2, 1
    for index in range(factors):
        product *= numerator / denominator
        if index % 2:
            numerator += 2
        else:
            denominator += 2
    return 2 * product


def scaled_numbers(divisor: float) -> list[int]:
    """Return NUMBERS, each divided by `divisor` and at least 1."""
    return [max(1, round(number / divisor)) for number in NUMBERS]
