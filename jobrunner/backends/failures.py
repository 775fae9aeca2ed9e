"""The errors of calls whose outcome is not a result, with all facts about the cause."""

from __future__ import annotations

from concurrent.futures import CancelledError

from jobrunner.calls import serialization
from jobrunner.errors import (
    CrashLimitError,
    DeadlockError,
    DependencyError,
    InitializerError,
    JobRunnerError,
    JournalError,
    QuotaError,
    SerializationError,
    TaskLostError,
    TaskTimeoutError,
    WorkerLostError,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.messages import CRASHED, LOST, TIMED_OUT, Outcome
from jobrunner.protocol.wire.outcome_detail import OutcomeDetail


def exception_of(outcome: Outcome, name: str) -> BaseException:
    """Return the exception of a Future for an outcome that is not OK."""
    if outcome.status == m.ERROR and not (outcome.detail and "too_large" in outcome.detail):
        return serialization.load_exception(outcome.payload)
    if outcome.status == m.CANCELLED:
        return CancelledError()
    return error_for(outcome, name)


def error_for(outcome: Outcome, name: str) -> JobRunnerError:
    """Return the error for an outcome that is not a result, an exception of the function, or a cancellation.

    The facts are also in its attributes `element` and `detail`.
    """
    detail = outcome.detail or {}
    named = f" ({name})" if name else ""
    text = f"task {outcome.id}{named}: {detail.get('error', 'the task was lost')}"
    error: JobRunnerError
    if outcome.status == m.UNMET:
        error = DependencyError(text)
        need = Outcome(
            detail["need"],
            0,
            m.Status(detail["need_status"]),
            outcome.payload,
            0.0,
            detail.get("need_detail"),
        )
        error.__cause__ = exception_of(need, detail.get("need_name", ""))
    elif "setup" in detail:
        error = InitializerError(
            f"the initializer failed in its slot: {detail['error']}{where(detail)}{history(detail)}"
        )
    elif outcome.status == m.ERROR:
        error = QuotaError(text + where(detail))
    elif outcome.status == m.REFUSED:
        error = refusal(text, detail)
    elif outcome.status == TIMED_OUT:
        error = TaskTimeoutError(text + where(detail))
    elif "limit" in detail:
        error = CrashLimitError(
            f"{text}{where(detail)}; that was crash {detail['limit']} of at most {detail['limit']}, so the task is not "
            f"run again{history(detail)}"
        )
    elif outcome.status == CRASHED:
        once = "; the task has at_most_once=True, so it is not run again" if "at_most_once" in detail else ""
        error = TaskLostError(text + where(detail) + once + history(detail))
    else:
        assert outcome.status == LOST
        error = WorkerLostError(text + history(detail))
    error.element = detail.get("element")
    error.detail = detail
    return error


def refusal(text: str, detail: OutcomeDetail) -> JobRunnerError:
    """Return the error for a call that the coordinator has refused."""
    if "quota" in detail:
        return QuotaError(text)
    if "deadlock" in detail:
        return DeadlockError(text)
    if "no_slot" in detail:
        return JobRunnerError(text)
    return SerializationError(text) if "python" in detail or "modules" in detail else JournalError(text)


def where(detail: OutcomeDetail) -> str:
    parts = [f" on worker {detail['worker']}, host {detail['host']}"] if "worker" in detail else []
    if detail.get("peak_memory"):
        parts.append(f"peak memory {detail['peak_memory'] / 2**20:.0f} MiB")
    return "; ".join(parts)


def history(detail: OutcomeDetail) -> str:
    """Return the attempts and the last output, each on lines of their own."""
    lines = [f"  {line}" for line in detail.get("attempts", ())]
    if lines:
        lines.insert(0, "attempts:")
    trace = (detail.get("traceback") or "").strip()
    if trace:
        lines += ["where it was:", *(f"  {line}" for line in trace.splitlines())]
    stderr = (detail.get("stderr") or "").strip()
    if stderr:
        lines += ["last lines of stderr:", *(f"  {line}" for line in stderr.splitlines())]
    return "".join(f"\n{line}" for line in lines)
