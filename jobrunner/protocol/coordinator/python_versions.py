"""Functions that are sent by value need the version of Python that made them."""

from __future__ import annotations

from itertools import islice

from jobrunner.protocol.coordinator.function_table import FunctionEntry, FunctionTable
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId

MAX_VERSIONS_NAMED = 10
"""Maximum number of versions of Python in the error of each call that finds none of them its own."""


class PythonVersions:
    """Whether some worker has the version of Python that a function needs."""

    def __init__(self, roster: Roster, functions: FunctionTable) -> None:
        self._roster = roster
        self._functions = functions

    def refusal(
        self, task_id: TaskId, function: FunctionEntry, initializer: FunctionEntry | None
    ) -> m.Outcome | None:
        """How a call of these ends that no worker who is here can run; None if one can, or if none is here."""
        if self._roster.workers:
            for entry in (function, initializer):
                if entry is not None and not self._is_provided(entry):
                    return self.wrong_python(task_id, entry)
        return None

    def unprovided(self) -> set[FunctionEntry]:
        """Functions that none of the workers who are here can run."""
        return {entry for entry in self._functions.entries() if not self._is_provided(entry)}

    def _is_provided(self, function: FunctionEntry) -> bool:
        """Whether any worker has the version of Python that a function needs, if it needs one."""
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
