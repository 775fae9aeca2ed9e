"""The record of what really happened, which nobody in the cluster can know, and the laws about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable
from typing import TYPE_CHECKING

from jobrunner.protocol.bundles import (
    Results,
    call_of,
    outcome_of_call,
    place_of_call,
    unpack_calls,
    unpack_results,
)
from jobrunner.protocol.chunks import chunk_of, kept
from jobrunner.protocol.effects import ChunkDivided, SlotTask, Tick
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, call_id, client_of
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk, Kind, SingleCall
from jobrunner.protocol.wire.payloads import Payload, payload_size
from jobrunner.protocol.worker.function_store import LARGE_DEFINITION
from jobrunner.testing.simulation.simulated_calls import (
    CRASH,
    RAISE,
    RETURN,
    Call,
    error_of,
    flat,
    read_call,
    result_of,
)

if TYPE_CHECKING:
    from jobrunner.testing.simulation.nested import Nest, NestWait
    from jobrunner.testing.simulation.nodes import WorkerNode
    from jobrunner.testing.simulation.simulated_slots import SlotProcess
    from jobrunner.testing.simulation.world import World


MAX_RETURNS = 6
"""Maximum number of times that a task may be handed back within a second, because a worker repeatedly gives back tasks
behind calls that turn out to be longer than expected."""


class Violation(AssertionError):
    """The error that a law was broken."""


class Execution:
    """One run of a task in a slot."""

    __slots__ = ("attempt", "bundled", "element", "ending", "kind", "slot", "task", "worker")

    def __init__(
        self,
        task: TaskId,
        attempt: int,
        worker: str,
        bundled: bool = False,
        kind: Kind = SINGLE_CALL,
        slot: SlotProcess | None = None,
    ) -> None:
        self.task = task
        """The id of the task; of a divided chunk, the part that continues."""
        self.attempt = attempt
        self.worker = worker
        self.kind = kind
        self.slot = slot
        """The slot in which a chunk runs."""
        self.bundled = bundled
        """True for a call of a bundle that was not split, so that nobody counts how it ended."""
        self.ending = ""
        """The way in which it ended; empty while it runs."""
        self.element = -1

    def began(self) -> range:
        """Return the elements of a chunk that have begun."""
        if not isinstance(self.kind, Chunk) or self.slot is None:
            return range(0)
        start, stop = self.kind
        if self.ending == RETURN:
            return range(start, stop)
        return range(start, (self.element if self.ending else self.slot.element()) + 1)


class Expected:
    """A task that a client has submitted, and what the client was told about it."""

    __slots__ = ("call", "cancelled_at", "outcome", "refused", "spec", "stop_running")

    def __init__(self, spec: m.TaskSpec) -> None:
        self.spec = spec
        self.call: Call = read_call(spec.body.payload)
        self.outcome: m.Outcome | None = None
        self.cancelled_at: float | None = None
        """The time when the client asked to cancel it."""
        self.stop_running = False
        self.refused = 0


class Truth:
    """A witness of every execution and every outcome."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.executions: dict[TaskId, list[Execution]] = {}
        self.expected: dict[TaskId, Expected] = {}
        """The tasks by id; for bundles, each of their calls."""
        self.bundles: dict[TaskId, m.TaskSpec] = {}
        self.chunks: set[TaskId] = set()
        """Tasks that may be divided, so that nobody can wait for them by their ids."""
        self.pieces: dict[TaskId, list[TaskId]] = {}
        """By a divided chunk, the tasks that have its elements."""
        self._whole: dict[TaskId, TaskId] = {}
        """By such a task, the chunk of which it is a piece."""
        self.nests: dict[TaskId, Nest] = {}
        """By task, the calls that it makes."""
        self.waits: list[NestWait] = []
        """The waits of tasks for these calls, except those that ended long ago."""
        self.definitions: dict[m.FunctionKey, m.FunctionDef] = {}
        """The functions by the keys that the clients know."""
        self.abandoned: set[ClientId] = set()
        """Clients that have crashed, so that nothing is expected for them."""
        self.accepted: set[TaskId] = set()
        """Detached tasks that their client was told are safe."""
        self._forgotten: set[ClientId] = set()
        """Clients that a coordinator has abandoned at some time."""
        self._begun: set[tuple[str, TaskId, int, int]] = set()
        self._returns: dict[TaskId, list[float]] = {}
        """By task, the recent times when it was handed back."""

    def check(self, holds: bool, law: str) -> None:
        if not holds:
            raise Violation(law)

    def runs_of(self, task: TaskId) -> int:
        return len(self.executions.get(task, ()))

    # --- from the slots ---

    def started(self, node: WorkerNode, slot: SlotProcess, task: SlotTask) -> Execution:
        """Note that a slot begins a task."""
        where = f"{task.id} (attempt {task.attempt}) starts in slot {slot.id} of {node.name}"
        self.world.note(node.name, "starts", task)
        self.check(slot.execution is None, f"{where}, which runs another task")
        limit = node.core.settings.slots
        yields = self.world.scenario.blocking or self.world.scenario.nests
        if not node.stand_ins and not yields:
            self.check(node.slots.executing() <= limit, f"{where}, which has only {limit} slots")
        expected = self.expected.get(task.id)
        bundled = slot.bundle is not None
        if expected is not None:
            self._can_import(node, slot, expected.spec, where)
        if not node.lost_sight_of(task.id):
            done = expected is not None and expected.outcome is not None
            late = self.world.scenario.journal and not self.world.progress_is_safe
            self.check(not done or late, f"{where}, after its client was told how it ended")
            attempt = -task.attempt if bundled else task.attempt
            key = (node.name, task.id, attempt, self.world.epoch)
            fresh = key not in self._begun or client_of(task.id) in self._forgotten
            self.check(fresh, f"{where} a second time")
            self._begun.add(key)
            for other in self.executions.get(task.id, ()):
                attached = not self.world.is_detached(other.worker, other.task)
                self.check(bool(other.ending) or not attached, f"{where} while it runs on {other.worker}")
            self._has_what_it_needs(expected, task, where)
        if self.world.nothing_goes_wrong and not bundled:
            before = [execution for execution in self.executions.get(task.id, ()) if not execution.bundled]
            self.check(task.attempt == 1 + len(before), f"{where}, and {len(before)} have begun before")
        once = expected is not None and expected.spec.body.options.at_most_once
        if once and self.world.progress_is_safe:
            self.check(not self.executions.get(task.id), f"{where}, though it ran before")
            self._none_began(task, where)
        execution = Execution(task.id, task.attempt, node.name, bundled, task.kind, slot)
        self.executions.setdefault(task.id, []).append(execution)
        return execution

    def check_functions(self, slot: SlotProcess, task: SlotTask) -> None:
        """Check that a slot that begins a task has its function and its initializer, with their right parts."""
        expected = self.expected.get(task.id)
        there = (
            (None, None)
            if expected is None
            else (expected.spec.body.function, expected.spec.body.initializer)
        )
        for here, name in zip((task.function, task.initializer), there, strict=True):
            if here is None:
                continue
            self.check(here in slot.functions, f"{task.id}: its function was never sent")
            parts = slot.functions[here].parts
            self.check(all(key in slot.functions for key in parts), f"{task.id}: its function lacks a part")
            if name in self.definitions:
                right = [self.definitions[key].blob for key in self.definitions[name].parts]
                blobs = [slot.functions[key].blob for key in parts]
                self.check(
                    list(map(flat, blobs)) == list(map(flat, right)),
                    f"{task.id}: its function has other parts",
                )

    def _can_import(self, node: WorkerNode, slot: SlotProcess, spec: m.TaskSpec, where: str) -> None:
        """Check that a slot has the task's modules, and has not served other modules or another epoch."""
        lacking = self.needed(spec) & set(node.missing_modules)
        self.check(not lacking, f"{where}, which lacks {lacking}")
        epoch = (
            self.definitions[spec.body.initializer].epoch if spec.body.initializer in self.definitions else 0
        )
        slot.serves.add(spec.body.initializer if self._brings(spec) or epoch else None)
        self.check(len(slot.serves) == 1, f"{where}, which has served {slot.serves}")

    def needed(self, spec: m.TaskSpec) -> set[str]:
        """Return the modules that its worker must have."""
        functions = [
            self.definitions[key]
            for key in (spec.body.function, spec.body.initializer)
            if key in self.definitions
        ]
        return {name for f in functions for name in f.modules} - self._brings(spec)

    def _brings(self, spec: m.TaskSpec) -> set[str]:
        return (
            set(self.definitions[spec.body.initializer].ships)
            if spec.body.initializer in self.definitions
            else set()
        )

    def _has_what_it_needs(self, expected: Expected | None, task: SlotTask, where: str) -> None:
        depends_on = () if expected is None else expected.spec.depends_on
        self.check(
            len(task.values) == len(depends_on),
            f"{where} with {len(task.values)} of {len(depends_on)} results",
        )
        for dependency, value in zip(depends_on, task.values, strict=True):
            other = self.expected[dependency]
            right = result_of(dependency, other.spec.body.kind, other.call)
            self.check(flat(value) == flat(right), f"{where} with the wrong result of {dependency}")
            endings = [execution.ending for execution in self.executions.get(dependency, ())]
            self.check(RETURN in endings, f"{where} before {dependency} has returned")

    def forgotten(self, client: ClientId, kept: Container[TaskId]) -> None:
        """Note that the coordinator forgets a client except the tasks `kept`; others that it names again are new."""
        self._begun = {
            key
            for key in self._begun
            if client_of(key[1]) != client or any(n in kept for n in names_of(key[1]))
        }
        self._forgotten.add(client)

    def ended(self, execution: Execution, ending: str, element: int = -1) -> None:
        if not execution.ending:
            execution.ending = ending
            execution.element = element
            self.world.note(execution.worker, ending, execution.task)

    def returned(self, task: TaskId) -> None:
        """Note that a worker hands back a task that it has not begun."""
        now = self.world.now
        times = self._returns[task] = [t for t in self._returns.get(task, ()) if t > now - 1.0] + [now]
        self.check(len(times) <= MAX_RETURNS, f"{task} was handed back {len(times)} times within a second")

    # --- chunks that are divided ---

    def divided(self, execution: Execution, part: SlotTask) -> None:
        """Note that a slot has given back the elements that it has not begun, and continues with the others."""
        execution.task, execution.kind = part.id, part.kind
        self.executions.setdefault(part.id, []).append(execution)
        self.world.note(execution.worker, "divides", part)

    def parted(self, effect: ChunkDivided, new_id: Callable[[], TaskId]) -> list[m.TaskSpec]:
        """Note that a client's program hears of a division; return the chunks that it must submit for the rest."""
        whole = self.expected.pop(effect.id)
        self.check(whole.outcome is None, f"{effect.id} was divided after its end")
        start, stop = whole.spec.body.kind if isinstance(whole.spec.body.kind, Chunk) else (0, 0)
        self.check(start < effect.stop < stop, f"{effect.id} was divided at {effect.stop}")
        part = self.expected[effect.part] = Expected(kept(whole.spec, effect.stop))
        part.cancelled_at, part.stop_running = whole.cancelled_at, whole.stop_running
        self.pieces[effect.id] = [effect.part]
        rest = []
        options = whole.spec.body.options
        while effect.stop < stop and whole.cancelled_at is None:
            size = self.world.rng.randint(1, stop - effect.stop)
            timeout = None if options.timeout is None else options.timeout * size / (stop - start)
            body = whole.spec.body._replace(
                kind=Chunk(stop - size, stop), options=options._replace(timeout=timeout)
            )
            spec = whole.spec._replace(id=new_id(), body=body)
            rest.append(spec)
            self.pieces[effect.id].append(spec.id)
            self.chunks.add(spec.id)
            stop -= size
        self._whole.update(dict.fromkeys(self.pieces[effect.id], effect.id))
        return rest

    def pieces_of(self, task: TaskId) -> list[TaskId]:
        """Return the task itself, or the tasks that have its elements."""
        if task not in self.pieces:
            return [task]
        return [piece for part in self.pieces[task] for piece in self.pieces_of(part)]

    def _none_began(self, task: SlotTask, where: str) -> None:
        """Check that no element of this task has begun in another piece of the same chunk."""
        root = task.id
        while root in self._whole:
            root = self._whole[root]
        if root == task.id or not isinstance(task.kind, Chunk):
            return
        family = [root]
        for name in family:
            family += self.pieces.get(name, ())
        for name in family:
            for execution in self.executions.get(name, ()):
                both = set(execution.began()) & set(range(*task.kind))
                self.check(not both, f"{where}, whose elements {both} began as {execution.task}")

    # --- from the clients ---

    def submitted(self, spec: m.TaskSpec) -> None:
        if not isinstance(spec.body.kind, Bundle):
            self.expected[spec.id] = Expected(spec)
            return
        self.bundles[spec.id] = spec
        for index, payload in enumerate(unpack_calls(spec.body.payload)):
            call = call_of(spec, index, payload)
            self.expected[call.id] = Expected(call)

    def calls_of(self, bundle: TaskId) -> list[TaskId]:
        return [call_id(bundle, index) for index in range(self.bundles[bundle].body.kind.calls)]

    def cancel_asked(self, task: TaskId, running: bool) -> None:
        expected = self.expected[task]
        if expected.cancelled_at is None or (running and not expected.stop_running):
            expected.cancelled_at = self.world.now
        expected.stop_running = expected.stop_running or running

    def cancel_refused(self, task: TaskId) -> None:
        expected = self.expected[task]
        self.check(expected.cancelled_at is not None, f"{task}: a cancel was refused that nobody asked for")
        self.check(
            not expected.stop_running, f"{task}: it was to be stopped even if it runs, and was refused"
        )
        expected.refused += 1

    def resolved(self, outcome: m.Outcome) -> None:
        """Note that a client's program is told how a task ended, or all calls of a bundle."""
        if outcome.id in self.bundles:
            self._all_resolved(outcome)
            return
        expected = self.expected.get(outcome.id)
        if expected is None:
            raise Violation(f"{outcome.id} was never submitted")
        first = expected.outcome
        self.check(first is None, f"{outcome.id} ended twice: {first!r:.200}, then {outcome!r:.200}")
        expected.outcome = outcome
        self._status(expected, outcome)
        for execution in self.executions.get(outcome.id, ()):
            if not execution.ending and not self.world.is_detached(execution.worker, execution.task):
                name = outcome.status.label
                raise Violation(f"{outcome.id} {name}, but still runs on {execution.worker}")

    def _all_resolved(self, outcome: m.Outcome) -> None:
        told = f"bundle {outcome.id} {outcome.status.label}"
        if outcome.status == m.OK:
            self.split(outcome.id, outcome.payload, self.bundles[outcome.id].body.kind.calls)
            return
        self.check(outcome.status in (m.CANCELLED, m.REFUSED), f"{told}, which says nothing of its calls")
        for call in self.calls_of(outcome.id):
            self.resolved(outcome._replace(id=call))

    def split(self, bundle: TaskId, payload: Payload, count: int) -> None:
        """Note that a client's program is told how the first `count` calls of a bundle ended."""
        results = unpack_results(payload) if count else Results([], [], [])
        told = {len(results.payloads), len(results.durations)}
        self.check(
            told == {count}, f"of bundle {bundle} {count} calls are over, but there are {told} results"
        )
        outcome = m.Outcome(bundle, 1, m.OK, payload)
        for index in range(count):
            call = outcome_of_call(outcome, index)
            self.check(call is not None, f"nothing is told of call {index} of bundle {bundle}")
            assert call is not None
            self.resolved(call)

    def watched(self, outcome: m.Outcome) -> None:
        """Note that a client is told how somebody else's task ended."""
        expected = self.expected[outcome.id]
        if outcome.status == m.LOST and (outcome.detail or {}).get("unknown"):
            return  # it was forgotten, with its client or for lack of room
        self._status(expected, outcome)

    def _status(self, expected: Expected, outcome: m.Outcome) -> None:
        spec, call, status = expected.spec, expected.call, outcome.status
        endings = [execution.ending for execution in self.executions.get(spec.id, ())]
        what = f"{spec.id} {status.label}"
        if status == m.OK:
            self.check(RETURN in endings, f"{what}, but no slot returned anything")
            right = result_of(spec.id, spec.body.kind, call)
            self.check(flat(outcome.payload) == flat(right), f"{what} with the result of something else")
        elif status == m.ERROR:
            self.check(RAISE in endings, f"{what}, but no slot raised anything")
            self.check(outcome.payload == error_of(spec.id), f"{what} with the error of something else")
            self._retried(expected, endings, what)
        elif status == m.TIMED_OUT:
            self.check(spec.body.options.timeout is not None, f"{what}, but has no timeout")
            self.check(bool(endings), f"{what}, but never ran")
        elif status == m.CANCELLED:
            gone = client_of(spec.id) in self.abandoned
            self.check(expected.cancelled_at is not None or gone, f"{what}, but nobody asked for that")
        elif status == m.UNMET:
            self._dependency_failed(expected, outcome, what)
        elif status == m.REFUSED and "modules" in (outcome.detail or {}):
            missing = set((outcome.detail or {})["modules"])
            lacked = {name for names in self.world.scenario.missing_modules.values() for name in names}
            self.check(bool(missing), f"{what} for want of nothing")
            self.check(
                missing <= self.needed(spec) & lacked, f"{what} for want of {missing}, which are there"
            )
        elif status == m.REFUSED and "deadlock" in (outcome.detail or {}):
            self.check(bool(spec.body.options.resources and self.nests), f"{what}, and nobody waits for it")
            self.check(not endings, f"{what} after it has begun")
        elif status == m.REFUSED and "no_slot" in (outcome.detail or {}):
            self.check(
                self.world.scenario.shortages > 0, f"{what} for want of a slot, which could be started"
            )
        elif status == m.REFUSED:
            self.check(
                self.world.scenario.journal_failures > 0, f"{what}, though the journal takes everything"
            )
            self.check(spec.id not in self.accepted, f"{what} after it was accepted")
        else:
            self._crashed(expected, outcome, what)

    def _retried(self, expected: Expected, endings: list[str], what: str) -> None:
        if expected.cancelled_at is None:
            allowed = expected.spec.body.options.retries + 1
            self.check(endings.count(RAISE) >= allowed, f"{what} after {len(endings)} of {allowed} attempts")

    def _dependency_failed(self, expected: Expected, outcome: m.Outcome, what: str) -> None:
        """Check that a task on which it depends, directly or not, did not succeed."""
        detail = outcome.detail or {}
        todo, seen = list(expected.spec.depends_on), set()
        while todo:
            task = todo.pop()
            if task not in seen:
                seen.add(task)
                todo += self.expected[task].spec.depends_on
        self.check(detail["need"] in seen, f"{what} because of {detail['need']}, which it does not need")
        dependency, status = self.expected[detail["need"]], m.Status(detail["need_status"])
        self.check(status not in (m.OK, m.UNMET), f"{what} because {dependency.spec.id} {status.label}")
        if (
            dependency.outcome is not None and self.world.epoch == 1
        ):  # a later coordinator may have seen it run again
            others = any(
                client_of(task) != client_of(dependency.spec.id) for task in (expected.spec.id, *seen)
            )
            gone = client_of(dependency.spec.id) in self.abandoned  # together with what only that client knew
            lost = status == m.LOST and (others or gone)
            self.check(
                dependency.outcome.status == status or lost,
                f"{what}: {detail}, but {dependency.outcome!r:.200}",
            )

    def _crashed(self, expected: Expected, outcome: m.Outcome, what: str) -> None:
        """Check that a task has crashed too often, or was lost with its worker too often."""
        world, spec = self.world, expected.spec
        executions = self.executions.get(spec.id, [])
        crashes = [e for e in executions if e.ending == CRASH and not e.bundled]
        limit = world.scenario.crash_limit
        detail = outcome.detail or {}
        if spec.body.options.at_most_once:
            return  # the first crash is the last, and so is any doubt whether it ran
        chunk = spec.body.kind.calls > 1
        if outcome.status == m.CRASHED and chunk and "most_calls" in detail:
            most = world.scenario.max_tasks_per_slot
            self.check(
                most is not None and spec.body.kind.calls > most, f"{what}, yet a slot makes {most} calls"
            )
            return
        if outcome.status == m.CRASHED and chunk:
            elements = {execution.element for execution in crashes}
            self.check(
                detail.get("element") in elements, f"{what} in {detail.get('element')}, not {elements}"
            )
            return
        plain = isinstance(spec.body.kind, SingleCall)
        self.check(not (plain and "element" in detail), f"{what}, which has no elements: {detail}")
        self.check(detail.get("limit") == limit, f"{what}, not because of the crash limit: {detail}")
        self.check(len(detail["attempts"]) >= limit, f"{what} without its history: {detail}")
        if world.workers_are_safe:
            told = f"{what} after {len(crashes)} crashes; the limit is {limit}"
            self.check(len(crashes) == limit, told)

    # --- the end ---

    def detached_left(self) -> list[TaskId]:
        """Return the accepted detached tasks whose outcomes neither their client nor the coordinator has."""
        coordinator = self.world.coordinator
        kept = {} if coordinator is None else coordinator.core.scheduler.results.detached
        if not self.world.detached_are_safe:
            return []
        return [t for t in sorted(self.accepted) if self.expected[t].outcome is None and t not in kept]

    def detached_are_done(self) -> bool:
        coordinator = self.world.coordinator
        return not self.detached_left() and coordinator is not None and not coordinator.core.scheduler.tasks

    def describe_detached(self) -> str:
        coordinator = self.world.coordinator
        tasks = [] if coordinator is None else list(coordinator.core.scheduler.tasks)
        return f"detached tasks are not done: {self.detached_left()[:5]}; unfinished tasks: {tasks[:5]}"

    def check_kept(self) -> None:
        """Check the kept outcomes of detached tasks, and then forget them, as a client that has fetched them would."""
        coordinator = self.world.coordinator
        if coordinator is None or not coordinator.core.scheduler.results.detached:
            return
        scheduler = coordinator.core.scheduler
        for task, ended in list(scheduler.results.detached.items()):
            expected = self.expected[task]
            first = expected.outcome
            if first is not None:
                same = first.status == ended.outcome.status or client_of(task) in self.abandoned
                self.check(
                    same, f"{task} is kept as {ended.outcome!r:.200}, its client was told {first!r:.200}"
                )
            self._status(expected, ended.outcome)
            scheduler.endings.forget_outcome(task)
        coordinator.post(Tick())

    def unresolved(self) -> list[TaskId]:
        """Return the tasks for which living clients still wait."""
        return [
            task
            for task, expected in self.expected.items()
            if expected.outcome is None and client_of(task) not in self.abandoned
        ]

    def leftovers(self) -> Iterable[str]:
        """Yield what is left in the cores although everything is done; empty once memory is at its baseline."""
        world = self.world
        coordinator = world.coordinator
        if coordinator is None:
            yield "there is no coordinator"
            return
        core = coordinator.core
        scheduler = core.scheduler
        if scheduler.deadlocks._waiting or scheduler.deadlocks._since:
            yield f"coordinator: deadlocks {scheduler.deadlocks._waiting} {scheduler.deadlocks._since}"
        left_over: dict[str, Collection[object]] = {
            "tasks": list(scheduler.tasks),
            "clients": scheduler.roster.clients,
            "orphans": list(scheduler.orphans),
            "delayed": range(scheduler.dispatcher.delayed),
            "pending flush": scheduler.roster.pending_flush,
        }
        for name, things in left_over.items():
            if things:
                yield f"coordinator: {name} {list(things)[:5]}"
        results = scheduler.results
        if scheduler.dependencies.unknown_calls:
            yield f"coordinator: sought of bundles {scheduler.dependencies.unknown_calls!r:.200}"
        if results.unknown_tasks or results.detached or scheduler.dependencies.journaled:
            left = (list(results.unknown_tasks), list(results.detached), scheduler.dependencies.journaled)
            yield f"coordinator: sought, kept, values in the journal: {left!r:.200}"
        if results.size > results.limit:
            yield f"coordinator: {results.size} bytes of outcomes, of at most {results.limit}"
        journal = world.journal.at_last()
        if journal.tasks or journal.outcomes:
            yield f"journal: tasks {list(journal.tasks)[:5]}, outcomes {list(journal.outcomes)[:5]}"
        if len(scheduler.functions):
            users = [(e.definition.key, e.users, e.refs) for e in scheduler.functions.entries()]
            yield f"coordinator: functions (key, users, refs) {users[:5]}"
        if scheduler.dispatcher.queue._lanes or scheduler.dispatcher.queue.backpressured:
            yield "coordinator: the queue is not empty"
        if len(scheduler.accounts):
            yield f"coordinator: {len(scheduler.accounts)} accounts"
        if any(scheduler.tasks.counts[:5]):
            yield f"coordinator: counts {scheduler.tasks.counts}"
        alive = {node.core.settings.id for node in world.workers if node.alive}
        if set(scheduler.roster.workers) != alive:
            yield f"coordinator: knows the workers {sorted(scheduler.roster.workers)}, alive are {sorted(alive)}"
        if len(core.sessions.peers) != len(alive):
            yield f"coordinator: peers {list(core.sessions.peers)}"
        for worker in scheduler.roster.workers.values():
            if worker.tasks or worker.assigned or worker.cancels or worker.assigned_seconds:
                yield f"coordinator: {worker.name} has tasks"
            if worker.free != worker.provides:
                yield f"coordinator: {worker.name} has {worker.free} of {worker.provides}"
            if worker.link.unacked() or worker.link.unacked_bytes:
                yield f"coordinator: unacknowledged by {worker.name}: {worker.link.unacked()!r:.200}"
        for node in world.workers:
            if node.alive:
                yield from self._leftovers_of_worker(node)

    def _leftovers_of_worker(self, node: WorkerNode) -> Iterable[str]:
        core = node.core
        attributes = (
            "tasks",
            "queue",
        )
        for name in (*attributes, "_stops"):
            if getattr(core, name):
                yield f"{node.name}: {name} {getattr(core, name)!r:.200}"
        store = core.functions
        for left in (store.definitions, store.lingering, store.missing_modules, store.estimates):
            if left:
                yield f"{node.name}: keeps of functions {left!r:.200}"
        for said in (core._unacknowledged.leftovers(), core._announcements.leftovers()):
            if said:
                yield f"{node.name}: has not said {said!r:.200}"
        if core.session.link.unacked():
            yield f"{node.name}: unacknowledged {core.session.link.unacked()!r:.200}"
        idle = [slot for slot in core.slots.values() if slot.idle]
        if len(idle) != core.settings.slots or len(core.slots) != len(idle):
            yield f"{node.name}: {len(idle)} of {len(core.slots)} slots are idle"
        for slot in core.slots.values():
            if slot.known:
                yield f"{node.name}: slot {slot.id} knows {sorted(slot.known)[:3]}"
        for process in node.slots.processes.values():
            large = [f.key for f in process.functions.values() if payload_size(f.blob) >= LARGE_DEFINITION]
            if large:
                yield f"{node.name}: slot {process.id} was not told that nobody needs {large[:3]}"


RIGHT = "0"
"""The random digits of all ids here, so that a bundle's can be told from those of its calls."""


def names_of(task: TaskId) -> tuple[TaskId, ...]:
    """Return the ids under which a task may be known: its own, and that of its bundle or chunk."""
    call = place_of_call(task)
    whole = chunk_of(task) if call is None else TaskId(f"{call[0]}-{RIGHT}")
    return (task,) if whole is None else (task, *names_of(whole))
