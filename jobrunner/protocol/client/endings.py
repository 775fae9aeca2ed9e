"""The handling of outcomes: the program's Futures are resolved, or a part of the task continues as another task."""

from __future__ import annotations

from collections.abc import Iterable

from jobrunner.protocol.bundles import Limits
from jobrunner.protocol.chunks import kept, stop_of
from jobrunner.protocol.client.bundle_tracker import BundleTracker
from jobrunner.protocol.client.cancel_requests import CancelRequests
from jobrunner.protocol.client.inquiries import Inquiries
from jobrunner.protocol.client.pending_tasks import PendingTasks
from jobrunner.protocol.client.send_window import SendWindow
from jobrunner.protocol.effects import ChunkDivided, Effect, InitializerFailed, ResolveTasks
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Bundle


class Endings:
    """Handles outcomes, and learns from them how many calls a bundle may have."""

    def __init__(
        self,
        tasks: PendingTasks,
        window: SendWindow,
        bundle_tracker: BundleTracker,
        cancel_requests: CancelRequests,
        inquiries: Inquiries,
        effects: list[Effect],
    ) -> None:
        self.limits = Limits()
        """The maximum number of calls per bundle, which other threads of the program read, too."""
        self._tasks = tasks
        self._window = window
        self._bundle_tracker = bundle_tracker
        self._cancel_requests = cancel_requests
        self._inquiries = inquiries
        self._effects = effects

    def take(self, outcomes: Iterable[m.Outcome]) -> None:
        fresh: list[m.Outcome] = []
        specs, watched = self._tasks.specs, self._inquiries.watched
        for outcome in outcomes:
            spec = specs.get(outcome.id)
            if (
                spec is not None
                and spec.body.initializer is not None
                and outcome.detail
                and "setup" in outcome.detail
            ):
                self._effects.append(InitializerFailed(outcome))  # no pending task can run
                continue
            if spec is not None:
                self.limits.learn(spec, outcome)
            if spec is not None and isinstance(spec.body.kind, Bundle):
                self._bundle_tracker.ended(spec, outcome)
            elif spec is not None and outcome.status == m.SPLIT:
                self._divided(spec, outcome)
            elif outcome.id in watched:
                self._inquiries.end_watch(outcome.id)
                self._tasks.forget(outcome.id)
                fresh.append(outcome)
            elif self._tasks.forget(outcome.id):
                fresh.append(outcome)
        if fresh:
            self._effects.append(ResolveTasks(fresh))

    def _divided(self, chunk: m.TaskSpec, outcome: m.Outcome) -> None:
        """Handle the division of a chunk: wait for the part that continues, and let the program submit the rest."""
        stop = stop_of(chunk, outcome)
        if stop is None:
            error = "it was divided where it has no elements"
            self._tasks.forget(chunk.id)
            lost = m.Outcome(chunk.id, outcome.attempt, m.LOST, detail={"error": error})
            self._effects.append(ResolveTasks([lost]))
            return
        part = kept(chunk, stop)
        wish = self._cancel_requests.unanswered.get(chunk.id)
        self._tasks.add(part, regained=self._window.has_sent(chunk.id))
        self._tasks.forget(chunk.id)
        self._effects.append(ChunkDivided(chunk.id, part.id, stop))
        if wish:
            self._cancel_requests.request(part.id, True)
        elif wish is not None:
            self._cancel_requests.note_refused([part.id])
