"""The outcomes of attempts at a worker. Pure functions.

Each outcome of an attempt that did not simply return names the worker and the host where the task ran.
"""

from __future__ import annotations

from jobrunner.protocol.effects import FINAL_ERROR, IN_INITIALIZER, INITIALIZER_FAILED, SlotExited
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.payloads import Payload, payload_size
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slots import WorkerTask

NEARLY_ALL = 0.8
"""Share of a slot's memory limit from which its death is attributed to a lack of memory."""

FAILURES = (m.ERROR, FINAL_ERROR, INITIALIZER_FAILED)
"""The statuses with which a slot reports that a call did not return a result."""


def location(settings: WorkerSettings) -> m.Detail:
    """Return the worker and the host as the first entries of an outcome's detail."""
    return {"worker": settings.name, "host": settings.host}


def cancelled(task: WorkerTask) -> m.Outcome:
    """Return the outcome of a task that was cancelled before it began."""
    return m.Outcome(task.id, task.assignment.attempt, m.CANCELLED)


def too_many_calls(task: WorkerTask, most: int, settings: WorkerSettings) -> m.Outcome:
    """Return the outcome of a task that has more calls than a slot of this worker makes."""
    detail = location(settings)
    detail["error"] = f"its {task.elements} calls are more than a slot makes here, {most}"
    detail["most_calls"] = most
    return m.Outcome(task.id, task.assignment.attempt, m.CRASHED, detail=detail)


def ended(
    task: WorkerTask, status: int, payload: Payload, duration: float, settings: WorkerSettings
) -> m.Outcome:
    """Return the outcome of a task that ended by itself in its slot, with one of the statuses that slots use."""
    a = task.assignment
    if status == m.OK:
        return m.Outcome(a.id, a.attempt, m.OK, payload, duration)
    detail = location(settings)
    if status == FINAL_ERROR:
        detail["final"] = True
    elif status == INITIALIZER_FAILED:
        detail["setup"] = True
    return m.Outcome(a.id, a.attempt, m.ERROR, payload, duration, detail)


def split(task: WorkerTask, running: int, payload: Payload, settings: WorkerSettings) -> m.Outcome:
    """Return the outcome of a bundle that ends with the results so far, while the call with this index continues."""
    detail: m.Detail = {**location(settings), "running": running}
    return m.Outcome(task.id, task.assignment.attempt, m.SPLIT, payload, 0.0, detail)


def divided(task: WorkerTask, stop: int, settings: WorkerSettings) -> m.Outcome:
    """Return the outcome of a chunk that ends, while its elements before `stop` continue as a task of their own."""
    detail: m.Detail = {**location(settings), "stop": stop}
    return m.Outcome(task.id, task.assignment.attempt, m.SPLIT, b"", 0.0, detail)


def too_large(
    task: WorkerTask, payload: Payload, welcome: m.Welcome | None, settings: WorkerSettings
) -> m.Outcome | None:
    """Return the outcome that replaces one whose payload is too large for the coordinator, and None if it is not."""
    size = payload_size(payload)
    if welcome is None or size <= welcome.max_payload:
        return None
    a = task.assignment
    return m.quota_exceeded(a.id, a.attempt, "result has", size, welcome.max_payload, location(settings))


def stopped(
    task: WorkerTask, duration: float, exited: SlotExited | None, settings: WorkerSettings
) -> m.Outcome:
    """Return the outcome of a task that was stopped, by a cancel or because its time was up."""
    assert task.stop_reason is not None
    detail = location(settings)
    if task.stop_reason == m.TIMED_OUT:
        limit = task.assignment.body.options.timeout
        detail["timeout"] = limit
        detail["error"] = f"it ran longer than its timeout of {limit:g} s"
        if exited is not None:
            detail["stderr"] = exited.stderr
            if exited.element >= 0:
                detail["element"] = exited.element
    return m.Outcome(task.id, task.assignment.attempt, task.stop_reason, b"", duration, detail)


def crashed(task: WorkerTask, duration: float, exited: SlotExited, settings: WorkerSettings) -> m.Outcome:
    """Return the outcome of a task during which the slot's process died."""
    detail = _death(exited, settings)
    if exited.element >= 0 and isinstance(task.assignment.body.kind, Chunk):
        detail["element"] = exited.element
    elif exited.element == IN_INITIALIZER:
        detail["setup"] = True
    return m.Outcome(task.id, task.assignment.attempt, m.CRASHED, b"", duration, detail)


def _death(exited: SlotExited, settings: WorkerSettings) -> m.Detail:
    how = f"was killed by {exited.signal}" if exited.signal else f"exited with code {exited.exit_code}"
    detail: m.Detail = {
        **location(settings),
        "error": f"its process {how} (pid {exited.pid})",
        "pid": exited.pid,
        "exit_code": exited.exit_code,
        "signal": exited.signal,
        "peak_memory": exited.peak_memory,
        "stderr": exited.stderr,
    }
    if exited.traceback:
        detail["traceback"] = exited.traceback
    limit = settings.slot_memory
    if limit and exited.peak_memory >= NEARLY_ALL * limit:
        detail["out_of_memory"] = True
        detail["error"] += f"; it had taken nearly all of its slot's memory, {limit / 2**20:.0f} MiB"
    elif exited.oom_kill:
        detail["out_of_memory"] = True
        detail["error"] += "; the kernel killed for want of memory"
    return detail
