"""The outcomes and output that the coordinator has not confirmed, of which this worker has the only copy.

An outcome is safe when the link says that its message was acknowledged. When a session is lost, the outcomes that were
not acknowledged open the next one. Output of tasks is kept only up to a limit, and is lost with the session.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobrunner.protocol.effects import Effect
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import batches, of_outcome
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import payload_size

OUTPUT_LIMIT = 1000
"""Maximum number of pieces of text that are kept while there is no session; later ones are dropped."""

OUTPUT_CHARACTERS = 4 * 1024 * 1024
"""Maximum number of characters of text in one message; text beyond that is dropped."""


class Unacknowledged:
    """The outcomes and the output of a worker. Messages go through `session` into `effects`."""

    def __init__(self, session: Session, effects: list[Effect], most_bytes: int) -> None:
        self._session = session
        self._effects = effects
        self._most_bytes = most_bytes
        self._outcomes: list[m.Outcome] = []
        self._unsent: list[m.Outcome] = []
        """Outcomes of a lost session, which open the next one."""
        self._outcome_bytes = 0
        """Size in bytes of the payloads of both lists, which no link counts."""
        self._output: list[m.OutputChunk] = []
        self._output_characters = 0

    def add(self, outcome: m.Outcome) -> None:
        """Add an outcome, which is sent at the end of this turn if there is a session."""
        self._outcomes.append(outcome)
        self._outcome_bytes += payload_size(outcome.payload)

    def has_room(self) -> bool:
        """Return whether more tasks may start, although their outcomes must be kept here, too."""
        return self._session.link.unacked_bytes + self._outcome_bytes <= self._most_bytes

    def undelivered(self) -> bool:
        """Return whether there are outcomes that were never sent, because there is no session."""
        return bool(self._outcomes or self._unsent)

    def held(self) -> list[m.Held]:
        """Return the tasks that have ended here, as entries of a greeting."""
        return [m.Held(o.id, o.attempt, False) for o in (*self._unsent, *self._outcomes)]

    def takes_output(self) -> bool:
        """Return whether more text can be kept."""
        return len(self._output) <= OUTPUT_LIMIT

    def add_output(self, source: tuple[TaskId, str], stream: int, text: str) -> None:
        """Keep text that a task of this id and name has printed, unless there is too much text already."""
        if self._output_characters < OUTPUT_CHARACTERS:
            self._output.append(m.OutputChunk(*source, stream, text))
            self._output_characters += len(text)

    def session_lost(self, unacked: Iterable[m.Message]) -> None:
        """Take back the outcomes in messages that the coordinator may not have received, and drop the output."""
        for message in unacked:
            if type(message) is m.Outcomes:
                self._unsent += message.outcomes
                self._outcome_bytes += sum(payload_size(outcome.payload) for outcome in message.outcomes)
        self._take_output()

    def session_opened(self) -> None:
        """Put outcomes that an earlier session did not deliver first."""
        self._outcomes = self._unsent + self._outcomes
        self._unsent = []

    def send(self, now: float) -> None:
        """Send everything; call it only while the session is open."""
        if self._output:
            chunks = self._take_output()
            size = sum(len(chunk.text) for chunk in chunks)
            self._effects.append(self._session.send(m.Output(chunks), now, size))
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._outcome_bytes = 0
            for batch in batches(outcomes, of_outcome):
                size = sum([payload_size(outcome.payload) for outcome in batch])
                self._effects.append(self._session.send(m.Outcomes(batch), now, size))

    def leftovers(self) -> list[object]:
        """Return everything that is kept; for tests."""
        return [*self._unsent, *self._outcomes, *self._output]

    def _take_output(self) -> list[m.OutputChunk]:
        chunks, self._output, self._output_characters = self._output, [], 0
        return chunks
