"""The Python versions that functions by value require, because they run only on the version that created them."""

from __future__ import annotations

from itertools import islice

from jobrunner.protocol.coordinator.function_table import FunctionEntry, FunctionTable
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId

MAX_VERSIONS_NAMED = 10
"""Maximum number of Python versions in the error of a call for which there is no worker."""


class PythonVersions:
    """The check whether some worker has the Python version that a function requires."""

    def __init__(self, roster: Roster, functions: FunctionTable) -> None:
        self._roster = roster
        self._functions = functions

    def refusal(
        self, task_id: TaskId, function: FunctionEntry, initializer: FunctionEntry | None
    ) -> m.Outcome | None:
        """Return the outcome of a call that no present worker can run, and None if one can or if there is no worker."""
        if self._roster.workers:
            for entry in (function, initializer):
                if entry is not None and not self._is_provided(entry):
                    return self.wrong_python(task_id, entry)
        return None

    def unprovided(self) -> set[FunctionEntry]:
        """Return the functions that none of the present workers can run."""
        return {entry for entry in self._functions.entries() if not self._is_provided(entry)}

    def _is_provided(self, function: FunctionEntry) -> bool:
        """Return whether any worker has the Python version that a function requires, if it requires one."""
        python = function.definition.python
        return not python or python in self._roster.pythons

    def wrong_python(self, task_id: TaskId, function: FunctionEntry) -> m.Outcome:
        there = sorted(islice(self._roster.pythons, MAX_VERSIONS_NAMED))
        more = ", ..." if len(self._roster.pythons) > MAX_VERSIONS_NAMED else ""
        named = ", ".join(there) + more
        definition = function.definition
        error = (
            f"the function {definition.name} is sent by value, from Python {definition.python}, and the workers have"
            f" {named}: use the same version on both sides, or put the function in a module that is"
            " installed on the workers"
        )
        return m.Outcome(task_id, 0, m.REFUSED, detail={"error": error, "python": True})
