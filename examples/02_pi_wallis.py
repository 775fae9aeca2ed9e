"""Results as they come: pi by the Wallis product, with more and fewer factors.

    python examples/02_pi_wallis.py
    python examples/02_pi_wallis.py 1000 12 1234

The tasks are submitted in the order of the arguments; `as_completed` hands out the short ones first.
"""

from __future__ import annotations

import argparse

from jobrunner import Executor, as_completed

NUMBERS = (12345678, 1000, 123456, 12, 1234)


def pi(factors: int) -> float:
    """Twice the product of the first `factors` factors of 2/1 * 2/3 * 4/3 * 4/5 * ... (Wallis, 1655)."""
    product = 1.0
    numerator, denominator = 2, 1
    for index in range(factors):
        product *= numerator / denominator
        if index % 2:
            numerator += 2
        else:
            denominator += 2
    return 2 * product


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "factors", type=int, nargs="*", default=NUMBERS, help="how many factors, a task for each"
    )
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    options = parser.parse_args()

    with Executor(options.backend) as executor:
        futures = {executor.submit(pi, number): number for number in options.factors}
        for future in as_completed(futures):
            print(f"{futures[future]:>10} factors: {future.result()!r}", flush=True)


if __name__ == "__main__":
    main()
