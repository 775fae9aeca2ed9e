"""The execution of tasks in a slot's main thread: one call, a chunk or a bundle at a time, from bytes to bytes.

The order of the steps is the point of this module. What begins is noted on the crash board before the gate is looked
at; a task can be interrupted from the moment when it is the running one until its value is there; and its outcome is
in the outbox before the board says that it is over.
"""

from __future__ import annotations

import signal
import sys
from _signal import getsignal  # type: ignore[import-not-found]
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from jobrunner.calls import serialization
from jobrunner.fixed import FixedResults, calls, load_elements
from jobrunner.nested.wait_hooks import set_depth_of_process
from jobrunner.protocol.wire.payloads import OUT_OF_BAND, Payload
from jobrunner.script.calls import ready
from jobrunner.workers import memory_limit as memory
from jobrunner.workers.bundle import Bundle, split_and_tell
from jobrunner.workers.chunk import Chunk
from jobrunner.workers.crash_board import BUNDLE, CHUNK, ELEMENT, ENDING, GATE, PLAIN, CrashBoard
from jobrunner.workers.framing import OUTCOME, SPOILED, detach
from jobrunner.workers.gate import ALL, OPEN, decided
from jobrunner.workers.interrupts import Interrupts, RunningTask
from jobrunner.workers.lifetime_ties import end_fork
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.shared_results import SlotSharing, release
from jobrunner.workers.slot_functions import FILES, SlotFunctions
from jobrunner.workers.streams import SlotStreams
from jobrunner.workers.yielding import Yielding

OK = 0
ERROR = 1
FINAL_ERROR = 9
INITIALIZER_FAILED = 10
"""The values of the constants of this name in protocol.messages and .effects, which would take longer to import than
all other modules."""

FLUSH_INTERVAL = 0.001
"""Maximum time in seconds for which outcomes wait for others while there are more tasks to run."""

OWN_FILES = (__file__, *FILES)
"""The files whose frames precede those of a task in a traceback."""


class TaskRunner:
    """Runs tasks in the main thread, and survives whatever they raise; `queue` holds the tasks that come next."""

    def __init__(
        self,
        board: CrashBoard,
        outbox: Outbox,
        queue: deque[tuple[list[Any], Payload, list[Payload]]],
        *,
        running: RunningTask,
        interrupts: Interrupts,
        yielding: Yielding,
        functions: SlotFunctions,
        sharing: SlotSharing,
        streams: SlotStreams,
        memory_limit: int | None,
    ) -> None:
        self._board = board
        self._outbox = outbox
        self._queue = queue
        self._running = running
        self._interrupts = interrupts
        self._yielding = yielding
        self._functions = functions
        self._sharing = sharing
        self._streams = streams
        self._memory_limit = memory_limit
        self._taken = range(0)
        """The tasks that the worker has last taken back by itself."""
        self._last_flush = 0.0

    def restore(self) -> None:
        """Undo the changes of the last task that would affect the next one."""
        streams = self._streams
        if streams.stdout.sink.gone or streams.stderr.sink.gone:
            streams.renew()
        if sys.stdout is not streams.stdout or sys.stderr is not streams.stderr:
            sys.stdout, sys.stderr = streams.stdout, streams.stderr
        # This is not signal.getsignal, which converts to an enum; that takes longer than everything else here.
        if getsignal(signal.SIGINT) is not self._interrupts.handler:
            signal.signal(signal.SIGINT, self._interrupts.handler)

    def execute(self, fields: list[Any], payload: Payload, values: list[Payload]) -> None:
        """Run one task, and put its outcome into the outbox."""
        number, _id, _name, _attempt, function, _payload, shape, initializer, depth, _values, retry_on = (
            fields
        )
        if number in self._taken:
            return
        kind = (PLAIN, BUNDLE, CHUNK)[len(shape)]  # see protocol.wire.kinds
        running, board, functions = self._running, self._board, self._functions
        running.fields = fields
        board.start(number, kind)
        if board.fields[GATE]:
            self._may_go_on()
        if number in self._taken:
            board.finish()
            return
        if kind == CHUNK:
            running.chunk = Chunk(number, shape[0], shape[1], board.fields)
        set_depth_of_process(depth + 1)
        self._yielding.standstill.begin()
        args = kwargs = value = fn = None
        started = finished = perf_counter()
        try:
            # From here on a KeyboardInterrupt may come at any point, but only one.
            try:
                running.number = number
                for shared in (payload, *values):
                    self._sharing.expect(shared)
                if initializer is not None:
                    if initializer not in functions.cache.provided:
                        functions.initialize(initializer)
                    provided = functions.cache.provided[initializer]
                    if provided.streams:
                        provided.set_streams()
                # The function is loaded before the arguments, which may refer to the script that comes with it.
                fn = ready(functions.cache.get(function, initializer, functions.load))
                started = perf_counter()  # loading does not count, because later calls need no loading
                if kind == PLAIN:
                    args, kwargs = serialization.load_call(payload, values)
                    release(payload, *values)
                    value = fn(*args, **kwargs)
                elif kind == CHUNK:
                    value = self._run_chunk(fn, payload, shape[0], shape[1], retry_on)
                else:
                    running.bundle = Bundle(number, payload, board.results_writer())
                    status, result = self._run_bundle(fn, running.bundle)
            finally:
                running.number = 0
                finished = perf_counter()
            if running.bundle is None:
                store = self._sharing.store
                if isinstance(value, FixedResults) and kind == CHUNK:
                    status, result = OK, value.dump(store)
                else:
                    status, result = OK, serialization.dump_result(value, store, fn)
            elif running.bundle.was_split:
                started = finished - running.bundle.durations[-1]  # the other durations were sent before
        except BaseException as exc:
            running.number = 0
            status, result = self._failure(exc, initializer, retry_on)
        running.bundle = running.chunk = None
        # From now on the memory of the arguments may be used again, unless the task has kept them.
        args = kwargs = value = None
        if running.elements:
            running.elements = []
        if self._outbox.forked:
            end_fork(failed=status != OK)
        self._streams.end_task()
        if self._interrupts.spoiled:
            self._outbox.put([SPOILED, 1])  # this precedes the outcome, after which the slot counts as idle
        # The task stood still until its end, has not closed a wait, or was interrupted at the end of a wait.
        if self._yielding.told:
            self._yielding.take_back()
        self._yielding.waits.end()
        self._put_outcome(number, status, result, finished - started)
        board.finish()

    def flush(self) -> None:
        """Send all outcomes."""
        self._outbox.flush()
        self._last_flush = perf_counter()

    def _failure(
        self, exc: BaseException, initializer: bytes | None, retry_on: bytes | None
    ) -> tuple[int, Payload]:
        """Return the status and the payload of a task that has raised."""
        if self._memory_limit and isinstance(exc, MemoryError):
            memory.explain(exc, self._memory_limit)
        if initializer is not None and exc is self._functions.cache.failures.get(initializer):
            status = INITIALIZER_FAILED
        elif retry_on is not None and not serialization.is_one_of(exc, retry_on):
            status = FINAL_ERROR
        else:
            status = ERROR
        return status, serialization.dump_exception(serialization.without_frames_of(OWN_FILES, exc))

    def _run_chunk(
        self, fn: Callable[..., Any], payload: Payload, start: int, stop: int, retry_on: bytes | None
    ) -> FixedResults:
        loaded = load_elements(payload)
        release(payload)
        results = FixedResults(OWN_FILES, retry_on, stop - start)
        # Each attribute access costs time, because there may be millions of elements per second.
        keep, fields, position, gate = results.values.append, self._board.fields, ELEMENT, GATE
        elements, call = calls(fn, loaded, start, stop)
        self._running.elements = elements
        kind: type | None = None
        chunk = self._running.chunk
        assert chunk is not None
        for index, element in chunk.begin(elements):
            fields[position] = index
            if fields[gate] and not self._may_go_on():
                break
            try:
                value = call(element)
                if type(value) is kind:
                    keep(value)
                else:
                    kind = results.add(value)
            except BaseException as exc:
                was_interrupted = self._interrupts.interrupted == chunk.number
                if was_interrupted and isinstance(exc, KeyboardInterrupt):
                    raise  # the task was interrupted, and not this element alone
                results.add_failure(exc)
                if not was_interrupted and self._interrupts.interrupted == chunk.number:
                    raise KeyboardInterrupt from None  # the interrupt came while the failure was pickled
        if not self._outbox.forked:  # a forked process has no control thread, which may have held the lock
            self._note_ending(chunk.number)
            chunk.end()
        return results

    def _run_bundle(self, fn: Callable[..., Any], bundle: Bundle) -> tuple[int, Payload]:
        """Run the calls of a bundle until they are done or taken away; return status and payload of its outcome."""
        board = self._board.fields
        status, result = OK, b""
        while bundle.calls:
            try:
                call = bundle.calls.popleft()
            except IndexError:  # the control thread took the last call
                break
            bundle.index += 1
            board[ELEMENT] = bundle.index
            if board[GATE] and not self._may_go_on():
                break
            started = perf_counter()
            try:
                args, kwargs = serialization.load_call(call)
                status, result = OK, serialization.dump_small_result(fn(*args, **kwargs), fn)
            except BaseException as exc:
                if self._interrupts.is_interrupt(exc):
                    raise  # the task was interrupted, and not this call alone
                status, result = (
                    ERROR,
                    serialization.dump_small_exception(serialization.without_frames_of(OWN_FILES, exc)),
                )
            if self._outbox.forked:
                end_fork(failed=status != OK)
            self.restore()
            bundle.add(result, perf_counter() - started, status == ERROR)
            if bundle.full:
                split_and_tell(bundle, self._outbox)
        self._note_ending(bundle.number)
        if bundle.end():
            return OK, bundle.results()
        return status, result if len(result) < OUT_OF_BAND else (result,)

    def _may_go_on(self) -> bool:
        """Return whether the noted call of the running bundle, or element of the running chunk, may begin.

        This is called if the gate is not open. For tasks, `_taken` tells.
        """
        fields = self._board.fields
        decision = decided(fields)
        if decision is None:
            return True
        self._taken = decision.taken
        fields[GATE] = OPEN  # this comes second, because an interrupt may come between the two lines
        for whole in (self._running.bundle, self._running.chunk):
            if whole is not None and whole.number == decision.number and decision.element != ALL:
                return whole.keep(decision.element)
        return True

    def _note_ending(self, number: int) -> None:
        """Note that from now on the worker takes nothing of this bundle or chunk."""
        self._board.fields[ENDING] = number
        if self._board.fields[GATE]:
            self._may_go_on()

    def _put_outcome(self, number: int, status: int, result: Payload, duration: float) -> None:
        """Keep an outcome for the next flush, or send it now if it is large or nothing was sent for a while."""
        if isinstance(result, bytes):
            self._outbox.put([OUTCOME, number, status, result, duration])
            if perf_counter() - self._last_flush >= FLUSH_INTERVAL:
                self.flush()
            elif self._queue:
                self._outbox.arm()
        else:
            buffers: list[Any] = []
            self._outbox.send([OUTCOME, number, status, detach(result, buffers), duration], buffers)
