from __future__ import annotations

from support.client_calls import submit
from support.cores import client, ids, ok, spec

from jobrunner.protocol.effects import CancelRequested
from jobrunner.protocol.wire import messages as m


def test_the_window_bounds_the_unfinished_tasks():
    world = client(opened=False)
    submit(world, *[spec(n) for n in range(5)])
    world.open(window_tasks=2)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-0", "c-1"]]
    assert world.heard() == []
    world.say(m.Outcomes([ok("c-1")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-2"]
    world.say(m.Outcomes([ok("c-0"), ok("c-2")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-3", "c-4"]


def test_the_window_bounds_their_bytes_too_and_a_giant_goes_alone():
    world = client(opened=False)
    sizes = [40, 50, 20, 500, 1]
    submit(world, *[spec(n, payload=bytes(size)) for n, size in enumerate(sizes)])
    world.open(window_bytes=100)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-0", "c-1"]]
    world.say(m.Outcomes([ok("c-0")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-2"]
    world.say(m.Outcomes([ok("c-1")]))
    assert world.heard() == [], "it waits until nothing else is there, and the small one behind it waits too"
    world.say(m.Outcomes([ok("c-2")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-3"]
    world.say(m.Outcomes([ok("c-3")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-4"]


def test_the_highest_priority_leaves_first_and_equals_in_order():
    world = client(opened=False)
    submit(world, spec(1), spec(2, priority=5), spec(3, priority=-5), spec(4, priority=5))
    world.open(window_tasks=3)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-2", "c-4", "c-1"]]
    submit(world, spec(5, priority=9))
    world.say(m.Outcomes([ok("c-1")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-5"]


def test_a_task_follows_the_one_that_it_depends_on():
    """It cannot run before that one, so it does not fill the window in front of it."""
    world = client(opened=False)
    submit(world, spec(1), spec(2, priority=5)._replace(depends_on=("c-1",)), spec(3, priority=1))
    world.open(window_tasks=1)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-3"]]
    world.say(m.Outcomes([ok("c-3")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-1"]
    world.say(m.Outcomes([ok("c-1")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-2"]


def test_a_task_whose_dependency_is_cancelled_before_it_was_sent_is_sent_all_the_same():
    """The coordinator says what follows from the end of a dependency."""
    world = client(opened=False)
    submit(world, spec(1), spec(2)._replace(depends_on=("c-1",)))
    world.handle(CancelRequested(["c-1"], False))
    world.open()
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-2"]]
