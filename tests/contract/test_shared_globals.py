"""Random programs whose globals hold each other: each call finds them as they were when it was submitted."""

from __future__ import annotations

import pytest

PROGRAM = """
import random
import sys

from programs import open_executor

NAMES = [f"g{i}" for i in range(8)]
g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = None


class Thing:
    held = None  # by all things, unless one has its own


def shape(names):
    '''What these globals hold, as a text; one that is met inside of another one goes by its name.'''
    roots = {}
    for name in names:
        value = globals()[name]
        if isinstance(value, (list, dict, Thing)):
            roots.setdefault(id(value), name)
    left = [5000]

    def walk(value, depth):
        left[0] -= 1
        if left[0] < 0 or depth > 6:
            return "..."
        if depth and id(value) in roots:
            return roots[id(value)]
        if isinstance(value, (list, tuple)):
            return type(value).__name__, [walk(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return "dict", [(key, walk(item, depth + 1)) for key, item in value.items()]
        if isinstance(value, Thing):
            return "thing", walk(value.held, depth + 1)
        return ("function", walk(value(), depth + 1)) if callable(value) else value

    found = []
    for name in names:
        value = globals()[name]
        root = roots.get(id(value), name)
        found.append(walk(value, 0) if root == name else root)
    return repr(found)


def reader(names):
    '''A function whose code names these globals, so that they travel with it.'''
    name = "read_" + "_".join(names)
    exec(f"def {name}():\\n    ({', '.join(names)},)\\n    return shape({names!r})", globals())
    return globals()[name]


def drawn(rng, depth=0):
    kind = rng.choice(["global"] * 6 + ["list", "list", "dict", "dict", "thing", "tuple", "function", "number"])
    if kind == "global" and depth < 4:
        return globals()[rng.choice(NAMES)]
    if depth == 4 or kind in ("global", "number"):
        return rng.randint(0, 9)
    if kind == "list":
        return [drawn(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == "dict":
        return {key: drawn(rng, depth + 1) for key in range(rng.randint(0, 3))}
    held = drawn(rng, depth + 1)
    if kind == "thing":
        thing = Thing()
        thing.held = held
        return thing
    return (held, 1) if kind == "tuple" else lambda it=held: it


def change(rng):
    name = rng.choice(NAMES)
    value = globals()[name]
    if rng.random() < 0.1:
        Thing.held = drawn(rng)
    elif rng.random() < 0.4 or not isinstance(value, (list, dict, Thing)):
        globals()[name] = drawn(rng)
    elif isinstance(value, dict):
        value[rng.randint(0, 3)] = drawn(rng)
    elif isinstance(value, Thing):
        value.held = drawn(rng)
    elif len(value) < 5:
        value.append(drawn(rng))
    else:
        value.pop()


rng = random.Random(1)
readers = [reader(sorted(rng.sample(NAMES, count))) for count in (1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 8)]
with open_executor(max_workers=1) as executor:
    for seed in map(int, sys.argv[1:]):
        rng = random.Random(seed)
        Thing.held = None
        globals().update(dict.fromkeys(NAMES))
        for step in range(60):
            for _ in range(rng.randint(0, 2)):
                change(rng)
            if len(shape(NAMES)) > 4000:
                Thing.held = None
                globals().update(dict.fromkeys(NAMES))
            read = rng.choice(readers)
            there, here = executor.submit(read).result(60), read()
            assert there == here, f"seed {seed}, step {step}, {read.__name__}: {here} is {there} there"
"""


@pytest.mark.apart
@pytest.mark.parametrize("first", [0, 400])
def test_globals_that_hold_each_other_are_as_they_were_at_submit(run_program, first):
    run_program(PROGRAM, *map(str, range(first, first + 8)))
