from __future__ import annotations

from support.cores import client, ok

from jobrunner.protocol.effects import (
    AnnounceRunning,
    AnswerQuery,
    QueryRequested,
    ResolveTasks,
    WatchRequested,
)
from jobrunner.protocol.wire import messages as m


def test_a_query_is_answered_once():
    world = client()
    world.handle(QueryRequested(3, "task", "c-1"))
    assert world.heard() == [m.Query(3, "task", "c-1")]
    world.say(m.Reply(3, {"state": "queued"}), m.Reply(3, {}), m.Reply(4, {}))
    assert world.take() == [AnswerQuery(3, {"state": "queued"}, "")]


def test_a_query_before_the_session_waits_for_it():
    world = client(opened=False)
    world.handle(QueryRequested(1, "status"))
    world.open()
    assert world.heard() == [m.ResubmissionComplete(), m.Query(1, "status")]


def test_a_watch_is_sent_once_per_session_until_its_task_has_ended():
    world = client()
    world.handle(WatchRequested(["d-1", "d-2"]))
    world.handle(WatchRequested(["d-1"]))
    assert world.heard() == [m.Watch(["d-1", "d-2"])]
    assert world.heard() == []
    world.say(m.Outcomes([ok("d-1")]))
    assert world.take() == [ResolveTasks([ok("d-1")])]
    world.lose()
    world.open()
    assert world.heard() == [m.ResubmissionComplete(), m.Watch(["d-2"])]


def test_the_start_of_a_watched_task_is_announced():
    world = client()
    world.handle(WatchRequested(["d-1"]))
    world.say(m.Running(["d-1", "d-2"]))
    assert world.take() == [AnnounceRunning(["d-1"])]
