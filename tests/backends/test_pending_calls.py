"""The Futures of a client's calls: resolved once, by outcomes, parts of bundles and chunks, or the end."""

from __future__ import annotations

import pytest

from jobrunner.backends.bundle_builder import BundleBuilder
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.calls import serialization
from jobrunner.errors import JobRunnerError
from jobrunner.futures import CancelWaits, Future
from jobrunner.protocol.bundles import Results, pack_results
from jobrunner.protocol.effects import AnnounceRunning, BundleSplit, ChunkDivided
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, task_id
from jobrunner.system import forks

CLIENT = ClientId("c")


class Client:
    def __init__(self):
        self.released = []
        self.pending = PendingCalls(forks.lock(), CancelWaits(), self.released.extend)
        self.number = 0

    def new_id(self):
        self.number += 1
        return task_id(CLIENT, self.number)

    def call(self, *depends_on):
        future = Future()
        future.bind(self.new_id(), "call")
        self.pending.add(future.id, future, False, depends_on)
        return future

    def bundle(self, count):
        definition = m.FunctionDef(b"k" * 16, "function", b"")
        builder = BundleBuilder(self, self.new_id(), definition, m.DEFAULT_OPTIONS, 0, count)
        futures = [builder.add(b"") for _ in range(count)]
        self.pending.add_bundle(builder)
        return builder, futures


@pytest.fixture
def client():
    return Client()


def ok(task, value):
    return m.Outcome(task, 1, m.OK, serialization.dump_result(value), 0.5)


def results(*values):
    return pack_results(
        Results([serialization.dump_result(value) for value in values], [0.5] * len(values), [])
    )


def test_an_outcome_resolves_its_call_and_releases_what_it_depended_on(client):
    first, second = client.call("needed"), client.call()
    client.pending.resolve_outcomes([ok(first.id, 1), m.Outcome(second.id, 1, m.CANCELLED)])
    assert (first.result(0), first.duration) == (1, 0.5)
    assert second.cancelled()
    assert client.released == ["needed"]
    assert client.pending.count == 0
    client.pending.resolve_outcomes([ok(first.id, 2)])  # it is known no more
    assert first.result(0) == 1


def test_a_future_that_somebody_else_has_resolved_costs_no_other(client):
    futures = [client.call() for _ in range(3)]
    futures[1].set_result("by the program")
    client.pending.resolve_outcomes([ok(future.id, "by the call") for future in futures])
    assert [future.result(0) for future in futures] == ["by the call", "by the program", "by the call"]


def test_the_calls_of_a_bundle_are_found_one_by_one_and_end_together(client):
    builder, futures = client.bundle(3)
    assert client.pending.count == 3
    assert client.pending.future_of(builder.id_of(1)) is futures[1]
    client.pending.announce_running(AnnounceRunning([builder.id_of(2)]))
    assert [future.running() for future in futures] == [False, False, True]
    client.pending.resolve_outcomes([m.Outcome(builder.id, 1, m.OK, results(1, 2, 3), 1.5)])
    assert [future.result(0) for future in futures] == [1, 2, 3]
    assert client.pending.future_of(builder.id_of(1)) is None


def test_a_split_bundle_leaves_the_calls_that_have_not_ended(client):
    builder, futures = client.bundle(3)
    client.pending.split(BundleSplit(builder.id, results("done"), 1))
    assert [future.done() for future in futures] == [True, False, False]
    assert list(client.pending.entries) == [builder.id_of(1), builder.id_of(2)]
    client.pending.resolve_outcomes([ok(builder.id_of(2), "alone")])
    assert futures[2].result(0) == "alone"


def test_a_divided_chunk_goes_on_under_the_id_of_its_part(client):
    future, told = Future(), []
    task = client.new_id()
    future.bind(task)
    future.when_divided(told.append)
    client.pending.add(task, future, True, ())
    client.pending.divide(ChunkDivided(task, f"{task}/2", 2))
    assert told == [2]
    assert future.id == f"{task}/2"
    assert list(client.pending.entries) == [future.id]


def test_nobody_waits_at_the_end_for_calls_of_others_and_detached_ones(client):
    detached, watched, own = client.call(), Future(), client.call()
    watched.bind("elsewhere")
    client.pending.add_watched("elsewhere", watched)
    client.pending.accept([detached.id, "unknown"])
    assert client.pending.own() == [own.id]
    assert not client.pending.has_only_loose
    client.pending.resolve_outcomes([ok(own.id, 1)])
    assert client.pending.has_only_loose


def test_the_end_leaves_no_future_pending(client):
    own, (_, bundled) = client.call(), client.bundle(2)
    loose = Future()
    client.pending.add_watched("elsewhere", loose)
    client.pending.take_what_is_left(lambda: None)
    assert not client.pending.entries

    def error_of(task, future, is_loose):
        if future is bundled[0]:
            raise KeyError(task)
        return JobRunnerError("goes on") if is_loose else None

    client.pending.resolve_what_is_left(error_of)
    client.pending.resolve_what_is_left(error_of)
    assert own.cancelled()
    assert isinstance(bundled[0].exception(0), KeyError)
    assert bundled[1].cancelled()
    assert str(loose.exception(0)) == "goes on"


def test_an_error_that_came_with_no_outcome_ends_one_call(client):
    bad, good = client.call(), client.call()
    client.pending.fail(bad.id, KeyError("why"))
    client.pending.fail(bad.id, KeyError("once more"))
    assert bad.exception(0).args == ("why",)
    assert list(client.pending.entries) == [good.id]
    client.pending.take_what_is_left(lambda: None)
    client.pending.fail(good.id, KeyError("after the end"))
    client.pending.resolve_what_is_left(lambda *call: None)
    assert good.cancelled()


def test_a_call_that_was_never_sent_is_dropped(client):
    future = client.call("needed")
    client.pending.discard(future.id)
    client.pending.discard(future.id)
    assert client.pending.count == 0
    assert client.pending.dependent() == []
