"""The embedded cluster: a coordinator and a worker in one process, for one executor on this host.

They are the cores of the two daemons, with the coordinator's socket and the worker's slots, in one loop: their messages
to each other need no socket, no encoding and no turn of another process. Clients (the executor's own, and those inside
of tasks) and further workers connect through the socket, as to any coordinator.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from jobrunner.config import MAX_WINDOW
from jobrunner.errors import JobRunnerError
from jobrunner.nested.task_context import TASK_ADDRESS
from jobrunner.program.flags import FAILED, GAVE_UP, LISTENS, ORDERLY, Program, Told, Whiteboard
from jobrunner.program.takeover import has_started
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import Disconnect, Event, Send
from jobrunner.protocol.wire.ids import random_token
from jobrunner.shared_memory.segment_pool import can_share
from jobrunner.system.descriptors import raise_limit
from jobrunner.system.folders import leave_folder, unreachable
from jobrunner.system.host import own_host
from jobrunner.transport.driver import Driver
from jobrunner.transport.manifests import Sharing
from jobrunner.transport.service import LEFT_AT_ONCE, Service, set_up_logging
from jobrunner.transport.sockets import Ready, RouterWire
from jobrunner.version import __version__
from jobrunner.workers.in_process_worker import IN_PROCESS, InProcessWorker, Text


class EmbeddedWire(RouterWire):
    """A coordinator's wire with a worker inside."""

    def __init__(
        self,
        address: str,
        slots: int,
        service: Service,
        program: Program,
        exit_wait: float,
        max_tasks_per_slot: int | None,
    ) -> None:
        super().__init__(address)
        self._worker = InProcessWorker(
            slots,
            {TASK_ADDRESS: address},
            on_give_up=service.give_up,
            on_connect=lambda: unreachable(address),
            on_error=service.write_log,
            program=program,
            exit_wait=exit_wait,
            max_tasks_per_slot=max_tasks_per_slot,
        )
        if can_share():
            self.share(Sharing(asks=False))
        self._slots_ready = False
        self._said: list[Event] = []
        self.register(self._worker.fileno())

    def next_deadline(self) -> float | None:
        return 0.0 if self._said else self._worker.next_deadline()

    def wait(self, timeout: float | None) -> Ready:
        ready = super().wait(timeout)
        self._slots_ready = self._worker.fileno() in ready
        return ready

    def receive(self, now: float) -> list[Event]:
        if self._slots_ready:
            self._worker.poll()
        if self._worker.has_work(now):
            self._said += self._worker.turn(now)
        said, self._said = self._said, []
        return said + super().receive(now)

    def send(self, effect: Send) -> Event | None:
        if effect.destination != IN_PROCESS:
            return super().send(effect)
        self._worker.post(effect.envelope)
        # The worker takes its turn at once, so that its slots begin before this turn is over.
        self._said += self._worker.turn(time.monotonic())
        return None

    def end_slots(self, seconds: float, show: Callable[[list[Text]], None]) -> None:
        self._worker.end(seconds, show)

    def close(self, *, orderly: bool = False) -> None:
        self._worker.close()
        super().close(orderly=orderly)


class Hearing:
    """The facts that the program tells slots, which it writes on a board whenever they have changed."""

    def __init__(self, board: int) -> None:
        self._board = Whiteboard(board)
        self._told = Told(list(sys.path), b"")

    def current(self) -> Told:
        text = self._board.read()
        if text is not None:
            path, authkey, configuration = json.loads(text)
            self._told = Told(path, bytes.fromhex(authkey), configuration)
        return self._told


def is_orderly(lifeline: int) -> bool:
    os.set_blocking(lifeline, False)
    try:
        return os.read(lifeline, 1) == ORDERLY
    except BlockingIOError:  # nothing was written, so this is another kind of end
        return False


def main(argument: str, program_arguments: list[str]) -> int:
    """Run the process that `local_cluster` starts, with its JSON object and the program's sys.argv.

    Returns the exit code. When the lifeline is cut the folder is removed, whatever state the process is in. If ORDERLY
    came through the lifeline before, the slots end by themselves. Their last output goes to the descriptor
    "last_words", as a line of JSON with stream and text for each piece. Through the same descriptor the program learns
    before that the cluster can be reached (LISTENS), or why it never will be (FAILED, with the error's class and text).
    """
    has_started()
    given = json.loads(argument)
    try:
        return serve(given, program_arguments)
    except JobRunnerError as exc:
        say(given["last_words"], [FAILED, type(exc).__name__, str(exc)])
        return GAVE_UP
    finally:
        if is_cut(given["lifeline"]):  # otherwise the process will be started again, and needs the folder
            leave_folder(given["folder"])


def say(descriptor: int, words: list[Any]) -> None:
    try:
        os.write(descriptor, f"{json.dumps(words)}\n".encode())
    except BrokenPipeError:
        pass  # the program has died, which the lifeline shows


def is_cut(lifeline: int) -> bool:
    poller = select.poll()
    poller.register(lifeline, 0)
    return bool(poller.poll(0))


def serve(given: dict[str, Any], program_arguments: list[str]) -> int:
    """Serve until the lifeline is cut, and return the exit code.

    Raises JobRunnerError if it would be useless to start the process again.
    """
    set_up_logging("error")
    raise_limit()
    service = Service("cluster")
    program = Program(
        program_arguments,
        given["program_folder"],
        Hearing(given["board"]).current,
        given["start_method"],
        lambda: given["tracker"],
    )
    exit_wait = given["exit_wait"]
    wire = EmbeddedWire(
        given["address"], given["slots"], service, program, exit_wait, given["max_tasks_per_slot"]
    )
    settings = CoordinatorSettings(
        id=random_token(),
        version=__version__,
        address=wire.address,
        host=own_host(),
        pid=os.getpid(),
        crash_limit=given["crash_limit"],
        max_payload=MAX_WINDOW,  # data that is large enough to harm this host is the program's own
        hash_seed=given["hash_seed"],
    )
    say(given["last_words"], [LISTENS])
    core = CoordinatorCore(settings, time.monotonic())
    perform = service.perform_common | {Disconnect: lambda effect: wire.disconnect(effect.source)}
    driver = Driver(core, wire, perform)
    finished = False
    try:
        code = service.run(driver, given["lifeline"])
        finished = code == 0
        if code == LEFT_AT_ONCE and is_orderly(given["lifeline"]):

            def show(texts: list[Text]) -> None:
                for text in texts:
                    say(given["last_words"], list(text))

            wire.end_slots(exit_wait, show)
    finally:
        driver.close(orderly=finished)
    return code
