"""The slots of one host: child processes, each running one task at a time.

    owner thread                                        slot (see child)
    run, recall, interrupt, signal ---- data, control --->  main thread, control thread
    poll <-------- data, pipes of descriptors 1 and 2, exit ---

A SlotPool has no thread of its own and makes no decisions. Its owner (a worker's core) decides which task goes to which
slot, which task runs again, and when a slot is replaced. The pool obeys, and reports events.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jobrunner.program.flags import THREAD_VARIABLES, Program, no_program
from jobrunner.protocol.effects import SlotEvent, SlotExited, SlotNotStarted, SlotTask
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.messages import FunctionDef, FunctionKey
from jobrunner.system.descriptors import is_shortage, make_room
from jobrunner.system.forks import no_forks
from jobrunner.system.host import current_environment
from jobrunner.workers.framing import (
    CONNECT,
    DIVIDE,
    INTERRUPT,
    RECALL,
    RUN,
    ChannelError,
    Outgoing,
    detach,
    header,
    pack,
)
from jobrunner.workers.memory_limit import SHARED_IDLE
from jobrunner.workers.slot_process import SlotProcess

CANNOT_START = 127
"""Exit code of a slot whose process could not be started, as in a shell."""

START_DESCRIPTORS = 16
"""Upper bound of the number of descriptors in use while a slot starts; it keeps less than half of them."""

# The kinds of descriptors. One poll handles them in this order, so that text comes before the outcome of the task
# that printed it, and the end comes last.
PIPE, DATA, CONTROL, EXIT, WAKE = range(5)


class SlotPool:
    """The slots of one owner.

    The pool is not thread-safe: one thread owns it and calls all methods. On Linux the slots die with the thread that
    started them, so that thread must live as long as the pool.

    A slot that has exited is unknown after the `poll` that reports it; commands to unknown slots have no effect.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        shared_idle: int | None = None,
        program: Program | None = None,
        on_connect: Callable[[], str] = lambda: "",
    ) -> None:
        """Create a pool; `environment` is added to that of the slots, and `program` is the one whose calls they run.

        `on_connect` is called when a call wants to make calls of its own, and returns the reason if it cannot. With
        `shared_idle`, large payloads go to and from slots through shared memory, of which each slot may keep that
        number of bytes for the next ones; with 0 they go only to the slots, and with None slots have no shared memory.
        """
        self._environment = {**current_environment(), **(environment or {})}
        self._environment.pop(SHARED_IDLE, None)
        if shared_idle is not None:
            self._environment[SHARED_IDLE] = str(shared_idle)
        self._shares = bool(shared_idle)
        self._program = program or no_program()
        for name in THREAD_VARIABLES:
            self._environment.setdefault(name, "1")
        self._on_connect = on_connect
        self._slots: dict[SlotId, SlotProcess] = {}
        self._selector = selectors.DefaultSelector()
        self._events: list[SlotEvent] = []
        # The pipe is readable while `_events` has events, so that a wait for `fileno` ends.
        self._wake_reader, self._wake_writer = os.pipe()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, (WAKE, None))

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when `poll` has something to do."""
        descriptor: int = self._selector.fileno()
        return descriptor

    def pids(self) -> list[int]:
        """Return the process ids of the slots; any thread may call this."""
        return [process.pid for process in list(self._slots.values())]

    def poll(self) -> list[SlotEvent]:
        """Return the events since the last call, without waiting, and send data that slots were too busy to take."""
        ready = self._selector.select(0)
        if len(ready) > 1:
            ready.sort(key=lambda pair: pair[0].data[0])
        for key, mask in ready:
            kind: int = key.data[0]
            process: SlotProcess | None = key.data[1]
            if process is None:
                os.read(self._wake_reader, 64)
            elif self._slots.get(process.slot) is process:  # otherwise the slot ended earlier in this loop
                self._handle(kind, process, key.fd, mask)
        events, self._events = self._events, []
        return events

    def spawn(self, slot: SlotId, hash_seed: int | None = None) -> None:
        """Start a slot's process.

        A SlotReady follows, a SlotExited if it cannot be started, or a SlotNotStarted if that may change later.
        `hash_seed` is the value of PYTHONHASHSEED; None means that of this process's environment.
        """
        if slot in self._slots:
            raise ValueError(f"slot {slot} exists")
        try:
            make_room(START_DESCRIPTORS)
            with no_forks:
                process = SlotProcess(slot, self._environment, self._program, self._shares, hash_seed)
        except (OSError, MemoryError) as exc:
            why = f"cannot start a process for this slot: {exc}"
            if isinstance(exc, MemoryError) or is_shortage(exc):
                self._events.append(SlotNotStarted(slot, why))
            else:
                self._events.append(SlotExited(slot, 0, CANNOT_START, None, 0, why, 0, -1))
            os.write(self._wake_writer, b"\0")
            return
        self._slots[slot] = process
        self._selector.register(process.data, selectors.EVENT_READ, (DATA, process))
        for fd in process.pipes:
            self._selector.register(fd, selectors.EVENT_READ, (PIPE, process))
        if process.pidfd >= 0:
            self._selector.register(process.pidfd, selectors.EVENT_READ, (EXIT, process))

    def run(
        self,
        slot: SlotId,
        tasks: Sequence[SlotTask],
        functions: Iterable[FunctionDef] = (),
        to_drop: Iterable[FunctionKey] = (),
    ) -> None:
        """Give tasks to a slot, which runs them after those that it has, without waiting for the slot.

        The numbers of tasks must rise from call to call. `to_drop` takes effect before the first of `tasks`.
        """
        process = self._slots.get(slot)
        if process is None:
            return
        buffers: list[Outgoing] = []
        definitions = [(d.key, d.name, detach(d.blob, buffers), d.parts) for d in functions]
        entries = [
            (
                *task[:5],
                detach(task.payload, buffers),
                *task[6:9],
                [detach(value, buffers) for value in task.values],
                task.retry_on,
            )
            for task in tasks
        ]
        process.runs += 1
        if tasks:
            process.last_given = tasks[-1].number
        told = self._program.told()
        news = None if told is process.told else list(told)
        process.told = told
        process.data.send(header(pack([RUN, definitions, list(to_drop), entries, news])), buffers)
        if process.data.pending:
            self._watch_data(process)

    def recall(self, slot: SlotId, *, bundle: bool = True) -> None:
        """Make the slot give back the tasks that it has not started: a SlotReturned follows.

        With `bundle` it splits the running bundle, too; then a SlotSplit follows, if possible.
        """
        process = self._slots.get(slot)
        if process is not None:
            self._control(process, [RECALL, [process.runs, bundle]])

    def retract(self, slot: SlotId, chunks: Sequence[int] = ()) -> None:
        """Take back the tasks that the slot has not begun, without its help: a SlotRetracted follows, unless it moves.

        A SlotSplit precedes it if a bundle is running, and a SlotDivided if one of `chunks` is. This takes about a
        millisecond, so it is meant for a slot that has not moved for long.
        """
        process = self._slots.get(slot)
        if process is not None:
            self._take(process, lambda: process.retract(chunks))
            os.write(self._wake_writer, b"\0")

    def divide(self, slot: SlotId, number: int) -> None:
        """Make the slot give back the elements of this chunk that have not begun, if it is running.

        A SlotDivided follows.
        """
        process = self._slots.get(slot)
        if process is not None:
            self._control(process, [DIVIDE, number])

    def interrupt(self, slot: SlotId, number: int) -> None:
        """Raise KeyboardInterrupt in this task, if it is running; at most once per task."""
        process = self._slots.get(slot)
        if process is not None:
            self._control(process, [INTERRUPT, number])

    def signal(self, slot: SlotId, name: str) -> None:
        """Send a signal, such as "SIGTERM", to the slot's process group."""
        process = self._slots.get(slot)
        if process is not None:
            process.signal(signal.Signals[name])

    def end(self, slot: SlotId) -> None:
        """Make the slot's process end by itself when it has run its tasks: a SlotExited follows.

        It waits for its threads and calls the functions that are registered with `atexit`, however long that takes.
        """
        process = self._slots.get(slot)
        if process is not None and not process.ending:
            process.ending = True
            process.data.end()

    def end_all(self, seconds: float, tell: Callable[[list[SlotEvent]], None]) -> None:
        """Make all processes end by themselves at the same time within `seconds`; kill the others then.

        `tell` receives their last events. Processes that have run nothing are killed at once.
        """
        for process in self._slots.values():
            if process.runs and seconds:
                self.end(process.slot)
            else:
                process.signal(signal.SIGKILL)
        until = time.monotonic() + seconds
        waiting = select.poll()
        waiting.register(self._selector.fileno(), select.POLLIN)
        while any(process.ending for process in self._slots.values()):
            left = until - time.monotonic()
            if left <= 0:
                break
            waiting.poll(left * 1000)
            tell(self.poll())
        self.close()

    def close(self) -> None:
        """Kill all slots and the processes that their tasks have started, and wait for their end.

        It may be called again.
        """
        for process in self._slots.values():
            process.signal(signal.SIGKILL)
        for process in self._slots.values():
            process.discard()
        self._slots.clear()
        if self._selector.get_map() is not None:
            self._selector.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def _handle(self, kind: int, process: SlotProcess, fd: int, mask: int) -> None:
        if kind == PIPE:
            events, open_still = process.read_pipe(fd)
            self._events += events
            if not open_still:
                self._selector.unregister(fd)
        elif kind == DATA:
            self._handle_data(process, mask)
        elif kind == CONTROL:
            process.control.flush()
            if not process.control.pending:
                self._selector.unregister(fd)
        else:
            self._finish(process)

    def _handle_data(self, process: SlotProcess, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            process.data.flush()
            if not process.data.pending:
                self._watch_data(process)
        if mask & selectors.EVENT_READ and self._take(process, process.read_data):
            if process.data.closed and process.ending and process.pidfd >= 0:
                self._selector.unregister(process.data)  # the end of the process will be noticed soon
            elif process.data.closed:
                self._finish(process)

    def _take(self, process: SlotProcess, read: Callable[[], list[SlotEvent]]) -> bool:
        """Handle the messages of a slot; return False if they make no sense and the slot is gone."""
        try:
            self._events += read()
        except ChannelError:
            process.signal(signal.SIGKILL)  # a task has damaged the slot
            self._finish(process)
            return False
        if process.wants_to_connect:
            process.wants_to_connect = False
            self._control(process, [CONNECT, self._on_connect()])
        return True

    def _watch_data(self, process: SlotProcess) -> None:
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.data.pending else 0)
        self._selector.modify(process.data, mask, (DATA, process))

    def _control(self, process: SlotProcess, item: list[Any]) -> None:
        process.control.send(header(pack(item)))
        if process.control.pending and process.control.fileno() not in self._selector.get_map():
            self._selector.register(process.control, selectors.EVENT_WRITE, (CONTROL, process))

    def _finish(self, process: SlotProcess) -> None:
        del self._slots[process.slot]
        watched = self._selector.get_map()
        for fd in (process.data.fileno(), process.control.fileno(), process.pidfd, *process.pipes):
            if fd in watched:
                self._selector.unregister(fd)
        self._events += process.finish()
