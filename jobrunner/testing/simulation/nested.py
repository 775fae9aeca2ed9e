"""Calls of calls: those that a simulated task submits and awaits, and the laws about those that can never begin."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from jobrunner.protocol.coordinator.deadlocks import LOOK_EVERY, PATIENCE
from jobrunner.protocol.effects import ResolveTasks, SlotAwaits, SlotTask
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk, Kind
from jobrunner.testing.simulation.nodes import WORKERS, ClientNode
from jobrunner.testing.simulation.scenario import Scenario
from jobrunner.testing.simulation.simulated_calls import RETURN, Call, read_call
from jobrunner.testing.simulation.watch import Watch
from jobrunner.workers.waits import TOLD_AFTER

if TYPE_CHECKING:
    from jobrunner.testing.simulation.nodes import WorkerNode
    from jobrunner.testing.simulation.simulated_slots import SlotProcess
    from jobrunner.testing.simulation.world import World

CHILD = m.FunctionDef(b"function of nested calls", "nested", b"blob of nested calls")

SHARE = 0.15
"""Probability that a call makes calls of its own."""

MAX_DEPTH = 3

NEWS_TAKES = 1.0
"""Maximum time in seconds for news to reach the coordinator if nothing goes wrong."""


class Child(NamedTuple):
    """A call that a call makes."""

    call: Call
    kind: Kind
    resources: tuple[tuple[str, float], ...]
    depends_on_previous: bool
    """Whether it depends on the result of the one before it, if there is one."""
    nest: Nest | None


class Nest(NamedTuple):
    """The calls that a call makes in its middle."""

    children: tuple[Child, ...]
    waits: bool
    limit: float | None
    """Maximum time in seconds of its wait."""
    every: bool


def draw_nest(rng: random.Random, scenario: Scenario, resources: Iterable[str], depth: int = 1) -> Nest:
    """Draw the calls of a call.

    `resources` are those that the call, or one above it, holds; usually one of them is required again.
    """
    wanted = list(resources) or list(scenario.resources)
    children = []
    chunks = rng.random() < 0.2
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        amounts: tuple[tuple[str, float], ...] = ()
        if wanted and rng.random() < 0.7:
            name = rng.choice(wanted)
            amounts = ((name, min(scenario.resources[name], rng.choice((1.0, 1.0, 2.0, 0.3)))),)
        held = {*resources, *(name for name, _ in amounts)}
        deeper = depth < MAX_DEPTH and rng.random() < 0.4
        nest = draw_nest(rng, scenario, sorted(held), depth + 1) if deeper else None
        elements = rng.randint(1, 4) if chunks else 1
        seconds = tuple(float(10 ** rng.uniform(-3, -0.3)) for _ in range(elements))
        kind = Chunk(0, elements) if chunks else SINGLE_CALL
        children.append(Child(Call(seconds), kind, amounts, not chunks and rng.random() < 0.2, nest))
    waits = rng.random() < 0.9
    limit = rng.choice((0.1, 2.0, 8.0)) if rng.random() < 0.15 else None
    return Nest(tuple(children), waits, limit, chunks or rng.random() < 0.7)


def with_nest(world: World, spec: m.TaskSpec) -> m.TaskSpec:
    """Let some calls of a program make calls of their own; most of these hold resources meanwhile."""
    rng, scenario = world.rng_of_nests, world.scenario
    call = read_call(spec.body.payload)
    plain = call.ending == RETURN and sum(call.seconds) < 100.0 and not call.blocks
    if not scenario.nests or not plain or isinstance(spec.body.kind, Bundle) or rng.random() > SHARE:
        return spec
    options = spec.body.options
    if scenario.resources and not options.resources and rng.random() < 0.8:
        name = rng.choice(list(scenario.resources))
        amount = min(scenario.resources[name], rng.choice((1.0, 1.0, 0.5)))
        options = options._replace(resources=((name, amount),))
    world.truth.nests[spec.id] = draw_nest(rng, scenario, [name for name, _ in options.resources])
    return spec._replace(body=spec.body._replace(options=options))


class NestedClient(ClientNode):
    """The connection of one slot's process for the calls of its calls."""

    def __init__(self, process: SlotProcess, task: TaskId) -> None:
        world = process.world
        super().__init__(world, f"n{world.serial()}", WORKERS, task)
        self.process = process

    def perform(self, effect: Any) -> None:
        super().perform(effect)
        if isinstance(effect, ResolveTasks) and self.process.wait is not None:
            self.process.wait.look()

    def leave_early(self) -> None:
        """End its process, so that nobody hears how the calls end that it has made and not awaited."""
        self.world.truth.abandoned.add(self.id)
        self.world.nested_are_safe = False
        self.leave()

    def vanish(self) -> None:
        """Remove a client whose process is gone."""
        if self.alive:
            self.world.nested_are_safe = False
            self.crash()

    def submit_children(self, children: Iterable[Child], depth: int) -> list[TaskId]:
        specs: list[m.TaskSpec] = []
        for child in children:
            depends_on = (specs[-1].id,) if child.depends_on_previous and specs else ()
            options = m.TaskOptions(resources=child.resources) if child.resources else m.DEFAULT_OPTIONS
            body = m.CallBody(CHILD.key, child.call.payload(), child.kind, options, None, depth)
            spec = m.TaskSpec(self.new_id(), body, depends_on)
            if child.nest is not None:
                self.world.truth.nests[spec.id] = child.nest
            if isinstance(child.kind, Chunk):
                self.world.truth.chunks.add(spec.id)
            specs.append(spec)
        self.submit(specs, [CHILD])
        return [spec.id for spec in specs]


class NestWait:
    """A wait of a task for calls of its own; it corresponds to `workers.waits` in a real slot."""

    def __init__(self, process: SlotProcess, task: SlotTask, nest: Nest, children: list[TaskId]) -> None:
        self.world = process.world
        self.process = process
        self.task = task.id
        self.number = task.number
        self.nest = nest
        self.children = children
        self.left_at: float | None = None
        self._told: tuple[list[TaskId], bool] = ([], True)
        self.world.truth.waits.append(self)
        if nest.limit is not None:
            self.world.at(self.world.now + nest.limit, self.leave)
        else:
            self.world.at(self.world.now + TOLD_AFTER, self._look_again)

    def unfinished(self) -> list[TaskId]:
        """Return those of its calls that are unfinished, or the chunks that these have become."""
        truth = self.world.truth
        pieces = [piece for child in self.children for piece in truth.pieces_of(child)]
        return [piece for piece in pieces if truth.expected[piece].outcome is None]

    def look(self) -> None:
        """Check whether some of its calls have ended."""
        left = self.unfinished()
        if not left or (not self.nest.every and len(left) < len(self.children)):
            self.leave()

    def leave(self) -> None:
        """Note that its task continues."""
        if self.left_at is None:
            self.abandon()
            self.process.go_on()

    def abandon(self) -> None:
        """Note that its task or process ends."""
        self.left_at = self.world.now
        self.process.wait = None
        if self.process.alive:
            self._tell([])

    def _look_again(self) -> None:
        if self.left_at is None:
            self._tell(self.unfinished())
            self.world.at(self.world.now + TOLD_AFTER, self._look_again)

    def _tell(self, calls: list[TaskId]) -> None:
        told = (calls, self.nest.every or not calls)
        if told != self._told:
            self._told = told
            self.process.tell(SlotAwaits(self.process.id, self.number, *told))


class Oracle:
    """An oracle that sees everything and tells which calls can never begin; it shares no code with the coordinator."""

    def __init__(self, world: World, waits: list[NestWait]) -> None:
        self._world = world
        self._workers = [n for n in world.workers if n.alive and not n.core.draining]
        self._running = {e.task for runs in world.truth.executions.values() for e in runs if not e.ending}
        self.stuck = waits
        before = -1
        while before != len(self.stuck):
            before = len(self.stuck)
            self.stuck = [wait for wait in self.stuck if not self._goes_on(wait)]

    def can_begin(self, task: TaskId) -> bool:
        """Return whether a call can begin some time if everything ends that is not stuck."""
        wanted = self._resources(task)
        return any(
            all(
                node.core.settings.resources.get(name, 0.0) - self._held(node, name) >= amount - 1e-9
                for name, amount in wanted
            )
            for node in self._workers
        )

    def _resources(self, task: TaskId) -> tuple[tuple[str, float], ...]:
        expected = self._world.truth.expected.get(task)
        return () if expected is None else expected.spec.body.options.resources

    def _held(self, node: WorkerNode, name: str) -> float:
        holders = [wait.task for wait in self.stuck if wait.process.node is node]
        return sum(amount for task in holders for what, amount in self._resources(task) if what == name)

    def _goes_on(self, wait: NestWait) -> bool:
        ends = [self._ends(call) for call in wait.unfinished()]
        return (all(ends) if wait.nest.every else any(ends)) or not ends

    def _ends(self, task: TaskId) -> bool:
        expected = self._world.truth.expected[task]
        if expected.outcome is not None:
            return True
        if task in self._running:
            return all(wait.task != task for wait in self.stuck)
        return self.can_begin(task) and all(map(self._ends, expected.spec.depends_on))


def lasting_waits(world: World, since: float) -> Iterator[NestWait]:
    """Yield the waits of tasks that wait without a limit and that nobody stops, since that time."""
    for wait in world.truth.waits:
        expected = world.truth.expected[wait.task]
        stopped_at = expected.cancelled_at if expected.stop_running else None
        over = any(at is not None and at <= since for at in (wait.left_at, stopped_at))
        if wait.nest.limit is None and not over:
            yield wait


def check_refusal(world: World, task: TaskId) -> None:
    """Check the law about refused calls: none of them could begin. Recent changes do not count."""
    waits = list(lasting_waits(world, world.now - NEWS_TAKES))
    world.truth.check(
        not Oracle(world, waits).can_begin(task), f"{task} is refused, though it could begin some time"
    )


MAX_DEADLOCK_SECONDS = 2 * TOLD_AFTER + PATIENCE + 2 * LOOK_EVERY + 2 * NEWS_TAKES
"""Maximum time in seconds of a deadlock.

It includes the time until it is reported, the coordinator's patience, and the ways, on which each process may stall.
"""

MAX_START_SECONDS = 10.0
"""Time in seconds for which a new coordinator expects workers to come back, and a little more."""


def is_lawful(scenario: Scenario) -> bool:
    """Return whether nothing keeps calls of calls, or news, from the coordinator."""
    return scenario.nests and scenario.profile == "calm" and not scenario.journal_delay


class DeadlockWatch(Watch):
    """A watch on tasks that wait for resources which only the tasks that wait for them hold."""

    interval = 0.25

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._stuck: dict[NestWait, float] = {}
        """The time since which each wait is stuck."""
        self._begins = world.now + MAX_START_SECONDS

    def _check(self) -> None:
        world = self._world
        waits = list(lasting_waits(world, world.now))
        world.truth.waits = [
            w for w in world.truth.waits if w.left_at is None or world.now - w.left_at < NEWS_TAKES
        ]
        stuck = Oracle(world, waits).stuck if waits else []
        self._stuck = {wait: self._stuck.get(wait, max(world.now, self._begins)) for wait in stuck}
        for wait, since in self._stuck.items():
            world.truth.check(
                world.now - since <= MAX_DEADLOCK_SECONDS,
                f"{wait.task} waits for {wait.unfinished()}, which cannot begin, for {world.now - since:.1f} s",
            )
