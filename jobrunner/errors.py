"""Every error that jobrunner raises, in one tree.

    JobRunnerError
    +-- ConfigError                 (ValueError) an option, environment variable or config file is wrong
    |   +-- ConfigTypeError         (TypeError) an option has a wrong type
    +-- SerializationError          (PicklingError) a call, result or exception cannot be pickled or unpickled
    +-- ProtocolError               a message is malformed or unexpected, or has another protocol version
    +-- AuthenticationError         a peer has no right to do what it asked for
    +-- NotSupportedError           the backend cannot do what it was asked for
    |   +-- NotPicklableError       (TypeError) a Future or Executor cannot be sent to another process
    +-- TaskTimeoutError            (TimeoutError) the task ran longer than its `timeout`
    +-- DependencyError             a call was not run, because another call that it depends on did not succeed
    +-- QuotaError                  a call or its result exceeds a limit of the cluster
    +-- DeadlockError               a call was not run, because tasks that wait for it hold its resources
    +-- JournalError                the coordinator refused a call, because it cannot write its journal
    +-- InitializerError            (BrokenProcessPool, BrokenThreadPool) the initializer failed in the slot
    +-- TaskLostError               (BrokenProcessPool) the task's process died
    |   +-- WorkerLostError         the task's worker died or stayed unreachable
    |   +-- CrashLimitError         the task's process died as often as the crash limit allows
    +-- CoordinatorLostError        (BrokenProcessPool) the coordinator stayed unreachable

Errors that a user's function raises are not in this tree. They arrive as they were raised, with the remote traceback as
their cause.

The classes in parentheses are those that the standard library's pools raise in such a case, so that a program which
catches these works unchanged. A SerializationError is also an instance of the class that pickling raised, see
`serialization_error`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from types import MappingProxyType
from typing import Any


def wait_timeout(note: str) -> TimeoutError:
    """Return the TimeoutError for a wait that took longer than its `timeout`, with a note for tracebacks.

    It has no arguments, like the standard library's, because programs print such errors and compare their `args`.
    """
    error = TimeoutError()
    error.add_note(note)
    return error


class JobRunnerError(Exception):
    """The base class of all errors of jobrunner itself; each message says what happened, where, and what to do."""

    element: int | None = None
    """The index, within its chunk of `map`, of the element that was running when the chunk ended; None if unknown."""

    detail: Mapping[str, Any] = MappingProxyType({})
    """The facts behind the message, for programs: "exit_code", "signal", "host", "worker", "stderr", ..."""


class ConfigError(JobRunnerError, ValueError):
    """An option, environment variable or config file has a value that cannot be used."""


class ConfigTypeError(ConfigError, TypeError):
    """An option has a wrong type; the standard library raises a TypeError in this case."""


class SerializationError(JobRunnerError, pickle.PicklingError):
    """A call, result or exception could not be pickled or unpickled."""


class ProtocolError(JobRunnerError):
    """A peer sent a message that the protocol does not allow, or uses another version of the protocol."""


class AuthenticationError(JobRunnerError):
    """A peer did not prove its identity, or has no right to do what it asked for."""


class NotSupportedError(JobRunnerError, NotImplementedError):
    """The backend cannot do what it was asked for."""


class NotPicklableError(NotSupportedError, TypeError):
    """A Future or Executor cannot be sent to another process; the standard library raises a TypeError in this case."""


class TaskTimeoutError(JobRunnerError, TimeoutError):
    """The task ran longer than its `timeout` and was stopped."""


class DependencyError(JobRunnerError):
    """A call was not run, because a Future among its arguments failed; `__cause__` is the exception of that Future."""


class QuotaError(JobRunnerError):
    """The cluster refuses a call, because the call exceeds a limit of the coordinator.

    The function, the arguments or the result may be larger than `max_payload`, or the call may depend on the results
    of too many other calls. Or all clients of its key together may have more calls, bytes or different resource
    requests at the coordinator than `quota_tasks`, `quota_bytes` and the limit on resource requests allow.
    """


class DeadlockError(JobRunnerError):
    """A call was not run, because tasks that wait for it hold the resources that it needs, so none could ever end."""


class JournalError(JobRunnerError):
    """The coordinator could not write to its journal, and therefore refused the call."""


class InitializerError(JobRunnerError, BrokenProcessPool, BrokenThreadPool):
    """The executor's initializer raised an exception in the slot, so the executor's calls cannot run there."""


class TaskLostError(JobRunnerError, BrokenProcessPool):
    """The process that ran the task died before the outcome was known."""


class WorkerLostError(TaskLostError):
    """The worker that ran the task was lost, and the task may not run again."""


class CrashLimitError(TaskLostError):
    """The task's process died as often as the crash limit allows, so the task itself is the likely cause."""


class CoordinatorLostError(JobRunnerError, BrokenProcessPool):
    """The coordinator could not be reached, or stayed unreachable for longer than the configured wait."""
