"""The calls of pending bundles: which of them are to be cancelled, and what becomes of them when a bundle ends.

`protocol.bundles` describes bundles.
"""

from __future__ import annotations

from jobrunner.protocol.bundles import call_of, unpack_calls
from jobrunner.protocol.client.bundle_index import BundleIndex
from jobrunner.protocol.client.cancel_requests import CancelRequests
from jobrunner.protocol.client.pending_tasks import PendingTasks
from jobrunner.protocol.client.send_window import SendWindow
from jobrunner.protocol.effects import BundleSplit, Effect, ResolveTasks
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, call_id
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.payloads import Payload

ENDS_THAT_SPLIT = frozenset((m.SPLIT, m.CRASHED, m.LOST, m.CANCELLED, m.REFUSED))
"""The statuses of a bundle's outcome that do not tell the outcomes of all of its calls."""


def must_split(outcome: m.Outcome) -> bool:
    """Return whether a call of the bundle may end differently on its own.

    For example, all calls together may be too large although each of them is not.
    """
    return outcome.status in ENDS_THAT_SPLIT or bool(outcome.detail and "too_large" in outcome.detail)


class BundleTracker:
    """Follows the pending bundles of one client: notes cancel requests for their calls, and handles their ends."""

    def __init__(
        self,
        tasks: PendingTasks,
        window: SendWindow,
        bundles: BundleIndex,
        cancel_requests: CancelRequests,
        effects: list[Effect],
    ) -> None:
        self._tasks = tasks
        self._window = window
        self._bundles = bundles
        self._cancel_requests = cancel_requests
        self._effects = effects
        self._wishes: dict[TaskId, dict[int, bool]] = {}
        """The calls of each bundle that are to be cancelled; the value tells whether this includes a running call."""
        self._unwanted: set[TaskId] = set()
        """The bundles that are to be cancelled as a whole."""

    def cancel(self, bundle: TaskId, index: int, running: bool) -> None:
        """Cancel one call; a bundle that the coordinator has must be returned first."""
        spec = self._tasks.specs[bundle]
        assert isinstance(spec.body.kind, Bundle)
        if index >= spec.body.kind.calls:
            return
        wishes = self._wishes.setdefault(bundle, {})
        wishes[index] = running or wishes.get(index, False)
        if self._window.has_sent(bundle):
            self._cancel_requests.request(bundle, False)
        else:
            self._split(spec, b"", 0)

    def cancel_whole(self, bundle: TaskId) -> None:
        self._unwanted.add(bundle)

    def refused(self, bundle: TaskId) -> list[TaskId]:
        """Note that the bundle runs, and return its calls whose cancelling is thereby refused.

        Requests for the other calls are answered when the bundle has ended.
        """
        wishes = self._wishes.get(bundle, {})
        indices = [index for index, running in wishes.items() if not running]
        for index in indices:
            del wishes[index]
        return [call_id(bundle, index) for index in indices]

    def is_to_stop(self, call: TaskId) -> bool:
        """Return whether this call of a bundle is to be cancelled even if it runs."""
        place = self._bundles.bundle_with(call)
        return place is not None and self._wishes.get(place[0], {}).get(place[1], False)

    def ended(self, spec: m.TaskSpec, outcome: m.Outcome) -> None:
        """Handle the end of a pending bundle."""
        whole = spec.id in self._unwanted or not self._wishes.get(spec.id)
        if not must_split(outcome) or (outcome.status == m.CANCELLED and whole):
            if outcome.status == m.CANCELLED:
                self._cancel_requests.tell_cancelled([outcome])
            self._forget_bundle(spec.id)
            self._effects.append(ResolveTasks([outcome]))
        elif outcome.status == m.SPLIT:
            self._split(spec, outcome.payload, (outcome.detail or {})["running"], runs=True)
        else:
            self._split(spec, b"", 0)

    def leftovers(self) -> list[object]:
        """Return everything that is kept for bundles; for tests."""
        return [*self._wishes, *self._unwanted]

    def _split(self, spec: m.TaskSpec, results: Payload, start: int, runs: bool = False) -> None:
        """Submit the calls from `start` on as tasks of their own.

        `runs` tells that the first of these calls is running already.
        """
        wishes, unwanted = self._wishes.get(spec.id, {}), spec.id in self._unwanted
        self._effects.append(BundleSplit(spec.id, results, start))
        sent = self._window.has_sent(spec.id)
        cancelled, refused = [], []
        for index, payload in enumerate(unpack_calls(spec.body.payload)):
            if index < start:
                continue
            call = call_of(spec, index, payload)
            wish = wishes.get(index)
            if not (runs and index == start):
                if unwanted or wish is not None:
                    cancelled.append(m.Outcome(call.id, 0, m.CANCELLED))
                else:
                    self._tasks.add(call, regained=sent)
                continue
            self._tasks.add(call, regained=sent)
            if wish:
                self._cancel_requests.request(call.id, True)
            elif wish is not None or unwanted:
                refused.append(call.id)
        self._forget_bundle(spec.id)
        if cancelled:
            if sent:
                self._cancel_requests.tell_cancelled(cancelled)
            self._effects.append(ResolveTasks(cancelled))
        self._cancel_requests.note_refused(refused)

    def _forget_bundle(self, bundle: TaskId) -> None:
        self._tasks.forget(bundle)
        self._wishes.pop(bundle, None)
        self._unwanted.discard(bundle)
