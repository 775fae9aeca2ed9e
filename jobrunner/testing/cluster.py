"""A cluster for tests of your own code: real state machines, simulated time, network and processes, and your functions.

    from jobrunner.testing import SimulatedCluster

    with SimulatedCluster(seed=7, duplicate=0.1, late=0.1, kill_workers=3) as cluster:
        assert my_pipeline(cluster.executor()) == expected
    assert cluster.executions("send_invoice") >= 1

Calls really run, in this thread, one after the other, when their simulated slot begins them. A call whose worker is
killed meanwhile has run nevertheless, and runs again, as on a real cluster. The simulation therefore shows the effects
of your functions if they are executed more than once, in another order, or late. A seed determines everything, and one
run takes milliseconds.

Time passes while you wait for Futures (`result`, `wait`, `as_completed`, `map`, `shutdown`), in this thread only.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.backends.dependency_results import outcome_of, with_placeholders
from jobrunner.backends.failures import exception_of
from jobrunner.backends.futures_in_arguments import AnyFuture, may_hold_futures
from jobrunner.backends.prepared import Prepared
from jobrunner.calls import serialization
from jobrunner.errors import JobRunnerError, NotSupportedError, SerializationError
from jobrunner.executor import Executor
from jobrunner.fixed import dump_elements, load_element_results, load_elements, run_fixed
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import Future
from jobrunner.nested import wait_hooks as blocking
from jobrunner.pickling.loading import Held
from jobrunner.protocol.effects import (
    AnnounceRunning,
    CancelRequested,
    RequestResults,
    ResolveTasks,
    ResultReplyRequested,
    SlotTask,
    SubmitRequested,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk, Kind
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script.calls import ready
from jobrunner.testing.simulation.laws import Execution, Truth
from jobrunner.testing.simulation.network import Conditions
from jobrunner.testing.simulation.nodes import ClientNode, WorkerNode
from jobrunner.testing.simulation.scenario import KILL_SLOT, Incident, Scenario
from jobrunner.testing.simulation.simulated_calls import RETURN, Call
from jobrunner.testing.simulation.simulated_slots import SimulatedSlots, SlotProcess
from jobrunner.testing.simulation.world import World

MAX_SECONDS = 100_000.0
"""Simulated time in seconds after which unfinished calls count as hanging."""


class SimulatedCluster:
    """A cluster with simulated time, network and processes, on which your functions run; see the module.

    Args:
        seed: The seed that determines all faults and their times.
        workers: The number of slots of each worker.
        seconds: The duration of each call in simulated seconds.
        drop: The share of messages that are lost, from 0 to 1.
        duplicate: The share of messages that arrive twice.
        late: The share of messages that arrive late.
        latest: The maximum delay of late messages, in simulated seconds.
        kill_workers: The number of times that a worker is killed; it is started again.
        kill_slots: The number of times that a slot is killed.
        kill_coordinator: The number of times that the coordinator is killed; it is started again.
        faults_until: The time in simulated seconds in which these deaths happen.
        crash_limit: The number of deaths during a call after which the call fails.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        workers: Sequence[int] = (2, 2),
        seconds: float = 0.1,
        drop: float = 0.0,
        duplicate: float = 0.0,
        late: float = 0.0,
        latest: float = 5.0,
        kill_workers: int = 0,
        kill_slots: int = 0,
        kill_coordinator: int = 0,
        faults_until: float = 5.0,
        crash_limit: int = 10,
    ) -> None:
        rng = random.Random(seed)
        kinds = ["crash worker"] * kill_workers + [KILL_SLOT] * kill_slots
        kinds += ["crash coordinator"] * kill_coordinator
        scenario = Scenario(
            profile="test",
            workers=list(workers),
            clients=0,
            conditions=Conditions(drop=drop, duplicate=duplicate, late=late, latest=latest),
            incidents=[
                Incident(rng.uniform(0.0, faults_until), kind, rng.uniform(0.1, 1.0)) for kind in kinds
            ],
            faults_until=faults_until,
            crash_limit=crash_limit,
            peer_timeout=2.0,
        )
        self.counts: Counter[str] = Counter()
        """The number of executions, by the name of the call."""
        self.world = _World(self, seed, scenario, seconds)
        self._executors: list[Executor] = []

    def executor(self) -> Executor:
        """Return an Executor on this cluster, which is a client of its own."""
        node = self.world.start_client()
        assert isinstance(node, _Client)
        self._executors.append(Executor(_Backend(self, node)))
        return self._executors[-1]

    def executions(self, name: str) -> int:
        """Return how often calls with this name (the function's, or that of the option) have begun."""
        return self.counts[name]

    @property
    def now(self) -> float:
        """The simulated time since the start, in seconds."""
        return self.world.now - self.world.started

    def run_until(self, done: Callable[[], bool]) -> None:
        """Let time pass until `done` is true; raise JobRunnerError if it never becomes true."""
        end = self.world.now + MAX_SECONDS
        while not done():
            if self.world.now > end:
                raise JobRunnerError(
                    f"not done after {MAX_SECONDS:g} simulated seconds:\n{self.world.trace()}"
                )
            self.world.step()

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for executor in self._executors:
            if kind is None:
                executor.shutdown()
            else:
                executor._lifetime.kill()
        blocking.install(None)


class _Witness(Truth):
    """A witness that counts, and expects nothing."""

    def started(self, node: WorkerNode, slot: SlotProcess, task: SlotTask) -> Execution:
        return Execution(task.id, task.attempt, node.name)

    def check(self, holds: bool, law: str) -> None:
        """Ignore laws, because they are about symbolic calls."""


class _Slot(SlotProcess):
    """A slot that really runs calls, when they begin."""

    world: _World

    def __init__(self, slots: SimulatedSlots, slot: Any, pid: int) -> None:
        super().__init__(slots, slot, pid)
        self._result: tuple[int, Payload] = (m.OK, b"")

    def read(self, task: SlotTask) -> Call:
        self.world.cluster.counts[task.name] += 1
        self._result = self._execute(task)
        return Call((self.world.seconds,) * (task.kind.stop if isinstance(task.kind, Chunk) else 1))

    def divide(self, number: int) -> None:
        """Give nothing back, because all elements of a chunk have run when it begins."""

    def outcome(self, task: SlotTask, ending: str) -> tuple[int, Payload]:
        if ending == RETURN:
            return self._result
        return m.ERROR, serialization.dump_exception(KeyboardInterrupt())

    def _execute(self, task: SlotTask) -> tuple[int, Payload]:
        # Otherwise the wait of a call inside a call would let time pass in the middle of a step.
        blocking.install(None)
        try:
            definition = self.functions[task.function]
            parts = {part: self.functions[part].blob for part in definition.parts}
            fn = ready(serialization.load_function(definition.blob, parts))
            if not isinstance(task.kind, Chunk):
                args, kwargs = serialization.load_call(task.payload, task.values)
                return m.OK, serialization.dump_result(fn(*args, **kwargs), fn=fn)
            elements = load_elements(task.payload)
            return m.OK, run_fixed(fn, elements, *task.kind, task.retry_on).dump()
        except Exception as exc:
            return m.ERROR, serialization.dump_exception(exc)
        finally:
            blocking.install(self.world.cluster_hook)


class _Client(ClientNode):
    """A client that passes its events to its backend."""

    backend: _Backend

    def perform(self, effect: Any) -> None:
        if isinstance(effect, ResolveTasks):
            for outcome in effect.outcomes:
                self.backend.resolve(outcome)
        elif isinstance(effect, RequestResults):
            needed = self.backend.needed
            told = [outcome_of(t, needed[t]) for t in effect.ids if t in needed and needed[t].done()]
            answered = {outcome.id for outcome in told}
            self.post(ResultReplyRequested(told, [t for t in effect.ids if t not in answered]))
        elif isinstance(effect, AnnounceRunning):
            for task in effect.ids:
                self.backend.pending[task].confirm_running()


class _Backend(Backend):
    """The backend of one simulated client."""

    name = "simulated"

    def __init__(self, cluster: SimulatedCluster, node: _Client) -> None:
        self.pending: dict[TaskId, Future[Any]] = {}
        self.needed: dict[TaskId, Future[Any]] = {}
        """The Futures that are arguments of others."""
        self._chunks: set[TaskId] = set()
        self._cluster = cluster
        self._node = node
        self._closed = False
        node.backend = self
        blocking.install(cluster.world.cluster_hook)

    @property
    def max_workers(self) -> int:
        return sum(self._cluster.world.scenario.workers)

    def prepare(self, fn: Callable[..., Any]) -> Prepared:
        return Prepared(fn)

    def submit(
        self,
        prepared: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[Any]:
        depends_on: list[AnyFuture] = []
        try:
            if may_hold_futures(args, kwargs):
                args, kwargs, depends_on = with_placeholders(args, kwargs)
            args, kwargs = prepared.arguments(args, kwargs)
            payload = serialization.dump_call(args, kwargs, snapshot=True, function=prepared.dumped.name)
        except SerializationError as exc:
            failed: Future[Any] = Future()
            failed.set_exception(exc)
            return failed
        return self._send(prepared, payload, SINGLE_CALL, options, self._ids_of(depends_on))

    def _ids_of(self, futures: Sequence[AnyFuture]) -> tuple[TaskId, ...]:
        ids = []
        for future in futures:
            if not isinstance(future, Future) or future._canceller != self._cancel:
                raise NotSupportedError(
                    "on a simulated cluster only Futures of the same executor can be arguments"
                )
            ids.append(TaskId(future.id))
            self.needed[ids[-1]] = future
        return tuple(ids)

    copies = True

    def held(self, prepared: Prepared) -> Held | None:
        return prepared.held()

    def pack(self, elements: Any) -> Payload:
        return dump_elements(elements, snapshot=True)

    def submit_chunk(
        self,
        prepared: Prepared,
        packed: Payload,
        start: int,
        stop: int,
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        return self._send(prepared.for_map(), packed, Chunk(start, stop), options)

    def _send(
        self,
        prepared: Prepared,
        payload: Payload,
        kind: Kind,
        options: m.TaskOptions,
        depends_on: tuple[TaskId, ...] = (),
    ) -> Future[Any]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if options.detach:
            raise NotSupportedError("a simulated cluster ends with its test: it has no detached calls")
        future: Future[Any] = Future()
        task = self._node.new_id()
        future.bind(task, options.name or prepared.definition.name, self._cancel)
        self.pending[task] = future
        if isinstance(kind, Chunk):
            self._chunks.add(task)
        body = m.CallBody(prepared.definition.key, payload, kind, options)
        spec = m.TaskSpec(task, body, depends_on)
        self._node.post(SubmitRequested([spec], list(prepared.definitions)))
        return future

    def resolve(self, outcome: m.Outcome) -> None:
        future = self.pending.pop(outcome.id)
        if outcome.status == m.CANCELLED:
            future.confirm_cancelled()
        elif outcome.status == m.OK:
            chunk = outcome.id in self._chunks
            load = load_element_results if chunk else serialization.load_result
            future.duration = outcome.duration
            future.set_result(load(outcome.payload))
        else:
            future.set_exception(exception_of(outcome, future.name))
        self._chunks.discard(outcome.id)

    def _cancel(self, future: Future[Any], running: bool) -> bool:
        self._node.post(CancelRequested([TaskId(future.id)], running))
        answered = self._cluster.now + 1.0
        self._cluster.run_until(lambda: future.done() or (not running and self._cluster.now > answered))
        return future.cancelled()

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        self._node.post(CancelRequested([TaskId(future.id) for future in futures], running))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closed = True
        if cancel_futures:
            self.cancel_all(list(self.pending.values()))
        if wait:
            self._cluster.run_until(lambda: not self.pending)

    def kill(self) -> None:
        self._closed = True
        for future in list(self.pending.values()):
            future.confirm_cancelled()
        self.pending.clear()

    def status(self) -> dict[str, Any]:
        return {"backend": self.name, "pending": len(self.pending), "now": self._cluster.now}


class _World(World):
    """A world with calls of users instead of symbolic ones, and without comparisons."""

    truth_class = _Witness
    slot_class = _Slot
    client_class = _Client

    def __init__(self, cluster: SimulatedCluster, seed: int, scenario: Scenario, seconds: float) -> None:
        self.cluster = cluster
        self.seconds = seconds
        self.cluster_hook = lambda awaited=None: _let_time_pass(self)
        super().__init__(seed, scenario)
        self.started = self.now


@contextmanager
def _let_time_pass(world: _World) -> Iterator[None]:
    """Let time pass in this block while somebody waits, until there is nothing to wait for."""
    backends = [client.backend for client in world.clients if isinstance(client, _Client)]
    world.cluster.run_until(lambda: not any(backend.pending for backend in backends))
    yield
