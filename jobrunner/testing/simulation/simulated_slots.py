"""A worker's slots as the worker's core sees them: processes that start late, run one task at a time, and die.

They obey the same effects as `workers.pool` and keep its promises: tasks run in the order given; an outcome may wait a
little for others; a recall gives back what has not started, of all that was sent before it; text comes before the
outcome of its task, and everything before the SlotExited. A call may keep the process from obeying before it has ended,
as one that holds the GIL does; what waits behind it can be retracted all the same, while nothing that was said is on
its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobrunner.protocol.chunks import part_id
from jobrunner.protocol.effects import (
    DivideChunk,
    Effect,
    EndSlot,
    InterruptTask,
    RecallTasks,
    RetractTasks,
    RunTasks,
    SignalSlot,
    SlotBlocked,
    SlotDivided,
    SlotEvent,
    SlotExited,
    SlotFinished,
    SlotNotStarted,
    SlotOutcome,
    SlotPrinted,
    SlotReady,
    SlotRetracted,
    SlotReturned,
    SlotSplit,
    SlotSpoiled,
    SlotTask,
    SpawnSlot,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.kinds import Bundle, Chunk
from jobrunner.protocol.wire.messages import FunctionKey
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.testing.simulation.bundled import BundleRun
from jobrunner.testing.simulation.simulated_calls import (
    CRASH,
    RAISE,
    RETURN,
    SIGINT,
    SIGKILL,
    Call,
    error_of,
    flat,
    read_call,
    result_of,
)

if TYPE_CHECKING:
    from jobrunner.testing.simulation.laws import Execution
    from jobrunner.testing.simulation.nested import Nest, NestedClient, NestWait
    from jobrunner.testing.simulation.nodes import WorkerNode

FLUSH_INTERVAL = 0.001
CONTROL_INTERVAL = 0.02
PIPE_DELAY = 0.00005

FULL = 0.02
"""Probability, after each call of a bundle, that the results are too large to collect more."""

SPOILED = 0.5
"""Probability that an interrupted task leaves a process that must run no other task."""

MOVES = 0.2
"""Probability that a slot moves when tasks are being retracted, so that this must be tried again."""

MIN_WAIT = 1e-6
"""Minimum time in seconds until a call that holds the process releases it."""

MAX_END_SECONDS = 0.3
"""Maximum time in seconds that a process takes to end by itself."""

MAX_DEATH_SECONDS = 0.1
"""Maximum time in seconds that a killed process takes to go; until then it counts as running its task."""


class SlotProcess:
    """One child process."""

    def __init__(self, slots: SimulatedSlots, slot: SlotId, pid: int) -> None:
        self.slots = slots
        self.node = slots.node
        self.world = slots.node.world
        self.id = slot
        self.pid = pid
        self.alive = True
        self.ready = False
        self.dying = False
        self.spoiled = False
        self.task: SlotTask | None = None
        """The running task; of a bundle, the running call."""
        self.bundle: BundleRun | None = None
        self.call = Call(())
        self.nest: Nest | None = None
        """The calls that the task makes, if it makes any."""
        self.execution: Execution | None = None
        self.blocked = False
        self.client: NestedClient | None = None
        """The client for calls of its calls, once one has made some."""
        self.wait: NestWait | None = None
        """The wait for such calls."""
        self.calls = 0
        """The number of calls that have begun; each element of a chunk counts."""
        self.functions: dict[FunctionKey, m.FunctionDef] = {}
        self.serves: set[FunctionKey | None] = set()
        """The shipments and epochs of the tasks that have begun; None stands for a task without them."""
        self._queue: deque[SlotTask] = deque()
        self._outcomes: list[SlotOutcome] = []
        self._last_flush = 0.0
        self._last_number = 0
        self._given = 0
        """The number of the last task that is or was on its way here."""
        self._begun = 0
        self._retracted = range(0)
        self._moved = False
        """Whether it moved when tasks were last retracted."""
        self._put_off: list[Callable[[], None]] = []
        """The actions to take as soon as the running call permits."""
        self.turn = 0
        """The number of starts, so that the end of another task is not taken for the end of this one."""
        self._bad = False
        """Whether the running task comes to a bad end, if it reaches the guilty element."""
        self._began = 0.0
        self._at_once = False
        """Whether reports are read by the worker, and not sent by the process."""
        self._arrives = 0.0
        self._told = 0.0

    @property
    def idle(self) -> bool:
        """Whether it waits for something to do."""
        at_work = self.dying or self.spoiled or self.task is not None or self._queue
        return self.ready and not at_work

    @property
    def held_up(self) -> bool:
        """Whether tasks, or calls of a bundle, wait for the running one."""
        return bool(self._queue) or (self.bundle is not None and self.bundle.has_more())

    # --- commands: each takes a moment to arrive, in order ---

    def command(self, action: Callable[..., None], *arguments: Any) -> None:
        delay = self.world.rng.uniform(0.2, 4) * PIPE_DELAY
        self._arrives = max(self.world.now + delay, self._arrives)
        self.world.at(self._arrives, lambda: action(*arguments) if self.alive else None)

    def on_control_thread(self, action: Callable[..., None], *arguments: Any) -> None:
        """Take an action as soon as the running call permits."""
        self._put_off.append(lambda: action(*arguments))
        if len(self._put_off) == 1:
            self._run_put_off()

    def _run_put_off(self) -> None:
        """Take the postponed actions, in order, as far as the running call permits."""
        while self._put_off and self.alive:
            wait = self._held_for()
            if wait is not None:
                self.world.at(self.world.now + max(wait, MIN_WAIT), self._run_put_off)
                break
            self._put_off[0]()
            del self._put_off[:1]

    def _held_for(self) -> float | None:
        """Return the seconds until the running call releases the process, or None if it does not hold it."""
        if self.task is None or not self.call.holds:
            return None
        start = self.task.kind.start if isinstance(self.task.kind, Chunk) else 0
        last = self.element() if isinstance(self.task.kind, Chunk) else 0
        return self._began + sum(self.call.seconds[start : last + 1]) - self.world.now

    def start_up(self) -> None:
        self.ready = True
        self.tell(SlotReady(self.id, self.pid))
        self._next()

    def give(self, effect: RunTasks) -> None:
        """Take tasks that are on their way."""
        if effect.tasks:
            self._given = effect.tasks[-1].number
        self.command(self.on_control_thread, self.run, effect)

    def run(self, effect: RunTasks) -> None:
        for key in effect.drop_functions:
            self.functions.pop(key, None)
        for definition in effect.functions:
            fresh = definition.key not in self.functions
            self.world.truth.check(fresh, f"slot {self.id} is sent {definition.key!r} again")
            self.functions[definition.key] = definition
        for task in effect.tasks:
            self.world.truth.check(task.number > self._last_number, "task numbers must rise within a slot")
            self._last_number = task.number
            if task.number not in self._retracted:
                self._queue.append(task)
        self._next()

    def recall(self, split: bool) -> None:
        numbers = [task.number for task in self._queue]
        self._queue.clear()
        self._flush()
        self.tell(SlotReturned(self.id, numbers))
        if split:
            self._give_up()

    def _give_up(self) -> None:
        bundle = self.bundle
        if bundle is None or bundle.was_split or self.execution is None:
            return
        self.tell(SlotSplit(self.id, bundle.task.number, bundle.split(), bundle.index))
        self.execution.bundled = False

    def divide(self, number: int) -> None:
        """Keep the elements of a chunk that have begun, and give back the others."""
        task = self.task
        if task is None or task.number != number or self.dying or not isinstance(task.kind, Chunk):
            self.tell(SlotDivided(self.id, number, 0))
            return
        if task.id in self.world.truth.nests:
            return  # the elements of such a chunk are one
        start, end = task.kind
        stop = self.element() + 1
        if stop >= end or self.execution is None:
            self.tell(SlotDivided(self.id, number, 0))
            return
        self._flush()
        self.tell(SlotDivided(self.id, number, stop))
        self.task = part = task._replace(id=part_id(task.id, stop), kind=Chunk(start, stop))
        self.world.truth.divided(self.execution, part)
        self.calls -= end - stop
        self.turn += 1
        self._plan_end(part)

    def retract(self, chunks: tuple[int, ...]) -> None:
        """Take tasks that have not begun from the process, whatever it does."""
        moves, self._moved = not self._moved and self.world.rng_of_holds.random() < MOVES, False
        if self._told > self.world.now or moves:
            self._moved = moves
            return
        self._at_once = True
        self._flush()
        self._give_up()
        if self.task is not None and self.task.number in chunks:
            self.divide(self.task.number)
        self._retracted = range(self._begun + 1, self._given + 1)
        self._queue.clear()
        self.tell(SlotRetracted(self.id, list(self._retracted)))
        self._at_once = False

    def interrupt(self, number: int) -> None:
        running = self.task is not None and self.task.number == number and not self.dying
        if running and self.call.stopped_by == SIGINT:
            self._end(self.turn, RAISE, interrupted=True)

    def signal(self, name: str) -> None:
        if self.dying or (name == "SIGTERM" and self.task is not None and self.call.stopped_by == SIGKILL):
            return
        self.dying = True
        self.turn += 1  # the running task will not end by itself any more
        self.world.at(
            self.world.now + self.world.rng.uniform(0, MAX_DEATH_SECONDS), lambda: self.die(None, name)
        )

    def end(self) -> None:
        """Do what the tasks have left for the end of the process."""
        if self.dying:
            return
        self.world.truth.check(self.task is None and not self._queue, "only an idle slot is to end")
        self.dying = True
        if self.client is not None:
            self.client.leave_early()
        self.world.at(self.world.now + self.world.rng.uniform(0, MAX_END_SECONDS), lambda: self.die(0, None))

    # --- what a task does; symbolic here ---

    def read(self, task: SlotTask) -> Call:
        """Return the behaviour of the task that begins now."""
        return read_call(task.payload)

    def outcome(self, task: SlotTask, ending: str) -> tuple[int, Payload]:
        """Return status and payload of the task that ends now."""
        if ending == RETURN:
            return m.OK, result_of(task.id, task.kind, self.call)
        return m.ERROR, error_of(task.id)

    # --- running ---

    def _next(self) -> None:
        if self.task is not None or not self.ready or self.dying:
            return
        if self.spoiled and self._queue:
            self.recall(split=False)
        if not self._queue:
            self._flush()
            return
        task = self._queue.popleft()
        self._begun = task.number
        if isinstance(task.kind, Bundle):
            self.bundle = BundleRun(task, self.world.now)
            task = self.bundle.next()
        self._begin(task)

    def _begin(self, task: SlotTask) -> None:
        self.task = task
        self.call = call = self.read(task)
        self.turn += 1
        self._began = self.world.now
        truth = self.world.truth
        truth.check_functions(self, task)
        self._bad = truth.runs_of(task.id) < call.bad_runs
        self.execution = truth.started(self.node, self, task)
        self.calls += task.kind.calls
        most = self.world.scenario.max_tasks_per_slot
        truth.check(
            most is None or self.calls <= most, f"{task.id}: call {self.calls} of a slot that may make {most}"
        )
        if call.prints:
            self.tell(SlotPrinted(self.id, [(task.number, m.STDOUT, f"hello from {task.id}\n")]))
        lasts, ending = self._plan_end(task)
        if self.nest is not None:
            turn = self.turn
            self.world.at(self.world.now + lasts / 3, lambda: self._submit_nested(turn))
        elif call.blocks and ending == RETURN:
            self.world.at(self.world.now + lasts / 3, lambda: self._block(task, True))
            self.world.at(self.world.now + lasts * 2 / 3, lambda: self._block(task, False))

    def _plan_end(self, task: SlotTask) -> tuple[float, str]:
        """Return when the task that runs since `_began` ends, and how."""
        call = self.call
        start, stop = task.kind if isinstance(task.kind, Chunk) else (0, 1)
        seconds = call.seconds[start:stop]
        ending = call.ending if self._bad and start <= call.guilty < stop else RETURN
        lasts = sum(seconds)
        if ending != RETURN:
            before = call.guilty - start
            lasts = sum(seconds[:before]) + seconds[before] / 2
        self.nest = self.world.truth.nests.get(task.id) if ending == RETURN else None
        if self.nest is None:
            turn = self.turn
            self.world.at(max(self._began + lasts, self.world.now), lambda: self._end(turn, ending))
        return lasts, ending

    def _submit_nested(self, turn: int) -> None:
        """Let the running task make calls, and perhaps wait for them."""
        task, nest = self.task, self.nest
        if not self.alive or turn != self.turn or task is None or nest is None:
            return
        self.world.make_calls(self, task, nest)
        if self.wait is not None:
            self._block(task, True)
        else:
            self._end_after(turn, sum(self.call.seconds) / 3)

    def go_on(self) -> None:
        """End the wait."""
        self.wait = None
        if self.task is not None and not self.dying:
            self._block(self.task, False)
            self._end_after(self.turn, sum(self.call.seconds) / 3)

    def _end_after(self, turn: int, seconds: float) -> None:
        self.world.at(self.world.now + seconds, lambda: self._end(turn, RETURN))

    def _block(self, task: SlotTask, blocked: bool) -> None:
        if self.alive and self.task is not None and self.task.number == task.number:
            self.blocked = blocked
            self.tell(SlotBlocked(self.id, blocked))

    def _end(self, turn: int, ending: str, *, interrupted: bool = False) -> None:
        task = self.task
        if not self.alive or turn != self.turn or task is None:
            return
        if ending == CRASH:
            if self.world.rng.random() < 0.5:
                self.die(None, "SIGSEGV")
            else:
                self.die(3, None)
            return
        if self.wait is not None:
            self.wait.abandon()
        if self.blocked:
            self._block(task, False)
        if interrupted and self.world.scenario.spoils and self.world.rng.random() < SPOILED:
            self.spoiled = True
            self.tell(SlotSpoiled(self.id))
        assert self.execution is not None
        element = self.element() if interrupted else -1
        self.world.truth.ended(self.execution, ending, element)
        status, payload = self.outcome(task, ending)
        duration = self.world.now - self._began
        bundle = self.bundle
        if bundle is not None and not interrupted:
            if bundle.has_more() and self.world.rng.random() < FULL:
                self._give_up()
            if not bundle.was_split:
                bundle.add(flat(payload), duration, status == m.ERROR)
                self.task = self.execution = None
                if bundle.has_more():
                    self._begin(bundle.next())
                    return
                status, payload, duration = m.OK, bundle.results(), self.world.now - bundle.began
        self._outcomes.append(SlotOutcome(task.number, status, payload, duration))
        self.task = self.execution = self.bundle = None
        if self.world.now - self._last_flush >= FLUSH_INTERVAL:
            self._flush()
        elif len(self._outcomes) == 1 and self._queue:
            self.world.at(self.world.now + CONTROL_INTERVAL, lambda: self.on_control_thread(self._flush))
        self._next()

    def die(self, exit_code: int | None, signal: str | None) -> None:
        if not self.alive:
            return
        self._flush()
        number, element = 0, -1
        if self.task is not None and self.execution is not None:
            number = self.task.number
            element = self.element()
            self.world.truth.ended(self.execution, CRASH, element)
        self.tell(SlotExited(self.id, self.pid, exit_code, signal, 1 << 20, "last words\n", number, element))
        self.stop()
        self.slots.processes.pop(self.id, None)

    def stop(self) -> None:
        """Remove the process without a report."""
        self.alive = False
        if self.wait is not None:
            self.wait.abandon()
        if self.client is not None:
            self.client.vanish()
        if self.execution is not None:
            self.world.truth.ended(self.execution, CRASH, self.element())
        self.task = self.execution = self.bundle = None
        self._queue.clear()

    def element(self) -> int:
        """Return the present element of the running chunk or bundle, or -1."""
        if self.task is None:
            return -1
        if self.bundle is not None:
            return self.bundle.index
        if not isinstance(self.task.kind, Chunk):
            return -1
        start, stop = self.task.kind
        left = self.world.now - self._began
        for element in range(start, stop):
            left -= self.call.seconds[element]
            if left < 0:
                return element
        return stop - 1

    # --- telling ---

    def _flush(self) -> None:
        if self._outcomes and self.alive:
            outcomes, self._outcomes = self._outcomes, []
            self._last_flush = self.world.now
            self.tell(SlotFinished(self.id, outcomes))

    def tell(self, event: SlotEvent) -> None:
        delay = 0.0 if self._at_once else self.world.rng.uniform(0.2, 4) * PIPE_DELAY
        self._told = max(self.world.now + delay, self._told)
        self.world.at(self._told, lambda: self.node.post(event))


class SimulatedSlots:
    """All slots of one worker."""

    def __init__(self, node: WorkerNode) -> None:
        self.node = node
        self.processes: dict[SlotId, SlotProcess] = {}
        self.started = 0
        """Number of processes so far."""

    def perform(self, effect: Effect) -> None:
        world = self.node.world
        if isinstance(effect, SpawnSlot):
            if self._is_short():
                world.at(world.now, lambda: self.node.post(SlotNotStarted(effect.slot, "nothing is left")))
                return
            self.started += 1
            process = self.processes[effect.slot] = world.slot_class(self, effect.slot, 100 + self.started)
            delay = world.rng.uniform(0.5, 1.5) * world.scenario.slot_start
            if world.rng.random() < world.scenario.start_failures and not world.calm_now:
                world.at(world.now + delay, lambda: process.die(70, None))
            else:
                world.at(world.now + delay, lambda: process.start_up() if process.alive else None)
            return
        found = self.processes.get(effect.slot)  # type: ignore[union-attr]
        if found is None:
            return
        if isinstance(effect, RunTasks):
            found.give(effect)
        elif isinstance(effect, RecallTasks):
            found.command(found.on_control_thread, found.recall, effect.bundle)
        elif isinstance(effect, RetractTasks):
            found.retract(effect.chunks)
        elif isinstance(effect, DivideChunk):
            found.command(found.on_control_thread, found.divide, effect.number)
        elif isinstance(effect, InterruptTask):
            found.command(found.on_control_thread, found.interrupt, effect.number)
        elif isinstance(effect, EndSlot):
            found.command(found.end)
        elif isinstance(effect, SignalSlot):
            found.command(found.signal, effect.signal)

    def _is_short(self) -> bool:
        """Return whether there are no resources for one more process; for the first one there always are."""
        world = self.node.world
        others = any(process.alive for process in self.processes.values())
        if not others or world.calm_now or not world.scenario.shortages:
            return False
        return world.rng.random() < world.scenario.shortages

    def executing(self) -> int:
        """Return the number of slots that run a task, without those that wait for tasks of their own."""
        return sum(process.task is not None and not process.blocked for process in self.processes.values())

    def stop(self) -> None:
        for process in self.processes.values():
            process.stop()
        self.processes.clear()
