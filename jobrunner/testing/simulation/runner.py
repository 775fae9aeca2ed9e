"""Seeds: they are run, and failures are told in a form that can be read and repeated."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from jobrunner.testing.simulation.scenario import draw_scenario
from jobrunner.testing.simulation.world import TRACE_LENGTH, World


@dataclass(frozen=True)
class Failure:
    """A seed that broke a law, with its history."""

    seed: int
    text: str


def run_seed(seed: int, *, steps: int = TRACE_LENGTH, profile: str | None = None) -> Failure | None:
    """Run one seed; return None if all laws held. `steps` limits the lines of the history; `profile` forces one."""
    scenario = None if profile is None else draw_scenario(random.Random(seed), profile)
    world = World(seed, scenario, trace_length=steps)
    try:
        world.run()
    except Exception as exc:
        where = traceback.extract_tb(exc.__traceback__)[-1]
        what = f"{type(exc).__name__}: {exc} ({where.filename}:{where.lineno})"
        text = (
            f"{what}\nscenario: {world.scenario}\nthe last steps of {world.steps}:\n{world.trace()}\n{what}"
        )
        return Failure(seed, text)
    return None


def run_seeds(first: int, count: int, *, on_progress: Callable[[int], None] | None = None) -> list[Failure]:
    """Run `count` seeds from `first`; `on_progress` is called after each with the number done."""
    failures = []
    for done, seed in enumerate(range(first, first + count), 1):
        failure = run_seed(seed)
        if failure is not None:
            failures.append(failure)
        if on_progress is not None:
            on_progress(done)
    return failures
