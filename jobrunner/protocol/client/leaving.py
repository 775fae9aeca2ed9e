"""The end of a client: the program asks for it, or the client gives up because it cannot reach a coordinator."""

from __future__ import annotations

from jobrunner.protocol.effects import Effect, GiveUp, Stop
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m


class Leaving:
    """Decides when the client ends, and knows whether it has ended.

    `connect_timeout` and `reconnect_timeout` are in seconds, and None means no limit.
    """

    def __init__(
        self,
        session: Session,
        effects: list[Effect],
        connect_timeout: float | None,
        reconnect_timeout: float | None,
    ) -> None:
        self._session = session
        self._effects = effects
        self._timeout = connect_timeout
        """The time without a session after which the client gives up, in seconds; None means no limit."""
        self._reconnect_timeout = reconnect_timeout
        self._was_open = False
        self._asked = False
        """True once the program has asked for the end."""
        self.stopped = False
        """True once the client has ended; it does nothing more."""

    def leave(self) -> None:
        """Leave at the end of this turn."""
        self._asked = True

    def session_opened(self) -> None:
        self._was_open = True
        self._timeout = self._reconnect_timeout

    def give_up_at(self) -> float | None:
        """Return the time at which the client gives up unless a session is opened before; None means never."""
        if self._session.open or self._timeout is None:
            return None
        return self._session.seeking_since + self._timeout

    def leave_if_due(self, now: float) -> None:
        """End the client if the program has asked for it, or if no session was opened in time."""
        if self._asked:
            if self._session.open:
                self._effects.append(self._session.send(m.Goodbye(), now))
            self._effects.append(Stop())
            self.stopped = True
        elif not self._session.open:
            self._give_up_if_due(now)

    def _give_up_if_due(self, now: float) -> None:
        if self._session.refusal:
            self._give_up(self._session.refusal, self._session.refusal_kind)
            return
        at = self.give_up_at()
        if at is None or now < at:
            return
        waited, loss = now - self._session.seeking_since, self._session.loss
        if self._session.has_other_keys:
            self._give_up(loss, "CoordinatorLostError", advises=True)
        elif self._was_open:
            self._give_up(f"{loss}, and has not come back within {waited:.0f} s", "CoordinatorLostError")
        else:
            self._give_up(f"no answer for {waited:.0f} s", "CoordinatorLostError")

    def _give_up(self, error: str, kind: str, *, advises: bool = False) -> None:
        self._effects.append(GiveUp(error, kind, advises))
        self.stopped = True
