"""`jobrunner sim`, hidden from users: the cluster's state machines under simulated faults, seed by seed."""

from __future__ import annotations

from typing import Annotated

import typer

from jobrunner.cli import text
from jobrunner.cli.output import console


def sim(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to run.")] = 200,
    first: Annotated[int, typer.Option("--first", help="The first of them.")] = 0,
    seed: Annotated[int | None, typer.Option("--seed", help="Replay this one, with all its steps.")] = None,
) -> None:
    """Run the deterministic simulation. Exit code 1 if an invariant breaks; the seed replays it."""
    from jobrunner.testing.simulation import run_seeds

    start, count = (first, seeds) if seed is None else (seed, 1)
    screen = console(stderr=True)
    with screen.status("") as spinner:
        failures = run_seeds(
            start, count, on_progress=lambda done: spinner.update(f"{done} of {count} seeds")
        )
    for failure in failures:
        # A history is hundreds of lines, so only a replay prints it in full.
        history = failure.text if seed is not None else failure.text.partition("\n")[0]
        print(f"seed {failure.seed}: {history}\nreplay: jobrunner sim --seed {failure.seed}")
    print(f"{text.count(count, 'seed')} from {start}: {len(failures)} failed")
    raise typer.Exit(1 if failures else 0)
