"""Bugs that bundles could have, planted: some seed finds each."""

from __future__ import annotations

from support.seeking import find

from jobrunner.protocol.bundles import place_of_call
from jobrunner.protocol.client.bundle_tracker import BundleTracker
from jobrunner.protocol.client.cancel_requests import CancelRequests
from jobrunner.protocol.client.pending_tasks import PendingTasks
from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.cancellation import Cancellation
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.worker.splitting import Splitting
from jobrunner.testing.simulation.laws import RIGHT


def test_a_client_that_forgets_the_rest_of_a_bundle_is_found(monkeypatch):
    real = PendingTasks.add

    def add(self, spec, *, regained=False):
        if not regained:
            real(self, spec)

    monkeypatch.setattr(PendingTasks, "add", add)
    find()


def test_a_client_that_begins_again_with_what_has_ended_is_found(monkeypatch):
    real = BundleTracker._split

    def split(self, spec, results, start, runs=False):
        real(self, spec, results, max(0, start - 1), runs)

    monkeypatch.setattr(BundleTracker, "_split", split)
    find()


def test_a_worker_that_goes_on_under_the_name_of_the_bundle_is_found(monkeypatch):
    real = Splitting.bundle_split

    def slot_split(self, event, now):
        real(self, event, now)
        task = self._slots[event.slot].queue.get(event.number) if event.slot in self._slots else None
        bundle = None if task is None else place_of_call(task.id)
        if bundle is not None and task.id in self._local_tasks.tasks:
            del self._local_tasks.tasks[task.id]
            task.assignment = task.assignment._replace(id=TaskId(f"{bundle[0]}-{RIGHT}"))
            self._local_tasks.tasks[task.id] = task

    monkeypatch.setattr(Splitting, "bundle_split", slot_split)
    find()


def test_a_call_that_runs_on_and_is_started_again_is_found(monkeypatch):
    monkeypatch.setattr(Attempts, "goes_on", lambda self, worker, outcome, now: None)
    find()


def test_a_call_that_runs_on_and_is_given_up_before_its_client_names_it_is_found(monkeypatch):
    monkeypatch.setattr(Orphans, "named_later", lambda self, task_id: False)
    find()


def test_a_cancelled_call_that_others_wait_for_is_found(monkeypatch):
    monkeypatch.setattr(CancelRequests, "tell_cancelled", lambda self, outcomes: None)
    find(first=52)


def test_a_call_of_a_bundle_that_is_never_said_to_have_ended_is_found(monkeypatch):
    monkeypatch.setattr(Dependencies, "bundle_ended", lambda self, ended, now: None)
    find()


def test_wishes_that_are_never_forgotten_are_found(monkeypatch):
    def forget_bundle(self, bundle):
        self._tasks.forget(bundle)

    monkeypatch.setattr(BundleTracker, "_forget_bundle", forget_bundle)
    find()


def test_a_call_that_runs_on_without_its_client_being_told_is_found(monkeypatch):
    real = Attempts.started

    def started(self, worker, task_id, now):
        if task_id in self._tasks or place_of_call(task_id) is None:  # else it is named later
            real(self, worker, task_id, now)

    monkeypatch.setattr(Attempts, "started", started)
    find("calm")


def test_a_coordinator_that_cancels_the_others_with_a_call_is_found(monkeypatch):
    def cancel_call(self, bundle, index, running):
        self.cancel(bundle.id, running, bundle.since)

    monkeypatch.setattr(Cancellation, "cancel_call", cancel_call)
    find()
