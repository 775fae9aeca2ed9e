"""The main module of a slot, a process that runs tasks one at a time, and survives all exceptions that they raise.

The process has two threads. The main thread runs tasks (`task_runner`), and reads the data socket (`task_inbox`) when
its own queue is empty. The control thread (`control_thread`) waits on the control socket. It gives back tasks that have
not started, interrupts the running task, sends entries that have waited too long in the outbox, and ends the process
when the worker is gone.

The program's `__main__` is never imported here, so a script without `if __name__ == "__main__"` works. Imports are few,
because a slot must start fast: nothing here needs zmq, asyncio, typer or logging.

A worker starts the process (`slot_process`) with the command

    python -c BOOT DATA CONTROL BOARD LIFELINE NUMBER PARENT COUNT [sys.argv ...] [sys.path ...]

with four inherited descriptors, the slot's number, the worker's process id, and the length of sys.argv. BOOT is used
instead of `-m` so that the program's sys.path is set before the first import, and so that classes of the user cannot
collide with classes of this module in `__main__`.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
from _signal import getsignal  # type: ignore[import-not-found]

from jobrunner.nested import task_context, wait_hooks
from jobrunner.program import takeover as settling
from jobrunner.shared_memory.limits import keep_out_of_the_way
from jobrunner.workers import memory_limit as memory
from jobrunner.workers.channel import BlockingChannel
from jobrunner.workers.control_thread import ControlThread
from jobrunner.workers.crash_board import CrashBoard
from jobrunner.workers.framing import READY
from jobrunner.workers.interrupts import Interrupts, RunningTask
from jobrunner.workers.lifetime_ties import fail, out_of_the_way, tie_group_to
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.shared_results import SlotSharing
from jobrunner.workers.slot_context import SlotContext
from jobrunner.workers.slot_functions import SlotFunctions
from jobrunner.workers.streams import SlotStreams
from jobrunner.workers.task_inbox import TaskInbox, ToldProgram
from jobrunner.workers.task_runner import TaskRunner
from jobrunner.workers.yielding import Yielding


class Slot:
    """The parts of a slot, put together, and its main loop; it is created in the main thread."""

    def __init__(
        self, data: BlockingChannel, control: BlockingChannel, board: CrashBoard, shared_idle: int = 0
    ) -> None:
        self.data = data
        self.control = control
        self.memory_limit = memory.limit_from_environment()
        self.wake_reader, self.wake_writer = map(out_of_the_way, os.pipe())
        self.outbox = Outbox(board, data, self.wake_writer)
        self.streams = SlotStreams(self.outbox, lambda: board.number)
        self.running = RunningTask()
        self.yielding = Yielding(self.running, self.outbox, self.wake)
        self.interrupts = Interrupts(self.running, self.outbox, self.yielding.waits.interrupted)
        self.context = SlotContext(board, self.outbox, self.running, self.interrupts)
        self.sharing = SlotSharing(shared_idle, self.wake)
        self.functions = SlotFunctions(board, self.sharing.expect, self.interrupts.is_interrupt)
        self.inbox = TaskInbox(data, self.outbox, self.functions, ToldProgram().hear)
        self.runner = TaskRunner(
            board,
            self.outbox,
            self.inbox.queue,
            running=self.running,
            interrupts=self.interrupts,
            yielding=self.yielding,
            functions=self.functions,
            sharing=self.sharing,
            streams=self.streams,
            memory_limit=self.memory_limit,
        )
        self.control_thread = ControlThread(
            control,
            self.wake_reader,
            self.outbox,
            running=self.running,
            inbox=self.inbox,
            yielding=self.yielding,
            interrupt=self.interrupts.interrupt,
            answer=self.context.answer,
            look_after=self.sharing.look_after,
        )
        self._last_hold = -1

    def wake(self) -> None:
        """Wake the control thread."""
        os.write(self.wake_writer, b"\0")

    def serve(self) -> None:
        """Run tasks until the worker closes the data socket."""
        inbox, runner, interrupts = self.inbox, self.runner, self.interrupts
        queue = inbox.queue
        self.outbox.put([READY, os.getpid()])
        while True:
            if interrupts.spoiled and queue:
                inbox.give_back()
            try:
                fields, payload, values = queue.popleft()
            except IndexError:
                runner.flush()
                if not inbox.wait():
                    return
                continue
            runner.restore()
            runner.execute(fields, payload, values)
            del payload, values

    def leave(self) -> None:
        """Prepare the interpreter's end, at which threads and atexit functions of the calls finish.

        The worker also detects the end of this process by the end of the socket, which therefore stays open to the
        last.
        """
        self._last_hold = os.dup(self.data.fileno())
        self.runner.flush()
        # Objects in unreachable cycles are finalized now. All other objects end with their modules or with the process.
        # Without the freeze, repeated collections of all objects would take most of the time of the end.
        gc.collect()
        gc.freeze()

    def after_fork(self) -> None:
        """Release, in a process that a task has forked, everything that belongs to the slot."""
        self.outbox.leave_to_parent()
        wait_hooks.install(None)
        wait_hooks.watch_callers(None)
        self.streams.leave_to_parent()
        if getsignal(signal.SIGINT) is self.interrupts.handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.data.close()
        self.control.close()
        if self._last_hold >= 0:
            os.close(self._last_hold)
        self.running.elements.clear()


def main(arguments: list[str]) -> None:
    """Serve until the worker ends the data socket, then let the interpreter end; `arguments` are described above."""
    faulthandler.enable(2)
    try:
        data, control, board, lifeline, number, parent = (int(argument) for argument in arguments)
        task_context.slot_folder = os.environ.pop(task_context.SLOT_FOLDER, None)
        settling.has_started()
        settling.settle()
        settling.take_limit()
        # The worker's thread may have blocked signals, and this process inherits its mask.
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
        wait_hooks.install(slot.yielding.waiting)
        wait_hooks.watch_callers(slot.yielding.standstill.watch)
        task_context.install_in_process(slot.context)
        slot.runner.restore()
        if slot.memory_limit:
            memory.apply_limit(slot.memory_limit)
        slot.control_thread.start(parent)
        slot.serve()
        slot.leave()
    except BaseException:
        fail()
