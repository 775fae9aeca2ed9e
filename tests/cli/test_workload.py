from __future__ import annotations

import pytest

from jobrunner.cli.workload import NUMBERS, pi, scaled_numbers


@pytest.mark.parametrize(
    ("factors", "value"),
    [
        (0, 2.0),
        (12, 3.02317019200136),
        (1000, 3.140023818600586),
        (1234, 3.1403210113038207),
        (123456, 3.1415799301866607),
        (12345678, 3.1415925263536626),
    ],
)
def test_pi_is_exact_to_the_last_bit(factors: int, value: float) -> None:
    assert pi(factors) == value


def test_numbers_are_scaled_but_never_to_nothing() -> None:
    assert scaled_numbers(1.0) == list(NUMBERS)
    assert scaled_numbers(2.0)[1] == 2716099
    assert scaled_numbers(1e9) == [1] * len(NUMBERS)
