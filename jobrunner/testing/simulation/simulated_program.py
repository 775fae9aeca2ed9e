"""The clients' programs, which submit in bursts, cancel, ask, and wait."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from jobrunner.protocol.bundles import pack_calls, place_of_call
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, call_id, client_of
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk
from jobrunner.protocol.worker.function_store import LARGE_DEFINITION
from jobrunner.testing.simulation.laws import names_of
from jobrunner.testing.simulation.nested import with_nest
from jobrunner.testing.simulation.scenario import MODULES
from jobrunner.testing.simulation.simulated_calls import (
    CRASH,
    RAISE,
    RETURN,
    SIGINT,
    SIGKILL,
    SIGTERM,
    Call,
    flat,
    read_call,
)

if TYPE_CHECKING:
    from jobrunner.testing.simulation.nodes import ClientNode
    from jobrunner.testing.simulation.world import World

ENDLESS = 1e6
"""Duration in seconds of a call that ends only when it is cancelled."""

QUERIES = ("status", "workers", "tasks", "task", "nonsense")


def part(number: int) -> m.FunctionDef:
    """Return a part of a function; one of three is large."""
    blob = b"part %d" % number
    return m.FunctionDef(b"part %d" % number, "a part", (blob, MUCH) if number % 3 == 0 else blob)


MUCH = bytes(LARGE_DEFINITION)


def parts_of(number: int) -> tuple[m.FunctionDef, ...]:
    """Return the parts of a function: many share one, some have two, some none, and some one of their own."""
    return ((part(0),), (part(0), part(1)), (), (part(number + 2),))[number % 4]


def function(number: int, needy: bool = False, parts: tuple[m.FunctionDef, ...] = ()) -> m.FunctionDef:
    """Return a function; if `needy`, two of three require a module."""
    modules = ((), *((module,) for module in MODULES))[number % 3] if needy else ()
    keys = tuple([each.key for each in parts])
    return m.FunctionDef(
        b"function %d" % number, f"f{number}", b"blob of %d" % number, "", modules, parts=keys
    )


INITIALIZER = m.FunctionDef(b"setup", "setup", b"blob of setup")
INITIALIZER_WITH_PART = INITIALIZER._replace(parts=(part(0).key,))
SHIPMENT = m.FunctionDef(b"shipment", "shipment", b"blob of shipment", ships=MODULES[:1])


def start_program(world: World, client: ClientNode, tasks: int) -> None:
    """Plan all that this client will do."""
    rng, scenario = world.rng, world.scenario
    kind = rng.choice(("tiny", "mixed", "long", "long"))
    left = tasks
    while left > 0:
        count = min(left, rng.choice((1, 3, 10, 40)))
        left -= count
        at = world.now + rng.uniform(0, scenario.faults_until * 0.8)
        world.at(at, lambda count=count: submit_burst(world, client, count, kind))  # type: ignore[misc]
    for _ in range(rng.randint(0, 3)):
        at = world.now + rng.uniform(0, scenario.faults_until)
        query = rng.choice(QUERIES)
        argument = f"{client.id}-1" if query == "task" else ""
        world.at(at, lambda q=query, a=argument: client.ask(q, a) if client.alive else None)  # type: ignore[misc]


def submit_burst(world: World, client: ClientNode, count: int, kind: str) -> None:
    if not client.alive or client.id in world.truth.abandoned:
        return
    rng = world.rng
    specs: list[m.TaskSpec] = []
    functions: dict[bytes, m.FunctionDef] = {}
    names: list[TaskId] = []
    endless: list[TaskId] = []
    epoch = draw_epoch(world, client)
    for _ in range(count):
        task = client.new_id()
        if world.scenario.bundles and rng.random() < 0.15:
            spec = draw_bundle(world, task, functions, names, endless)
        else:
            spec = with_nest(world, draw_task(world, client, kind, task, functions, names))
            names.append(task)
            if read_call(spec.body.payload).seconds[0] == ENDLESS:
                endless.append(task)
        if epoch is not None:
            functions[epoch.key] = epoch
            spec = spec._replace(body=spec.body._replace(initializer=epoch.key))
        specs.append(spec)
    client.submit(specs, list(functions.values()))
    if world.scenario.dependencies and rng.random() < 0.3:
        plan_watch(world, client)
    plan_cancels(world, client, names, endless)
    plan_strangers_cancel(world, client, names)
    bundles = [spec.id for spec in specs if spec.id in world.truth.bundles]
    if bundles and rng.random() < 0.2:
        at = world.now + rng.choice((0.0, 0.001, 0.1)) * rng.random()
        world.at(at, lambda: cancel(client, bundles, False))


def draw_epoch(world: World, client: ClientNode) -> m.FunctionDef | None:
    """Return the initializer of calls of a program that has reloaded modules, or None."""
    if world.scenario.epochs and world.rng.random() < 0.3:
        client.epoch += 1
    if not client.epoch:
        return None
    return m.FunctionDef(
        b"epoch %d of %s" % (client.epoch, client.id.encode()), "epoch", b"blob of epoch", epoch=client.epoch
    )


def draw_task(
    world: World,
    client: ClientNode,
    kind: str,
    task: TaskId,
    functions: dict[bytes, m.FunctionDef],
    names: list[TaskId],
) -> m.TaskSpec:
    """Draw a plain call or a chunk; `names` are those of its burst on which it may depend."""
    call, range_ = draw_call(world, kind)
    if range_ is not None:
        world.truth.chunks.add(task)
    key, initializer = draw_functions(world, functions)
    options = draw_options(world, call)
    depends_on = draw_dependencies(world, client, names) if world.scenario.dependencies else ()
    task_kind = SINGLE_CALL if range_ is None else Chunk(*range_)
    body = m.CallBody(key, call.payload(), task_kind, options, initializer)
    return m.TaskSpec(task, body, depends_on)


def draw_functions(
    world: World, functions: dict[bytes, m.FunctionDef]
) -> tuple[m.FunctionKey, m.FunctionKey | None]:
    """Draw a function and, seldom, an initializer; both are added to `functions`."""
    rng = world.rng
    number = rng.randrange(world.scenario.functions) if world.scenario.functions else world.serial()
    parts = parts_of(number)
    definition = function(number, bool(world.scenario.missing_modules), parts)
    functions.update((each.key, each) for each in (*parts, definition))
    initializer = None
    if rng.random() < 0.05:
        functions[part(0).key] = part(0)
        initializer = functions[INITIALIZER.key] = INITIALIZER_WITH_PART
    elif world.scenario.missing_modules and rng.random() < 0.2:
        initializer = functions[SHIPMENT.key] = SHIPMENT
    return definition.key, None if initializer is None else initializer.key


def draw_bundle(
    world: World,
    task: TaskId,
    functions: dict[bytes, m.FunctionDef],
    names: list[TaskId],
    endless: list[TaskId],
) -> m.TaskSpec:
    """Draw calls that travel together.

    Their ids are added to `names`, and those of calls that never end to `endless`, too.
    """
    rng = world.rng
    calls = [draw_bundled_call(world) for _ in range(rng.randint(1, 12))]
    for index, call in enumerate(calls):
        names.append(call_id(task, index))
        if call.seconds[0] == ENDLESS:
            endless.append(names[-1])
    key, initializer = draw_functions(world, functions)
    options = m.TaskOptions(priority=rng.choice((0, 0, 0, 1)))
    payload = pack_calls([flat(call.payload()) for call in calls])
    return m.TaskSpec(task, m.CallBody(key, payload, Bundle(len(calls)), options, initializer))


def draw_bundled_call(world: World) -> Call:
    """Draw a call that is usually short, as expected."""
    rng = world.rng
    seconds = float(10 ** rng.uniform(-5, -3))
    draw = rng.random()
    ending = RETURN
    if draw < 0.01:
        seconds = ENDLESS
    elif draw < 0.05:
        seconds = rng.uniform(0.01, 3.0)
    elif draw < 0.08:
        ending = CRASH
    elif draw < 0.15:
        ending = RAISE
    bad_runs = rng.choice((1, 2, 1_000_000))
    stopped_by = rng.choice((SIGINT, SIGINT, SIGTERM, SIGKILL))
    blocks = world.scenario.blocking and rng.random() < 0.1
    prints = rng.random() < 0.05
    return Call((seconds,), ending, 0, bad_runs, stopped_by, prints, blocks, holds=draw_holds(world, blocks))


def draw_holds(world: World, blocks: bool) -> bool:
    return world.rng_of_holds.random() < world.scenario.holds and not blocks


def draw_dependencies(world: World, client: ClientNode, burst: list[TaskId]) -> tuple[TaskId, ...]:
    """Draw earlier tasks on which to depend, mostly of this client, of this burst or an earlier one."""
    rng = world.rng
    if rng.random() < 0.6:
        return ()
    chunks = world.truth.chunks
    known = [task for task in world.truth.expected if not is_part(task, chunks)]
    burst = [task for task in burst if task not in chunks]
    own = [task for task in known if client_of(task) == client.id]
    sources = [burst, own]
    if rng.random() < 0.1:
        sources.append(known)
    candidates = rng.choice([source for source in sources if source] or [[]])
    count = min(len(candidates), rng.choice((1, 1, 2, 4)))
    return tuple(rng.sample(candidates, count))


def is_part(task: TaskId, chunks: set[TaskId]) -> bool:
    """Return whether it is the part of one of these chunks that continues."""
    return any(name in chunks for name in names_of(task))


def plan_watch(world: World, client: ClientNode) -> None:
    """Let the client ask, some time, how somebody's task ends."""
    at = world.now + world.rng.uniform(0, world.scenario.faults_until)

    def watch() -> None:
        chunks = world.truth.chunks
        known = [task for task in world.truth.expected if not is_part(task, chunks)]
        if client.alive and client.id not in world.truth.abandoned and known:
            client.watch(world.rng.choice(known))

    world.at(at, watch)


def plan_cancels(world: World, client: ClientNode, tasks: list[TaskId], endless: list[TaskId]) -> None:
    rng = world.rng
    for task in endless:
        at = world.now + rng.uniform(0.0, 8.0)
        world.at(at, lambda task=task: cancel(client, [task], True))  # type: ignore[misc]
    if rng.random() < 0.4:
        chosen = [task for task in tasks if rng.random() < 0.3]
        running = rng.random() < 0.5
        delay = rng.choice((0.0, 0.001, 0.1, 2.0)) * rng.random()
        world.at(world.now + delay, lambda: cancel(client, chosen, running))


def plan_strangers_cancel(world: World, client: ClientNode, tasks: list[TaskId]) -> None:
    """Let another client, which was given the ids, cancel calls of bundles, perhaps too late or in vain."""
    rng = world.rng_of_strangers
    calls = [task for task in tasks if place_of_call(task) is not None]
    if not calls or rng.random() < 0.5:
        return
    call, only = rng.choice(calls), rng.choice(("", " queued"))

    def ask() -> None:
        strangers = [node for node in world.clients if node is not client and node.alive]
        if strangers and world.truth.expected[call].outcome is None:
            world.truth.cancel_asked(call, False)
            rng.choice(strangers).ask("cancel", call + only)

    world.at(world.now + rng.choice((0.0, 0.001, 0.1, 2.0)) * rng.random(), ask)


def cancel(client: ClientNode, tasks: list[TaskId], running: bool) -> None:
    if client.alive:
        client.cancel(tasks, running)


def draw_seconds(rng: random.Random, kind: str) -> float:
    draw = rng.random()
    if kind == "tiny" or draw < 0.6:
        return float(10 ** rng.uniform(-5, -3))
    if draw < 0.9:
        return float(10 ** rng.uniform(-3, -0.5))
    if kind == "mixed":
        return rng.uniform(0.3, 2.0)
    return rng.uniform(1.0, 10.0)


def draw_call(world: World, kind: str) -> tuple[Call, tuple[int, int] | None]:
    rng = world.rng
    ending, guilty, bad_runs = RETURN, 0, 1_000_000
    span = None
    seconds: tuple[float, ...] = (draw_seconds(rng, kind),)
    if rng.random() < 0.15:
        length = rng.randint(1, 8)
        seconds = tuple(draw_seconds(rng, kind) / 4 for _ in range(length))
        start = rng.randrange(length)
        span = (start, rng.randint(start + 1, length))
        guilty = rng.randrange(*span)
    draw = rng.random()
    if draw < 0.02:
        seconds, span = (ENDLESS,), None
    elif draw < 0.08:
        ending = CRASH
    elif draw < 0.14 and span is None:
        ending = RAISE
    if ending != RETURN and rng.random() < 0.5:
        bad_runs = rng.randint(1, 3)
    stopped_by = rng.choice((SIGINT, SIGINT, SIGINT, SIGTERM, SIGKILL))
    blocks = world.scenario.blocking and rng.random() < 0.2
    prints, big = rng.random() < 0.1, rng.random() < 0.05
    holds = draw_holds(world, blocks)
    return Call(seconds, ending, guilty, bad_runs, stopped_by, prints, blocks, big, holds), span


def draw_options(world: World, call: Call) -> m.TaskOptions:
    rng = world.rng
    if rng.random() < 0.7:
        return m.DEFAULT_OPTIONS
    resources: tuple[tuple[str, float], ...] = ()
    if world.scenario.resources and rng.random() < 0.3:
        amount = (1.0, 0.1, 0.2, 0.3)[len(world.truth.expected) % 4]
        resources = ((rng.choice(list(world.scenario.resources)), amount),)
    timeout = None
    if rng.random() < 0.3:
        timeout = rng.choice((0.01, 0.5, 3.0))
    retries = rng.choice((0, 0, 1, 2))
    once = retries == 0 and rng.random() < 0.3
    # One that never ends would have to be cancelled by its client, which may be gone.
    detach = world.scenario.detached and call.seconds[0] != ENDLESS and rng.random() < 0.5
    return m.TaskOptions(None, rng.randint(-1, 1), retries, timeout, resources, once, detach=detach)
