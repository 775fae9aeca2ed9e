"""Every error that jobrunner raises, in one tree.

    JobRunnerError
    +-- ConfigError                 (ValueError) a bad option, environment variable or config file
    |   +-- ConfigTypeError         (TypeError) ... of a type that it cannot have
    +-- SerializationError          (PicklingError) a call, result or exception that cannot be pickled or unpickled
    +-- ProtocolError               a message that is malformed, unexpected, or of another version
    +-- AuthenticationError         a peer that may not do what it asked
    +-- NotSupportedError           this backend cannot do that, and says so rather than pretend
    |   +-- NotPicklableError       (TypeError) ... namely, send this Future or Executor elsewhere
    +-- TaskTimeoutError            (TimeoutError) the task ran longer than its `timeout`
    +-- DependencyError             a task that this one needs did not succeed, so it was not run
    +-- QuotaError                  a call or its result is larger than the cluster takes, or its key has too much there
    +-- DeadlockError               the call needs what only those tasks hold that wait for it, so it was not run
    +-- JournalError                the coordinator cannot write down what it is given, so it does not take it
    +-- InitializerError            (BrokenProcessPool, BrokenThreadPool) the initializer failed in the slot
    +-- TaskLostError               (BrokenProcessPool) the task's process died
    |   +-- WorkerLostError         ... with its whole worker
    |   +-- CrashLimitError         ... too often: the task itself is the likely cause
    +-- CoordinatorLostError        (BrokenProcessPool) the coordinator stayed unreachable

Errors that a user's function raises are not in this tree: they arrive as they were raised, with the remote
traceback as their cause.

In parentheses is what the standard library's pools raise in such a case: a program that catches that goes on working.
A SerializationError is besides an instance of whatever pickling raised, see `serialization_error`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from types import MappingProxyType
from typing import Any


def wait_timeout(note: str) -> TimeoutError:
    """The error that the standard library raises when a wait takes longer than its `timeout`: without arguments.

    Programs print these errors and compare their `args`. Tracebacks show the note.
    """
    error = TimeoutError()
    error.add_note(note)
    return error


class JobRunnerError(Exception):
    """Whatever goes wrong in jobrunner itself. The message says what happened, where, and what to do."""

    element: int | None = None
    """Where a chunk of `map` ended: the index, within the chunk, of the element that was running; None if unknown."""

    detail: Mapping[str, Any] = MappingProxyType({})
    """The facts behind the message, for programs: "exit_code", "signal", "host", "worker", "stderr", ..."""


class ConfigError(JobRunnerError, ValueError):
    """An option, environment variable or config file holds something that cannot be used."""


class ConfigTypeError(ConfigError, TypeError):
    """An option is of a type that it cannot have; the standard library raises a TypeError there."""


class SerializationError(JobRunnerError, pickle.PicklingError):
    """A call, result or exception could not be turned into bytes, or back."""


class ProtocolError(JobRunnerError):
    """A peer sent what the protocol does not allow, or speaks another version of it."""


class AuthenticationError(JobRunnerError):
    """A peer is not who it must be, or may not do what it asked."""


class NotSupportedError(JobRunnerError, NotImplementedError):
    """The backend cannot do what was asked of it."""


class NotPicklableError(NotSupportedError, TypeError):
    """A Future or an Executor cannot be sent to another process; the standard library raises a TypeError there."""


class TaskTimeoutError(JobRunnerError, TimeoutError):
    """The task ran longer than its `timeout` and was stopped."""


class DependencyError(JobRunnerError):
    """A call was not run, since a Future among its arguments failed; the `__cause__` is that one's exception."""


class QuotaError(JobRunnerError):
    """The cluster does not take a call, because a limit of the coordinator is exceeded.

    Either its function, its arguments or its result are larger than `max_payload`, or it needs the results of too
    many other calls. Or all clients of its key together have more at the coordinator than `quota_tasks`, `quota_bytes`
    or the number of different resource requests allow.
    """


class DeadlockError(JobRunnerError):
    """A call was not run, since the resources that it needs are held by tasks which wait for it: neither would end."""


class JournalError(JobRunnerError):
    """The coordinator could not write to its journal, and therefore refused the call."""


class InitializerError(JobRunnerError, BrokenProcessPool, BrokenThreadPool):
    """The executor's initializer raised in the slot, so its tasks cannot run there."""


class TaskLostError(JobRunnerError, BrokenProcessPool):
    """The process that ran the task died before the outcome was known."""


class WorkerLostError(TaskLostError):
    """The worker that ran the task is gone and the task may not run again."""


class CrashLimitError(TaskLostError):
    """The task's process died as often as the crash limit allows; the task is the likely cause."""


class CoordinatorLostError(JobRunnerError, BrokenProcessPool):
    """The coordinator could not be reached, or stayed away for longer than the configured wait."""
