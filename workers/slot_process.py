"""The process of one slot, as the worker sees it: its start, its messages, and its end."""

from __future__ import annotations

import codecs
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from jobrunner.nested.task_context import SLOT_FOLDER
from jobrunner.program.flags import Program, Told, interpreter_options, start_with
from jobrunner.program.takeover import DESCRIPTOR_LIMIT, TRACKER, as_started
from jobrunner.protocol.effects import (
    SlotAwaits,
    SlotBlocked,
    SlotDivided,
    SlotEvent,
    SlotExited,
    SlotFinished,
    SlotOutcome,
    SlotPrinted,
    SlotReady,
    SlotRetracted,
    SlotReturned,
    SlotSplit,
    SlotSpoiled,
)
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.messages import STDERR, STDOUT
from jobrunner.shipping.archive import PREFIX, remove
from jobrunner.system.descriptors import beyond_streams, raised_from, unnamed_file
from jobrunner.system.folders import temporary_folder
from jobrunner.workers import memory_limit as memory
from jobrunner.workers.bundle import pack_results
from jobrunner.workers.channel import BufferedChannel, channel_pair
from jobrunner.workers.crash_board import BUNDLE, CrashBoard
from jobrunner.workers.framing import (
    AWAITS,
    BLOCKED,
    CONNECT,
    DIVIDED,
    OUTCOME,
    PRINTED,
    READY,
    RETURNED,
    SPLIT,
    SPOILED,
    ChannelError,
    Message,
    Received,
    attach,
    header,
    unpack,
)
from jobrunner.workers.gate import ALL, Closed, decision_for

BOOT = """\
import sys
end = 8 + int(sys.argv[7])
arguments, sys.path[:], sys.argv = sys.argv[1:7], sys.argv[end:], sys.argv[8:end]
from jobrunner.workers.child import main
main(arguments)
"""
"""The code with which the interpreter starts, so that the program's sys.path is set before the first import."""

STDERR_LINES = 20
STDERR_CHARACTERS = 16 * 1024
"""Maximum number of characters of a slot's last output on stderr that are kept."""

TRACEBACK_LINES = 30

FATAL = "Fatal Python error: "
"""The text with which faulthandler begins its report about a dying process."""

PIPE_READ = 64 * 1024
PIPE_TURN = 16
"""Maximum number of reads of PIPE_READ bytes from a pipe before others have their turn."""

EXIT_WAIT = 1.0
"""Time in seconds in which a process must end after its socket has closed, before it is killed."""

KILL_WAIT = 5.0
"""Time in seconds in which a killed process must end; one that hangs in the kernel is left behind."""

UNKNOWN_EXIT = 255
"""Exit code of a process that another part of the program has reaped."""


@dataclass(slots=True)
class Ending:
    """The end of a process: exactly one of `exit_code` and `signal` is set, and `peak_memory` is in bytes."""

    exit_code: int | None
    signal: str | None
    peak_memory: int


class SlotProcess:
    """A running slot; the constructor raises OSError if the process cannot be started."""

    def __init__(
        self,
        slot: SlotId,
        environment: Mapping[str, str],
        program: Program,
        shares: bool = False,
        hash_seed: int | None = None,
    ) -> None:
        self.slot = slot
        self.told: Told | None = None
        """The facts about the program that it was last told."""
        self.runs = 0
        """The number of RUN messages sent."""
        self.last_given = 0
        """The number of the last task that it was given."""
        self.wants_to_connect = False
        """Whether a call wants to make calls of its own and waits for the permission."""
        self.ending = False
        """Whether it was told to end by itself."""
        self._last_finished = 0
        self._received = 0
        """The number of items received over the data socket so far."""
        self._seen = 0
        """The number of items received so far, including those that were read from the crash board before they were
        sent."""
        self._stderr = ""
        self._fault = ""
        """The output from the place on where faulthandler began to report the end."""
        self._stderr_number = 0
        self._oom_kills = memory.oom_kills()
        with ExitStack() as theirs, ExitStack() as ours:
            board = unnamed_file("jobrunner-board", CrashBoard.SIZE)
            theirs.callback(os.close, board)
            self._board = CrashBoard(board)
            ours.callback(self._board.close)
            self.data, data = channel(ours, theirs, shares)
            self.control, control = channel(ours, theirs)
            lifeline, end = os.pipe()
            theirs.callback(os.close, lifeline)
            ours.callback(os.close, end)
            # The slot creates the folder when calls ship modules. It is removed here, because slots are mostly killed.
            above = temporary_folder()
            if above is not None:
                folder = f"{above}/{PREFIX}{secrets.token_hex(8)}"
                environment = {**environment, SLOT_FOLDER: folder}
                ours.callback(remove, folder)
            self._popen = start_process(
                slot,
                [data, control, board, lifeline],
                environment,
                program,
                program.told().path,
                hash_seed,
            )
            self._resources = ours.pop_all()
        self.pid = self._popen.pid
        self._streams: dict[int, tuple[int, codecs.IncrementalDecoder]] = {}
        for stream, file in ((STDOUT, self._popen.stdout), (STDERR, self._popen.stderr)):
            assert file is not None  # pipes were requested above
            self._resources.callback(file.close)
            os.set_blocking(file.fileno(), False)
            self._streams[file.fileno()] = stream, codecs.getincrementaldecoder("utf-8")("replace")
        self.pidfd = -1
        if sys.platform == "linux":
            try:
                self.pidfd = os.pidfd_open(self.pid)
            except OSError:  # there are no free descriptors
                self.signal(signal.SIGKILL)
                self._popen.wait()
                self._resources.close()
                raise
            self._resources.callback(os.close, self.pidfd)

    @property
    def pipes(self) -> list[int]:
        """The descriptors that carry the output of the slot's descriptors 1 and 2."""
        return list(self._streams)

    # --- what it says ------------------------------------------------------------------------------------

    def read_pipe(self, fd: int) -> tuple[list[SlotEvent], bool]:
        """Return the output of C code, subprocesses and faulthandler, and False when no more can come."""
        pieces = []
        open_still = True
        for _ in range(PIPE_TURN):
            try:
                piece = os.read(fd, PIPE_READ)
            except BlockingIOError:
                break
            if not piece:
                open_still = False
                break
            pieces.append(piece)
        stream, decoder = self._streams[fd]
        text = decoder.decode(b"".join(pieces), not open_still)
        if not text:
            return [], open_still
        # The text may be that of a task that has just ended, but not of one whose outcome is already known.
        number = self._board.number or self._board.last
        if number <= self._last_finished:
            number = 0
        self._note(number, stream, text, piped=True)
        return [SlotPrinted(self.slot, [(number, stream, text)])], open_still

    def read_data(self) -> list[SlotEvent]:
        """Return the events of the data that has arrived on the data socket; raise ChannelError."""
        messages = self.data.receive()
        try:
            return self._events(messages)
        except (TypeError, ValueError, LookupError) as exc:
            raise ChannelError(f"items of the wrong form: {exc}") from exc

    def _events(self, messages: list[Message]) -> list[SlotEvent]:
        """Return the outcomes and prints of all messages in one event each, unless other events come between."""
        events: list[SlotEvent] = []
        printed: list[tuple[int, int, str]] = []
        outcomes: list[SlotOutcome] = []

        def close_batch() -> None:
            nonlocal printed, outcomes
            if printed:
                events.append(SlotPrinted(self.slot, printed))
            if outcomes:
                events.append(SlotFinished(self.slot, outcomes))
            printed, outcomes = [], []

        for packed, buffers in messages:
            parts = iter(buffers)
            for item in self._fresh(unpack(packed)):
                if item[0] == OUTCOME:
                    self._take_outcome(item, parts, outcomes)
                elif item[0] == PRINTED:
                    _, number, stream, text = item
                    self._note(number, stream, text)
                    printed.append((number, stream, text))
                elif item[0] == CONNECT:
                    self.wants_to_connect = True
                else:
                    close_batch()
                    events.append(self._other_event(item))
        close_batch()
        return events

    def _fresh(self, items: list[Any]) -> list[Any]:
        """Return the items of a message that were not read from the crash board already."""
        before = self._received
        self._received += len(items)
        fresh = items[self._seen - before :] if self._seen > before else items
        self._seen = max(self._seen, self._received)
        return fresh

    def _read_outbox(self, outbox: bytes, count: int, sent: int) -> list[SlotEvent]:
        """Return the items on the crash board, of which `sent` items precede the first.

        They may also arrive by the socket.
        """
        self._received = sent
        events = self._events([(header(outbox, count), [])])
        self._received = sent
        return events

    def retract(self, chunks: Sequence[int]) -> list[SlotEvent]:
        """Take back the tasks that it has not begun, and elements of running `chunks`, without its help; see `gate`.

        The last event is a SlotRetracted, and there is none if the slot shows signs of life. Raises ChannelError.
        """
        events = self.read_data()
        board = self._board
        with Closed(board) as gate:
            state = gate.state
            if events or state is None or state.sent != self._received or self.data.closed:
                return events
            decision = decision_for(state, self.last_given, chunks)
            split = decision.element != ALL and state.kind == BUNDLE
            outbox = board.outbox()
            try:
                results = board.results(decision.element) if split else []
            except ValueError as exc:
                raise ChannelError(str(exc)) from exc
            if board.state() != state:
                return events
            events = self._read_outbox(outbox, state.entries, state.sent)
            gate.decide(decision)
        if split:
            payloads, durations = [result[0] for result in results], [result[1] for result in results]
            failed = [index for index, result in enumerate(results) if result[2]]
            packed = pack_results(payloads, durations, failed)
            events.append(SlotSplit(self.slot, state.number, packed, decision.element))
        elif decision.element != ALL:
            events.append(SlotDivided(self.slot, state.number, decision.element + 1))
        events.append(SlotRetracted(self.slot, list(decision.taken)))
        return events

    def _take_outcome(self, item: list[Any], parts: Iterator[Received], outcomes: list[SlotOutcome]) -> None:
        _, number, status, payload, duration = item
        # otherwise the outbox was sent, but the process died before it was emptied
        if number > self._last_finished:
            self._last_finished = number
            outcomes.append(SlotOutcome(number, status, attach(payload, parts), duration))

    def _other_event(self, item: list[Any]) -> SlotEvent:
        kind, argument = item
        if kind == READY:
            return SlotReady(self.slot, argument)
        if kind == RETURNED:
            return SlotReturned(self.slot, argument)
        if kind == SPLIT:
            return SlotSplit(self.slot, *argument)
        if kind == DIVIDED:
            return SlotDivided(self.slot, *argument)
        if kind == SPOILED:
            return SlotSpoiled(self.slot)
        if kind == BLOCKED:
            return SlotBlocked(self.slot, bool(argument))
        if kind == AWAITS:
            return SlotAwaits(self.slot, *argument)
        raise ChannelError(f"an item of unknown kind {kind}")

    def _note(self, number: int, stream: int, text: str, piped: bool = False) -> None:
        """Keep the last output of the running task."""
        if stream != STDERR:
            return
        if number != self._stderr_number:
            self._stderr, self._fault, self._stderr_number = "", "", number
        if piped:
            # faulthandler writes in many pieces, and text of the task may arrive in between by its own way.
            text, found, fault = ("", "", text) if self._fault else text.partition(FATAL)
            self._fault = (self._fault + found + fault)[:STDERR_CHARACTERS]
        self._stderr = (self._stderr + text)[-STDERR_CHARACTERS:]

    # --- its end -----------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send a signal to the slot's process group, which contains the processes that its tasks have started."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS reports the latter for a zombie
            pass

    def finish(self) -> list[SlotEvent]:
        """Make sure that the process is gone, and return all events that it has left; the last one is SlotExited."""
        ending = self._reap(EXIT_WAIT)
        events: list[SlotEvent] = []
        try:
            before = -1
            while self._received > before and not self.data.closed:
                before = self._received
                events += self.read_data()
            events += self._read_outbox(self._board.outbox(), self._board.count, self._board.sent)
        except ChannelError:  # it died in the middle of a message, or sent nonsense
            pass
        for fd in self.pipes:
            events += self.read_pipe(fd)[0]
        number = self._board.number
        if number <= self._last_finished:
            number = 0
        element = self._board.element if number else -1
        stderr = "".join(self._stderr.splitlines(keepends=True)[-STDERR_LINES:])
        trace = self._fault.partition("\nExtension modules: ")[0].rstrip()
        traceback = "".join(trace.splitlines(keepends=True)[:TRACEBACK_LINES])
        self._resources.close()
        events.append(
            SlotExited(
                self.slot,
                self.pid,
                ending.exit_code,
                ending.signal,
                ending.peak_memory,
                stderr,
                number,
                element,
                traceback,
                ending.signal == "SIGKILL" and memory.oom_kills() > self._oom_kills,
            )
        )
        return events

    def discard(self) -> None:
        """Make sure that the process is gone, and drop the events that it has left."""
        self._reap(0)
        self._resources.close()

    def _reap(self, patience: float) -> Ending:
        """Wait `patience` seconds for the process to end by itself, then kill it and its child processes."""
        self._await_exit(patience)
        # This comes before the reaping, while no other process group can have this number.
        self.signal(signal.SIGKILL)
        if not self._await_exit(KILL_WAIT):
            self._popen.returncode = -signal.SIGKILL
            return Ending(None, "SIGKILL", 0)
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # other code in this process has waited for any child
            self._popen.returncode = UNKNOWN_EXIT
            return Ending(UNKNOWN_EXIT, None, 0)
        code = self._popen.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Ending(None, signal_name(-code), peak) if code < 0 else Ending(code, None, peak)

    def _await_exit(self, seconds: float) -> bool:
        if sys.platform == "linux":
            poller = select.poll()
            poller.register(self.pidfd, select.POLLIN)
            return bool(poller.poll(seconds * 1000))
        queue = select.kqueue()
        try:
            exits = select.kevent(
                self.pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, fflags=select.KQ_NOTE_EXIT
            )
            return bool(queue.control([exits], 1, seconds))
        except ProcessLookupError:  # a zombie already
            return True
        finally:
            queue.close()


def channel(ours: ExitStack, theirs: ExitStack, shares: bool = False) -> tuple[BufferedChannel, int]:
    """Return our end of a new channel, and the descriptor of the other end; each is closed with its stack."""
    here, there = channel_pair()
    theirs.callback(there.close)
    end = BufferedChannel(here, shares)
    ours.callback(end.close)
    return end, there.fileno()


def start_process(
    slot: SlotId,
    descriptors: list[int],
    environment: Mapping[str, str],
    program: Program,
    path: list[str],
    hash_seed: int | None,
) -> subprocess.Popen[bytes]:
    """Start the interpreter with this one's options, in a session of its own.

    Its session protects it from the terminal's Ctrl-C, and creates the process group to which signals are sent.
    """
    options, given = start_with(environment, interpreter_options(), hash_seed, program.start_method)
    limit = raised_from()
    if limit is not None:
        given[DESCRIPTOR_LIMIT] = str(limit)
    tracker = program.tracker()
    passed = descriptors if tracker is None else [*descriptors, tracker]
    folder = program.folder
    with beyond_streams(passed) as passed:
        if tracker is not None:
            given[TRACKER] = str(passed[-1])
        numbers = [
            str(number) for number in (*passed[: len(descriptors)], slot, os.getpid(), len(program.arguments))
        ]
        return subprocess.Popen(
            [program.interpreter, *options, "-c", BOOT, *numbers, *program.arguments, *path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=as_started(given),
            cwd=folder if folder is not None and os.path.isdir(folder) else None,
            pass_fds=passed,
            start_new_session=True,
        )


def signal_name(number: int) -> str:
    """Return the name of a signal: "SIGSEGV" for 11, and "SIG35" for one without a name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
