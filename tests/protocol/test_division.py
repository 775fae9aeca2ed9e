"""When running chunks are divided, and what becomes of them; the scheduler's side and the whole coordinator's."""

from __future__ import annotations

import pytest
from support.cores import DOUBLE, Coordinator, ended, ids, ok, spec

from jobrunner.protocol.chunks import kept, may_stop, part_id
from jobrunner.protocol.tuning import DIVIDE_AGAIN_AFTER
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk


def divided(task, stop, attempt=1):
    return m.Outcome(TaskId(task), attempt, m.SPLIT, b"", 0.0, {"stop": stop})


class Cluster(Coordinator):
    """A client "c", a worker "w" that runs chunks, and a worker "idle"."""

    def __init__(self, *chunks, busy=1, idle=1):
        super().__init__()
        self.c = self.client("c")
        self.w = self.worker("w", slots=busy)
        self.submit(*chunks)
        self.w.heard()
        self.idle = self.worker("idle", slots=idle) if idle else None

    def submit(self, *tasks):
        self.c.say(m.Submit(list(tasks), [DOUBLE]))
        self.turn()

    def run_long(self, *tasks):
        """The worker says that these run; the ids of the chunks that it is then asked to divide."""
        self.w.say(m.Running([TaskId(task) for task in tasks]))
        return [task for message in self.w.heard_of(m.Divide) for task in message.ids]

    def asked(self, after=0.0):
        self.turn(after)
        return [task for message in self.w.heard_of(m.Divide) for task in message.ids]

    def told(self):
        return [outcome for message in self.c.heard_of(m.Outcomes) for outcome in message.outcomes]


def test_a_chunk_that_takes_long_is_divided_where_a_slot_is_idle():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    assert cluster.run_long("c-1") == ["c-1"]
    cluster.w.say(m.Outcomes([divided("c-1", 3)]))
    assert cluster.told() == [divided("c-1", 3)]
    part = cluster.core.scheduler.tasks[TaskId("c-1/3")]
    assert (part.body.kind, part.worker.name, part.attempt) == ((0, 3), "w", 1)
    cluster.submit(spec("1/3", kind=Chunk(0, 3)), spec(2, kind=Chunk(3, 8)))
    assert [ids(message.tasks) for message in cluster.idle.heard_of(m.Assign)] == [["c-2"]]
    cluster.w.say(m.Outcomes([ok("c-1/3")]))
    assert cluster.told() == [ok("c-1/3")]


def test_a_chunk_is_left_alone_while_all_slots_are_busy_and_divided_as_soon_as_one_is_not():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)), spec(2), busy=2, idle=0)
    assert cluster.run_long("c-1", "c-2") == []
    cluster.w.say(m.Outcomes([ok("c-2")]))
    assert cluster.asked() == ["c-1"]


def test_what_waits_in_the_queue_fills_idle_slots_first():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.submit(spec(2))
    assert cluster.run_long("c-1") == []


@pytest.mark.parametrize("task", [spec(1), spec(1, kind=Chunk(4, 5))])
def test_what_has_one_element_is_not_divided(task):
    assert Cluster(task).run_long("c-1") == []


def test_a_chunk_is_not_divided_for_a_slot_that_cannot_run_it():
    cluster = Cluster(idle=0)
    cluster.gpu = cluster.worker("gpu", resources={"gpu": 1.0})
    cluster.submit(spec(1, kind=Chunk(0, 8), resources=(("gpu", 1.0),)))
    cluster.gpu.heard()
    cluster.gpu.say(m.Running([TaskId("c-1")]))
    assert cluster.gpu.heard_of(m.Divide) == []


def test_the_part_that_goes_on_holds_its_resources():
    cluster = Cluster(idle=0)
    gpus = [cluster.worker(name, resources={"gpu": 1.0}) for name in ("g1", "g2")]
    cluster.submit(spec(1, kind=Chunk(0, 8), resources=(("gpu", 1.0),)))
    (busy,) = [gpu for gpu in gpus if gpu.heard_of(m.Assign)]
    busy.say(m.Running([TaskId("c-1")]))
    busy.heard_one(m.Divide)
    busy.say(m.Outcomes([divided("c-1", 1)]))
    cluster.submit(spec(2, resources=(("gpu", 1.0),)), spec(3, resources=(("gpu", 1.0),)))
    assert busy.heard_of(m.Assign) == []


def test_a_client_hears_what_a_part_is_called_before_it_hears_that_it_runs():
    """Else it does not know the part yet, and takes no news of it."""
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.run_long("c-1")
    cluster.c.heard()
    cluster.w.say(m.Outcomes([divided("c-1", 3)]), m.Running([TaskId("c-1/3")]))
    assert cluster.c.heard() == [m.Outcomes([divided("c-1", 3)]), m.Running(["c-1/3"])]


def test_a_chunk_is_asked_once_and_then_others_twice_as_many_each_time():
    chunks = [spec(n, kind=Chunk(0, 2)) for n in range(1, 8)]
    cluster = Cluster(*chunks, busy=7)
    asked = [cluster.run_long(*ids(chunks))]
    for _ in range(3):
        assert cluster.asked() == [], "the first have not had time to answer"
        asked.append(cluster.asked(after=DIVIDE_AGAIN_AFTER))
    assert [len(some) for some in asked] == [1, 2, 4, 0]
    assert {task for some in asked for task in some} == {*ids(chunks)}


def test_a_chunk_is_asked_again_after_a_session_was_lost():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    assert cluster.run_long("c-1") == ["c-1"]
    cluster.w.hello.held = [m.Held(TaskId("c-1"), 1, True)]
    cluster.reopen(cluster.w)
    assert cluster.asked(after=DIVIDE_AGAIN_AFTER) + [
        task for message in cluster.w.arrived if type(message) is m.Divide for task in message.ids
    ] == ["c-1"]


def test_a_chunk_that_is_being_stopped_is_not_divided_but_ends():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.run_long("c-1")
    cluster.c.say(m.Cancel([m.CancelRequest(TaskId("c-1"), True)]))
    cluster.w.heard_one(m.Cancel)
    cluster.w.say(m.Outcomes([divided("c-1", 3)]))
    assert [(outcome.id, outcome.status) for outcome in cluster.told()] == [("c-1", m.CANCELLED)]
    (fence,) = cluster.w.heard_one(m.Cancel).requests
    assert fence == m.CancelRequest(TaskId("c-1/3"), True)


@pytest.mark.parametrize("stop", [-1, 0, 2, 8, 9])
def test_a_division_that_makes_no_sense_ends_the_chunk(stop):
    cluster = Cluster(spec(1, kind=Chunk(2, 8)))
    cluster.w.say(m.Outcomes([divided("c-1", stop)]))
    (outcome,) = cluster.told()
    assert outcome.status == m.LOST
    assert "a chunk that it did not have" in outcome.detail["error"]


def test_a_lost_worker_costs_what_goes_on_and_not_what_was_given_back():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.run_long("c-1")
    cluster.w.say(m.Outcomes([divided("c-1", 3)]))
    cluster.submit(spec("1/3", kind=Chunk(0, 3)), spec(2, kind=Chunk(3, 8)))
    cluster.idle.heard()
    cluster.w.say(m.Goodbye())
    cluster.idle.say(m.Outcomes([ok("c-2")]))
    (assign,) = cluster.idle.heard_of(m.Assign)
    assert [(task.id, task.attempt, task.body.kind) for task in assign.tasks] == [("c-1/3", 2, (0, 3))]


def test_how_it_ended_is_told_again_to_a_client_that_has_not_heard():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.run_long("c-1")
    cluster.w.say(m.Outcomes([divided("c-1", 3), ok("c-1/3")]))
    assert len(cluster.told()) == 2  # and that is lost with the session
    cluster.reopen(cluster.c)
    cluster.c.say(m.Submit([spec(1, kind=Chunk(0, 8))], [DOUBLE]), m.ResubmissionComplete())
    assert cluster.told() == [divided("c-1", 3)]
    cluster.submit(spec("1/3", kind=Chunk(0, 3)))
    assert cluster.told() == [ok("c-1/3")]


def test_a_part_whose_outcome_is_acknowledged_before_it_is_named_is_not_run_again():
    """The message that names it was lost, say, and is late."""
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.c.say(m.ResubmissionComplete())
    cluster.run_long("c-1")
    cluster.w.say(m.Outcomes([divided("c-1", 3), ok("c-1/3")]))
    assert len(cluster.told()) == 2
    cluster.c.acknowledge()
    cluster.submit(spec("1/3", kind=Chunk(0, 3)), spec(2, kind=Chunk(3, 8)))
    assigned = [*cluster.w.heard_of(m.Assign), *cluster.idle.heard_of(m.Assign)]
    assert [task.id for message in assigned for task in message.tasks] == ["c-2"]
    assert cluster.told() == []
    (client,) = cluster.core.scheduler.roster.clients.values()
    assert not client.done


def test_of_parts_that_are_not_named_nothing_outlives_their_clients_session():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.c.say(m.ResubmissionComplete())
    cluster.run_long("c-1")
    cluster.w.say(m.Outcomes([divided("c-1", 3), ok("c-1/3")]))
    cluster.told()
    cluster.c.acknowledge()
    cluster.reopen(cluster.c)
    cluster.c.say(m.ResubmissionComplete())
    (client,) = cluster.core.scheduler.roster.clients.values()
    assert not client.done
    assert not client.unnamed


def test_crashes_count_on():
    cluster = Cluster(spec(1, kind=Chunk(0, 8)))
    cluster.core.scheduler.tasks[TaskId("c-1")].crashes = 2
    cluster.w.say(m.Outcomes([divided("c-1", 1)]))
    cluster.turn()
    cluster.w.say(m.Outcomes([ended("c-1/1", m.CRASHED)]))
    outcome = cluster.told()[-1]
    assert (outcome.id, outcome.status, outcome.detail["limit"]) == ("c-1/1", m.CRASHED, 3)


def test_parts():
    chunk = spec(1, kind=Chunk(4, 14), timeout=20.0)
    assert [stop for stop in range(20) if may_stop(chunk, stop)] == list(range(5, 14))
    part = kept(chunk, 7)
    assert (part.id, part.body.kind, part.body.options.timeout) == (part_id(chunk.id, 7), (4, 7), 6.0)
    assert not may_stop(spec(2), 1)


def test_a_share_of_a_limit_is_never_without_end():
    """The coordinator takes no infinite one, and the client's session would never go on."""
    assert kept(spec(1, kind=Chunk(0, 8), timeout=1.7e308), 7).body.options.timeout < float("inf")
