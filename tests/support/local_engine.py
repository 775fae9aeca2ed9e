"""The smallest engine: threads of this process, that does with a call what the test wants."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from jobrunner.backends.engine.attempts import AttemptFailure
from jobrunner.backends.engine.backend import EngineBackend
from jobrunner.backends.engine.entry import entry
from jobrunner.backends.engine.in_worker import wrapped
from jobrunner.backends.engine.parts import PartsThere
from jobrunner.protocol.wire import messages as m


class EngineError(Exception):
    """What the engine says of a call that it has not run to its end; `failure` is what that means."""

    def __init__(self, status=m.CRASHED, **detail):
        super().__init__("it met its fate")
        self.failure = AttemptFailure(status, "it met its fate", detail)


class LocalEngine(EngineBackend):
    """`fate(call)` may return an EngineError, and that is all that becomes of the call.

    `apart`: the engine has a way of its own for the parts of functions.
    """

    name = "local"
    why_not = "nothing of the local engine is ever stopped"

    def __init__(self, settings):
        settings.refuse_unknown(self.name, "fate", "apart")
        self._apart = settings.extra.get("apart", False)
        self._parts_there = PartsThere(lambda payload: (wrapped(payload), True))
        self._fate = settings.extra.get("fate", lambda call: None)
        self._size = settings.max_workers or 2
        self._entry = entry()
        self._pool = ThreadPoolExecutor(self._size)
        self.sent = []
        super().__init__(settings)

    def _slots(self):
        return self._size

    def _send(self, calls):
        for call in calls:
            self.sent.append(call.future.name)
            fate = self._fate(call)
            if isinstance(fate, OSError):
                raise fate
            values = [wrapped(value) for value in call.values]
            apart = self._parts_there.arguments(self.parts_of(call)) if self._apart else []
            arguments = self.head(call, apart=self._apart), wrapped(call.payload), values
            call.handle = self._pool.submit(self._work, fate, *arguments, *apart)
            attempt = call.attempt
            call.handle.add_done_callback(
                lambda done, call=call, attempt=attempt: self.arrived(
                    call, attempt, None if done.exception() else done.result(), done.exception()
                )
            )

    def _work(self, fate, head, parts, values, *apart):
        if fate is not None:
            raise fate
        return self._entry(head, parts, values, *apart)

    def _diagnose(self, call, error):
        return error.failure

    def _close(self, killed):
        self._pool.shutdown(wait=not killed, cancel_futures=killed)


class StoppableEngine(LocalEngine):
    """It stops the wait for a call, which is all that can be done with a thread, and knows which it stopped hard."""

    can_stop = True

    def __init__(self, settings):
        self.stopped_hard = []
        super().__init__(settings)

    def _stop(self, call, hard):
        self.stopped_hard.append(hard)
        self.arrived(call, call.attempt, None, EngineError(m.CANCELLED))


class EngineContext:
    name = "here"
    address = None
    waiting = None
    until = None
    keeps_results = True
    interruptible = False

    def begins(self, call):
        return True
