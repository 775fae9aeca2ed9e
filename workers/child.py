"""A slot's main: the process that runs tasks, one at a time, and survives whatever they raise.

Two threads. The main thread runs tasks; it reads the data socket when its own queue is empty. The control thread
waits on the control socket: it gives tasks back that have not started, interrupts the one that runs, sends
what has waited too long in the outbox, and ends the process when the worker is gone.

The program's `__main__` is never imported here, so a script without `if __name__ == "__main__"` works.
Imports are few, for a slot must start fast: nothing here needs zmq, asyncio, typer or logging.

Started by `pool` as

    python -c BOOT DATA CONTROL BOARD LIFELINE NUMBER PARENT COUNT [sys.argv ...] [sys.path ...]

with four inherited descriptors, the slot's number, the worker's process id, and the length of sys.argv. It is BOOT and
not `-m` so that the program's sys.path holds before the first import, and so that `__main__` is a module where no class
of a user can collide with one of ours.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from _signal import getsignal  # type: ignore[import-not-found]
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Any, NoReturn

from jobrunner.calls import initializers, serialization
from jobrunner.fixed import FixedResults, calls, load_elements
from jobrunner.nested import task_context
from jobrunner.nested import wait_hooks as blocking
from jobrunner.program import takeover as settling
from jobrunner.protocol.wire.payloads import OUT_OF_BAND, Payload
from jobrunner.script.calls import ready
from jobrunner.shared_memory.limits import keep_out_of_the_way
from jobrunner.workers import memory_limit as memory
from jobrunner.workers.bundle import Bundle
from jobrunner.workers.channel import BlockingChannel
from jobrunner.workers.chunk import Chunk
from jobrunner.workers.crash_board import BUNDLE, CHUNK, ELEMENT, ENDING, GATE, PLAIN, CrashBoard
from jobrunner.workers.framing import (
    BLOCKED,
    CONNECT,
    DIVIDE,
    DIVIDED,
    INTERRUPT,
    OUTCOME,
    READY,
    RECALL,
    RETURNED,
    SPLIT,
    SPOILED,
    attach,
    detach,
    unpack,
)
from jobrunner.workers.gate import ALL, OPEN, decided
from jobrunner.workers.lifetime_ties import die, die_with_parent, fail, out_of_the_way, tie_group_to
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.shared_results import SlotSharing, release
from jobrunner.workers.standstill import Standstill
from jobrunner.workers.streams import flush_quietly, slot_streams
from jobrunner.workers.waits import Waits

OK = 0
ERROR = 1
FINAL_ERROR = 9
INITIALIZER_FAILED = 10
IN_INITIALIZER = -2
"""The values of the constants of this name in protocol.messages and .effects, which would take longer to import than
all other modules."""

FLUSH_INTERVAL = 0.001
"""Maximum time in seconds for which outcomes wait for others while there are more tasks to run."""

CONTROL_INTERVAL = 0.02
"""Interval in seconds at which the control thread sends the entries of the outbox while a task runs on."""

IMPORTING = "<frozen importlib._bootstrap>"
"""The file of the code that imports modules, as its frames name it."""


class Slot:
    """The state that the two threads share; comments name the fields that only one of them uses."""

    def __init__(
        self, data: BlockingChannel, control: BlockingChannel, board: CrashBoard, shared_idle: int = 0
    ) -> None:
        self.data = data
        self.control = control
        self.board = board
        self.main_thread = threading.get_ident()
        self.wake_reader, self.wake_writer = map(out_of_the_way, os.pipe())
        self.outbox = Outbox(board, data, self.wake_writer)
        self.path = list(sys.path)  # the program's, as last told
        self.configuration = ""
        self.stdout, self.stderr = slot_streams(self.outbox, self.current)
        # Its operations are atomic; each task goes to one thread. With the payloads of the results it needs.
        self.queue: deque[tuple[Any, Payload, list[Payload]]] = deque()
        self.data_poller = select.poll()
        self.data_poller.register(data.fileno(), select.POLLIN)
        self.receive_lock = threading.Lock()
        self.received = 0  # RUN messages; under receive_lock
        # Of functions and their parts: name, blob, and the keys of the parts.
        self.blobs: dict[bytes, tuple[str, Payload, list[bytes]]] = {}
        # By the initializer that has run before them, too: what it has set in the program's globals, they see.
        self.functions: dict[tuple[bytes | None, bytes], Callable[..., Any]] = {}
        self.initialized: dict[bytes, BaseException | initializers.Provided] = {}  # main thread
        self.running = 0  # the task that may be interrupted; main thread
        self.target = 0  # the task that the control thread wants to interrupt
        self.interrupted = False  # once per task, so that the except clauses below are safe; main thread
        self.fields: list[Any] = []  # the task that runs
        self.bundle: Bundle | None = None  # if it is one; set by the main thread
        self.chunk: Chunk | None = None  # as the bundle
        self.elements: list[
            Any
        ] = []  # those of the chunk that runs: none, in a process that one of them forks
        self.taken = range(0)  # the tasks that the worker has last taken back by itself; main thread
        self.asked_to_stop = 0  # the last one that the worker wanted to be interrupted; control thread
        self.memory_limit = memory.limit_from_environment()
        self.forked = False
        self.blocked = 0  # nested waits; main thread
        self.told_blocked = False  # what the worker was told; under the outbox's lock
        self.standstill = Standstill(self.wake)
        self.waits = Waits(self.outbox)
        self.connecting = threading.Lock()
        self.may_connect = False  # under `connecting`
        self.answered = threading.Event()
        self.refusal = ""  # why it may not connect; control thread
        self.spoiled = False  # this process is to run nothing more; main thread
        self.last_flush = 0.0
        self.last_hold = -1
        self.sigint_handler = self.on_sigint
        self.sharing = SlotSharing(shared_idle, self.wake)

    def wake(self) -> None:
        """Wake the control thread."""
        os.write(self.wake_writer, b"\0")

    def current(self) -> int:
        return self.board.number

    # --- what a task may ask, see `context` ---------------------------------------------------------------

    def task(self) -> task_context.Task | None:
        number, fields = self.board.number, self.fields
        if not number or self.forked:
            return None
        worker = os.environ.get(task_context.TASK_WORKER, "")
        task, bundle = fields[1], self.bundle
        if bundle is not None:
            from jobrunner.protocol.wire.ids import (
                call_id,  # here: it takes longer to import than most slots need it
            )

            task = call_id(task, bundle.index)
        return task_context.Task(task, fields[2], fields[3], worker, lambda: self.asked_to_stop == number)

    def cluster(self) -> str:
        self.ask_to_connect()
        return os.environ[task_context.TASK_ADDRESS]

    def ask_to_connect(self) -> None:
        """Ask the worker to listen for connections, unless it does already; raise ConfigError if it cannot."""
        with self.connecting:
            if self.may_connect:
                return
            self.answered.clear()
            self.outbox.put([CONNECT, 1])
            self.flush()
            self.answered.wait()
            if self.refusal:
                from jobrunner.errors import ConfigError

                raise ConfigError(self.refusal)
            self.may_connect = True

    # --- main thread -------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run tasks until the worker closes the data socket."""
        self.outbox.put([READY, os.getpid()])
        while True:
            if self.spoiled and self.queue:
                self.give_back()
            try:
                fields, payload, values = self.queue.popleft()
            except IndexError:
                self.flush()
                if not self.wait_for_tasks():
                    return
                continue
            self.restore()
            self.execute(fields, payload, values)
            del payload, values

    def leave(self) -> None:
        """Prepare the interpreter's end, at which threads and atexit functions of the calls finish.

        The worker also detects the end of this process by the end of the socket, which therefore stays open to the
        last.
        """
        self.last_hold = os.dup(self.data.fileno())
        self.flush()
        # What lies about in cycles is finalized now. What is in use then goes with the modules that hold it, and the
        # rest with the process: to look through all of it again and again takes most of the time of an end.
        gc.collect()
        gc.freeze()

    def wait_for_tasks(self) -> bool:
        """Wait for a message, and handle it unless the control thread did; return False at the end."""
        before = self.received
        self.data_poller.poll()
        with self.receive_lock:
            return self.receive() if self.received == before else True

    def receive(self) -> bool:
        """Handle one message of the data socket, with `receive_lock` held; return False at the end."""
        message = self.data.receive()
        if message is None:
            return False
        header, buffers = message
        parts = iter(buffers)
        for _, functions, to_drop, tasks, told in unpack(header):
            if told is not None:
                self.hear(*told)
            for key in to_drop:
                self.blobs.pop(key, None)
                for pair in [pair for pair in self.functions if pair[1] == key]:
                    del self.functions[pair]
            for key, name, blob, keys in functions:
                self.blobs[key] = name, attach(blob, parts), keys
            for fields in tasks:
                payload = attach(fields[5], parts)
                self.queue.append((fields, payload, [attach(value, parts) for value in fields[9]]))
        self.received += 1
        return True

    def hear(self, path: list[str], authkey: bytes, configuration: str) -> None:
        """Take over the program's present module path, key and configuration.

        Entries that calls have added to the module path here stay in front of the program's entries.
        """
        if path != self.path:
            added = [entry for entry in sys.path if entry not in self.path]
            sys.path[:] = [*added, *path]
            self.path = path
            importlib.invalidate_caches()
        if authkey:
            settling.take_key(authkey)
        if configuration != self.configuration:
            from jobrunner.program import (
                configuration as configured,  # here: most programs have configured nothing
            )

            self.configuration = configuration
            configured.configure(configuration)

    def restore(self) -> None:
        """Undo the changes of the last task that would affect the next one."""
        if self.stdout.sink.gone or self.stderr.sink.gone:
            self.stdout, self.stderr = slot_streams(self.outbox, self.current)
        if sys.stdout is not self.stdout or sys.stderr is not self.stderr:
            sys.stdout, sys.stderr = self.stdout, self.stderr
        # Not signal.getsignal, which looks for an enum first: that takes longer than all the rest.
        if getsignal(signal.SIGINT) is not self.sigint_handler:
            signal.signal(signal.SIGINT, self.sigint_handler)

    def execute(self, fields: list[Any], payload: Payload, values: list[Payload]) -> None:
        """Run one task, and put its outcome into the outbox."""
        number, _id, _name, _attempt, function, _payload, shape, initializer, depth, _values, retry_on = (
            fields
        )
        if number in self.taken:
            return
        kind = (PLAIN, BUNDLE, CHUNK)[len(shape)]  # see protocol.wire.kinds
        self.fields = fields
        self.board.start(number, kind)
        if self.board.fields[GATE]:
            self.may_go_on()
        if number in self.taken:
            self.board.finish()
            return
        if kind == CHUNK:
            self.chunk = Chunk(number, shape[0], shape[1], self.board.fields)
        blocking.set_depth_of_process(depth + 1)
        self.standstill.begin()
        self.interrupted = False
        args = kwargs = value = fn = None
        started = finished = perf_counter()
        try:
            # From here on a KeyboardInterrupt may come at any point, but only one.
            try:
                self.running = number
                for shared in (payload, *values):
                    self.sharing.expect(shared)
                if initializer is not None:
                    self.run_initializer(initializer)
                # Before the arguments, which may refer to the script that comes with it.
                fn = self.function(function, initializer)
                started = perf_counter()  # the next call of it will find it loaded
                if kind == BUNDLE:
                    self.bundle = Bundle(number, payload, self.board.results_writer())
                    status, result = self.run_bundle(fn, self.bundle)
                elif kind == PLAIN:
                    args, kwargs = serialization.load_call(payload, values)
                    release(payload, *values)
                    value = fn(*args, **kwargs)
                else:
                    value = self.run_chunk(fn, payload, shape[0], shape[1], retry_on)
            finally:
                self.running = 0
                finished = perf_counter()
            if self.bundle is None:
                store = self.sharing.store
                if isinstance(value, FixedResults) and kind == CHUNK:
                    status, result = OK, value.dump(store)
                else:
                    status, result = OK, serialization.dump_result(value, store, fn)
            elif self.bundle.was_split:
                started = finished - self.bundle.durations[-1]  # the others have been told of
        except BaseException as exc:
            self.running = 0
            if self.memory_limit and isinstance(exc, MemoryError):
                memory.explain(exc, self.memory_limit)
            final = retry_on is not None and not serialization.is_one_of(exc, retry_on)
            status, result = (
                INITIALIZER_FAILED
                if exc is self.initialized.get(initializer)
                else FINAL_ERROR
                if final
                else ERROR,
                serialization.dump_exception(serialization.without_frames_of(__file__, exc)),
            )
        self.bundle = self.chunk = None
        # The memory of the arguments may be filled again from now on, unless the task has kept them.
        args = kwargs = value = None
        if self.elements:
            self.elements = []
        if self.forked:
            self.leave_fork(status)
        if sys.stdout is not self.stdout:
            flush_quietly(sys.stdout)
        if sys.stderr is not self.stderr:
            flush_quietly(sys.stderr)
        self.stdout.sink.end()
        self.stderr.sink.end()
        if self.spoiled:
            self.outbox.put([SPOILED, 1])  # before the worker takes it for idle
        # It stood still to its end, has left a wait open, or was interrupted as one ended.
        if self.told_blocked:
            self.blocked = 0
            self.tell_blocked()
        self.waits.end()
        self.put_outcome(number, status, result, finished - started)
        self.board.finish()

    def run_chunk(
        self, fn: Callable[..., Any], payload: Payload, start: int, stop: int, retry_on: bytes | None
    ) -> FixedResults:
        loaded = load_elements(payload)
        release(payload)
        results = FixedResults(__file__, retry_on, stop - start)
        # Each access less counts, for there may be millions of elements a second.
        keep, fields, position, gate = results.values.append, self.board.fields, ELEMENT, GATE
        elements, call = calls(fn, loaded, start, stop)
        self.elements = elements
        kind: type | None = None
        chunk = self.chunk
        assert chunk is not None
        for index, element in chunk.begin(elements):
            fields[position] = index
            if fields[gate] and not self.may_go_on():
                break
            try:
                value = call(element)
                if type(value) is kind:
                    keep(value)
                else:
                    kind = results.add(value)
            except BaseException as exc:
                was_interrupted = self.interrupted
                if was_interrupted and isinstance(exc, KeyboardInterrupt):
                    raise  # it is the task that was interrupted, not this element
                results.add_failure(exc)
                if self.interrupted and not was_interrupted:
                    raise KeyboardInterrupt from None  # it came while the failure was pickled
        if not self.forked:  # where the control thread is not, and may have left the lock behind
            self.note_ending(chunk.number)
            chunk.end()
        return results

    def run_bundle(self, fn: Callable[..., Any], bundle: Bundle) -> tuple[int, Payload]:
        """Run the calls of a bundle until they are done or taken away; return status and payload of its outcome."""
        board = self.board.fields
        status, result = OK, b""
        while bundle.calls:
            try:
                call = bundle.calls.popleft()
            except IndexError:  # the control thread took the last one
                break
            bundle.index += 1
            board[ELEMENT] = bundle.index
            if board[GATE] and not self.may_go_on():
                break
            started = perf_counter()
            try:
                args, kwargs = serialization.load_call(call)
                status, result = OK, serialization.dump_small_result(fn(*args, **kwargs), fn)
            except BaseException as exc:
                if self.interrupted and isinstance(exc, KeyboardInterrupt):
                    raise  # it is the task that was interrupted, not this call
                status, result = (
                    ERROR,
                    serialization.dump_small_exception(serialization.without_frames_of(__file__, exc)),
                )
            if self.forked:
                self.leave_fork(status)
            self.restore()
            bundle.add(result, perf_counter() - started, status == ERROR)
            if bundle.full:
                self.split(bundle)
        self.note_ending(bundle.number)
        if bundle.end():
            return OK, bundle.results()
        return status, result if len(result) < OUT_OF_BAND else (result,)

    def may_go_on(self) -> bool:
        """Return whether the noted call of the running bundle, or element of the running chunk, may begin.

        This is called if the gate is not open. For tasks, `taken` tells.
        """
        fields = self.board.fields
        decision = decided(fields)
        if decision is None:
            return True
        self.taken = decision.taken
        fields[GATE] = OPEN  # behind that, for an interrupt may come between the two
        for whole in (self.bundle, self.chunk):
            if whole is not None and whole.number == decision.number and decision.element != ALL:
                return whole.keep(decision.element)
        return True

    def note_ending(self, number: int) -> None:
        """Note that from now on the worker takes nothing of this bundle or chunk."""
        self.board.fields[ENDING] = number
        if self.board.fields[GATE]:
            self.may_go_on()

    def split(self, bundle: Bundle) -> None:
        """Send the results so far, and let the calls that have not started run elsewhere; both threads call this."""

        def tell(results: bytes, running: int) -> None:
            self.outbox.put([SPLIT, [bundle.number, results, running]])
            self.outbox.flush()

        bundle.split(tell)

    def run_initializer(self, key: bytes) -> None:
        """Run an initializer when a task names it for the first time; raise InitializerError each time if it fails."""
        if key not in self.initialized:
            try:
                self.board.fields[ELEMENT] = IN_INITIALIZER
                self.initialized[key] = initializers.run(self.function(key, None))
                self.board.fields[ELEMENT] = -1
                # It is not called again, and what it ships may be large.
                self.functions.pop((None, key), None)
                self.blobs.pop(key, None)
            except BaseException as exc:
                if self.interrupted and isinstance(exc, KeyboardInterrupt):
                    raise
                from jobrunner.errors import InitializerError

                name = self.blobs[key][0] if key in self.blobs else "?"
                what = serialization.describe(exc)
                failure = InitializerError(f"the initializer {name} failed in this slot: {what}")
                failure.__cause__ = serialization.without_frames_of(__file__, exc)
                self.initialized[key] = failure
                import logging  # here: slots whose initializer works never need it

                log = logging.getLogger("concurrent.futures")  # as the standard library's pools do
                log.critical("Exception in initializer:", exc_info=exc)
        known = self.initialized[key]
        if isinstance(known, BaseException):
            raise known.with_traceback(None)
        known.set_streams()

    def function(self, key: bytes, initializer: bytes | None) -> Callable[..., Any]:
        """Return a function, after its initializer has run."""
        fn = self.functions.get((initializer, key))
        if fn is None:
            if key not in self.blobs:
                from jobrunner.errors import ProtocolError

                raise ProtocolError(f"function {key.hex()} was not sent to this slot before its task")
            importlib.invalidate_caches()  # its module may have been written a moment ago
            fn = self.functions[initializer, key] = self.load(key)
            provided = None if initializer is None else self.initialized[initializer]
            if isinstance(provided, initializers.Provided):
                provided.give_to(fn)
        return ready(fn)

    def load(self, key: bytes) -> Callable[..., Any]:
        """Unpickle a function; its parts are kept, because other functions may have them, too."""
        _, blob, keys = self.blobs[key]
        parts = {part: self.blobs[part][1] for part in keys}
        for payload in (blob, *parts.values()):
            self.sharing.expect(payload)
        return serialization.load_function(blob, parts)

    def put_outcome(self, number: int, status: int, result: Payload, duration: float) -> None:
        """Keep an outcome for the next flush, or send it now if it is large or nothing was sent for a while."""
        if isinstance(result, bytes):
            self.outbox.put([OUTCOME, number, status, result, duration])
            if perf_counter() - self.last_flush >= FLUSH_INTERVAL:
                self.flush()
            elif self.queue:
                self.outbox.arm()
        else:
            buffers: list[Any] = []
            self.outbox.send([OUTCOME, number, status, detach(result, buffers), duration], buffers)

    def flush(self) -> None:
        self.outbox.flush()
        self.last_flush = perf_counter()

    @contextmanager
    def waiting(self, awaited: blocking.AwaitedCalls | None = None) -> Iterator[None]:
        """Tell the worker during a wait that this slot's turn is free; this is the hook of `wait_hooks`."""
        self.blocked += 1
        wait = self.waits.enter(awaited)
        try:
            self.tell_blocked()
            yield
        finally:
            if not self.forked:  # there another thread may have left the lock behind
                self.waits.leave(wait, self.running)
            self.blocked = max(0, self.blocked - 1)  # it may be of a task that has left it open, and ended
            self.tell_blocked()

    def tell_blocked(self) -> None:
        """Tell the worker whether this slot's turn is free, if that has changed."""
        if self.forked:
            return
        with self.outbox.lock:
            blocked = self.blocked > 0 or (self.running > 0 and self.standstill.task == self.running)
            if blocked != self.told_blocked:
                self.told_blocked = blocked  # first: an interrupt between the two costs nothing then
                self.outbox.put([BLOCKED, int(blocked)])
                self.outbox.flush()

    def on_sigint(self, _signum: int, frame: FrameType | None) -> None:
        if self.outbox.busy:
            self.outbox.postpone_interrupt()
            return
        # With a target it is the control thread's, maybe too late; without, it is the task's own.
        target, self.target = self.target, 0
        if self.interrupted or not self.running or target not in (0, self.running):
            return
        self.interrupted = True
        self.waits.interrupted()
        self.spoiled = self.spoiled or imports(frame)
        raise KeyboardInterrupt

    # --- a process that a task forked --------------------------------------------------------------------

    def after_fork(self) -> None:
        """Release, in a forked process, everything that belongs to the slot."""
        self.forked = self.outbox.forked = True
        blocking.install(None)
        blocking.watch_callers(None)
        if sys.stdout is self.stdout:
            sys.stdout = sys.__stdout__
        if sys.stderr is self.stderr:
            sys.stderr = sys.__stderr__
        self.stdout.sink.forget()
        self.stderr.sink.forget()
        if getsignal(signal.SIGINT) is self.sigint_handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.data.close()
        self.control.close()
        if self.last_hold >= 0:
            os.close(self.last_hold)
        self.elements.clear()

    def leave_fork(self, status: int) -> NoReturn:
        """End a forked process in which the task has returned, too, because it must not continue as a slot."""
        for stream in (sys.stdout, sys.stderr):
            flush_quietly(stream)
        os._exit(0 if status == OK else 1)

    # --- control thread ----------------------------------------------------------------------------------

    def run_control_thread(self, parent: int) -> None:
        try:
            die_with_parent(parent)
            self.control_loop()
        except BaseException:
            fail()

    def control_loop(self) -> None:
        poller = select.poll()
        poller.register(self.control.fileno(), select.POLLIN)
        poller.register(self.wake_reader, select.POLLIN)
        while True:
            number = self.running
            times = [self.sharing.look_after(), self.standstill.look(number), self.waits.look(number)]
            self.tell_blocked()
            if self.outbox.armed:
                times.append(CONTROL_INTERVAL)
            seconds = min((time for time in times if time is not None), default=None)
            for fd, _ in poller.poll(None if seconds is None else seconds * 1000):
                if fd == self.wake_reader:
                    os.read(self.wake_reader, 64)
                else:
                    self.obey()
            if self.outbox.armed:
                self.flush_outbox()

    def flush_outbox(self) -> None:
        # First disarm, then look: whoever puts something after the look arms again.
        self.outbox.armed = False
        if self.board.count:
            self.outbox.armed = True
            self.outbox.flush()

    def obey(self) -> None:
        message = self.control.receive()
        if message is None:
            die()
        for kind, argument in unpack(message[0]):
            if kind == RECALL:
                self.recall(*argument)
            elif kind == DIVIDE:
                self.divide(argument)
            elif kind == CONNECT:
                self.refusal = argument
                self.answered.set()
            elif kind == INTERRUPT and argument == self.running:
                self.target = self.asked_to_stop = argument
                signal.pthread_kill(self.main_thread, signal.SIGINT)

    def divide(self, number: int) -> None:
        """Give back the elements of a chunk that have not begun, if the chunk is running; answer in any case."""

        def tell(stop: int) -> None:
            self.outbox.put([DIVIDED, [number, stop]])
            self.outbox.flush()

        chunk = self.chunk
        if chunk is None or chunk.number != number or not chunk.give_back(tell):
            tell(0)

    def give_back(self) -> None:
        """Give back the tasks that have not started; both threads call this."""
        numbers = []
        while self.queue:
            try:
                numbers.append(self.queue.popleft()[0][0])
            except IndexError:  # the other thread took the last one
                break
        self.outbox.put([RETURNED, numbers])
        self.outbox.flush()

    def recall(self, count: int, split: bool) -> None:
        """Give back the tasks that have not started among those of the first `count` RUN messages.

        With `split`, give back the calls of the running bundle, too.
        """
        while True:
            with self.receive_lock:
                if self.received >= count:
                    break
                if not self.receive():
                    die()
        self.give_back()
        bundle = self.bundle
        if split and bundle is not None:
            self.split(bundle)


def imports(frame: FrameType | None) -> bool:
    """Return whether an import has called this code, because an interrupt would leave half-imported modules."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


def main(arguments: list[str]) -> None:
    """Serve until the worker ends the data socket, then let the interpreter end; `arguments` are described above."""
    faulthandler.enable(2)
    try:
        data, control, board, lifeline, number, parent = (int(argument) for argument in arguments)
        task_context.slot_folder = os.environ.pop(task_context.SLOT_FOLDER, None)
        settling.has_started()
        settling.settle()
        settling.take_limit()
        # The worker's thread may have blocked signals, and that is inherited.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        lifeline = out_of_the_way(lifeline)
        tie_group_to(lifeline)
        settling.become_child(number, parent, lifeline)
        tracker = os.environ.pop(settling.TRACKER, None)
        if tracker is not None:
            settling.take_tracker(out_of_the_way(int(tracker)))
        shared_idle = memory.shared_idle_from_environment()
        keep_out_of_the_way()
        slot = Slot(
            BlockingChannel(socket.socket(fileno=out_of_the_way(data)), shares=shared_idle is not None),
            BlockingChannel(socket.socket(fileno=out_of_the_way(control))),
            CrashBoard(board, alone=True),
            shared_idle or 0,
        )
        os.close(board)
        for stream in (sys.__stdout__, sys.__stderr__):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.register_at_fork(after_in_child=slot.after_fork)
        blocking.install(slot.waiting)
        blocking.watch_callers(slot.standstill.watch)
        task_context.install_in_process(slot)
        slot.restore()
        if slot.memory_limit:
            memory.apply_limit(slot.memory_limit)
        threading.Thread(
            target=slot.run_control_thread, args=(parent,), name="jobrunner-control", daemon=True
        ).start()
        slot.serve()
        slot.leave()
    except BaseException:
        fail()
