"""The submission of an EngineBackend's calls: each gets an id, and waits for the Futures among its arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobrunner.backends.engine.attempts import Attempts
from jobrunner.backends.engine.call_queue import Call
from jobrunner.backends.engine.events import Events
from jobrunner.backends.engine.unfinished_calls import UnfinishedCalls
from jobrunner.backends.futures_in_arguments import AnyFuture
from jobrunner.backends.prepared import Prepared
from jobrunner.futures import Canceller, Future, resolve
from jobrunner.nested.wait_hooks import depth
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, random_token, task_id
from jobrunner.protocol.wire.kinds import Kind
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script import per_thread as threads


class NewCalls:
    """Passes calls from the threads that submit them to `attempts`, on the backend's thread.

    `lock` also guards `calls` and `check_open`, which raises if no call is accepted any more. `Future.cancel` of these
    calls calls `cancel`.
    """

    def __init__(
        self,
        lock: threading.RLock,
        check_open: Callable[[], None],
        calls: UnfinishedCalls,
        attempts: Attempts,
        events: Events,
        cancel: Canceller,
    ) -> None:
        self._lock = lock
        self._check_open = check_open
        self._calls = calls
        self._attempts = attempts
        self._events = events
        self._cancel = cancel
        self._client = ClientId(random_token())
        self._number = 0

    def send(
        self,
        prepared: Prepared,
        payload: Payload,
        kind: Kind,
        options: m.TaskOptions,
        futures: Sequence[AnyFuture] = (),
    ) -> Future[Any]:
        """Add a call and return its Future, as `submission.Send` describes."""
        function = prepared.dumped
        future: Future[Any] = Future()
        with self._lock:
            self._check_open()
            self._number += 1
            task = task_id(self._client, self._number)
            future.bind(task, options.name or function.name, self._cancel)
            call = Call(task, self._number, future, function, payload, kind, options, depth(), futures)
            call.main = threads.entered()
            self._calls.add(call)
        if futures:
            self._wait_for_dependencies(call)
        else:
            self._events.post(partial(self._attempts.enqueue, call))
        return future

    def _wait_for_dependencies(self, call: Call) -> None:
        left = len(call.depends_on)
        lock = threading.Lock()

        def one_is_done(_: AnyFuture) -> None:
            nonlocal left
            try:
                with lock:
                    left -= 1
                    last = left == 0
                if last:
                    self._events.post(partial(self._attempts.take_dependencies, call))
            except BaseException as exc:  # otherwise the call would wait for ever
                resolve(call.future, exception=exc)
                self._events.post(partial(self._attempts.drop, call.id))
                raise

        for dependency in call.depends_on:
            dependency.add_done_callback(one_is_done)
