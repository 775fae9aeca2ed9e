"""What the coordinator has written, and what it does while that is not possible."""

from __future__ import annotations

import pytest
from support.cores import DOUBLE, Coordinator, ok, spec

from jobrunner.protocol.coordinator.attempts import BEGIN_AGAIN_AFTER
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.coordinator.task import WaitReason
from jobrunner.protocol.effects import JournalFailed, JournalWritten, WriteJournal
from jobrunner.protocol.journal_records import JournalEntry, JournalState, KeptOutcome, Owed, Progress
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId

FULL = "the journal j cannot be written (no space left)"


class Journaling(Coordinator):
    """A coordinator with a journal; `answer` says whether what it wants to keep could be written."""

    def __init__(self):
        super().__init__()
        self.core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), self.now, JournalState())
        self.core.scheduler.orphans.reattach_deadline = self.now

    def answer(self, *, full):
        """The entries that were to be written since the last call."""
        wanted = [effect for effect in self.take() if type(effect) is WriteJournal]
        for effect in wanted:
            self.handle(JournalFailed(effect.number, FULL) if full else JournalWritten(effect.number))
        return [effect.entry for effect in wanted]


@pytest.fixture
def world():
    return Journaling()


@pytest.mark.parametrize("detach", [False, True])
def test_what_could_not_be_written_is_refused_and_has_never_been(world, detach):
    client = world.client()
    for number in range(20):
        client.say(m.Submit([spec(number, detach=detach)], [DOUBLE] if not number else []))
        world.turn()
        (entry,) = world.answer(full=True)
        assert [task.id for task in entry.accepted] == [f"c-{number}"]
        (outcomes,) = client.heard_of(m.Outcomes)
        assert [(o.id, o.status, o.detail["error"]) for o in outcomes.outcomes] == [
            (f"c-{number}", m.REFUSED, FULL)
        ]
        client.acknowledge()
        world.turn()
        assert world.answer(full=True) == [], "nothing has to be written of what was not accepted"
    assert not world.core.scheduler.results.detached


def test_a_full_disk_is_logged_when_it_begins_and_when_it_ends(world):
    client = world.client()
    for number, full in enumerate((False, True, True, True, False, False, True)):
        client.say(m.Submit([spec(number)], [DOUBLE]))
        world.turn()
        world.answer(full=full)
        client.heard()
    told = [line for line in world.logs if "the journal" in line]
    assert told == [FULL, "the journal can be written again", FULL]


def test_what_runs_already_goes_on_and_its_outcome_is_kept(world):
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(1, detach=True)], [DOUBLE]))
    world.turn()
    assert [task.id for task in worker.heard_one(m.Assign).tasks] == ["c-1"]
    world.answer(full=True)
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    (entry,) = world.answer(full=False)
    assert list(entry.outcomes) == ["c-1"]
    assert world.core.scheduler.results.detached


# --- what is owed -------------------------------------------------------------------------------------------------


def kept(task_id, payload=b""):
    return {TaskId(task_id): KeptOutcome("f", m.Outcome(TaskId(task_id), 1, m.OK, payload))}


def state_with(*task_ids):
    state = JournalState()
    state.apply(JournalEntry([DOUBLE], [spec(1)._replace(id=TaskId(task_id)) for task_id in task_ids]))
    return state


def test_of_each_task_the_last_thing_is_owed():
    owed, state = Owed(), state_with("c-1", "c-2")
    one, two = TaskId("c-1"), TaskId("c-2")
    owed.add(JournalEntry(progress=[(one, Progress(1)), (one, Progress(2)), (two, Progress(1))]), state)
    assert owed.part(10, 10) == JournalEntry(progress=[(one, Progress(2)), (two, Progress(1))])
    owed.add(JournalEntry(outcomes=kept("c-1")), state)
    assert owed.part(10, 10) == JournalEntry(outcomes=kept("c-1"), progress=[(two, Progress(1))])
    owed.add(JournalEntry(gone={one: None}), state)
    owed.add(JournalEntry(progress=[(one, Progress(3))]), state)
    assert owed.part(10, 10) == JournalEntry(gone={one: None}, progress=[(two, Progress(1))])


def test_what_the_journal_never_had_is_not_owed():
    owed = Owed()
    owed.add(
        JournalEntry(
            [DOUBLE],
            [spec(1)],
            [(TaskId("c-1"), Progress(1))],
            {},
            {TaskId("c-2"): None, TaskId("c-3"): None},
        ),
        state_with("c-3"),
    )
    assert owed.part(10, 10) == JournalEntry(gone={TaskId("c-3"): None})
    owed.add(JournalEntry(outcomes=kept("c-4")), JournalState())
    owed.add(JournalEntry(gone={TaskId("c-4"): None}), JournalState())
    assert not owed.outcomes, "an outcome that was not written and is not wanted any more"


def test_it_is_paid_in_parts_that_are_small_and_never_empty():
    owed, names = Owed(), [f"c-{number}" for number in range(10)]
    state = state_with(*names)
    for number, name in enumerate(names):
        task_id = TaskId(name)
        if number < 4:
            owed.add(JournalEntry(gone={task_id: None}), state)
        elif number < 8:
            owed.add(JournalEntry(outcomes=kept(name, bytes(100))), state)
        else:
            owed.add(JournalEntry(progress=[(task_id, Progress(1))]), state)
    parts = []
    while owed:
        part = owed.part(3, 150)
        assert part
        owed.written(part)
        parts.append((len(part.gone), len(part.outcomes), len(part.progress)))
    assert parts == [(3, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 2)]


# --- what runs at most once ---------------------------------------------------------------------------------------


def once(number, **options):
    return spec(number, at_most_once=True, **options)


def given(worker):
    return [(task.id, task.attempt) for a in worker.heard_of(m.Assign) for task in a.tasks]


def restarted(world, *entries):
    """A coordinator after this one, on what it has written."""
    state = JournalState()
    for entry in entries:
        state.apply(entry)
    return CoordinatorCore(CoordinatorSettings("next", "1.0"), world.now, state)


def accepted_once(world, *, detach=True):
    """A client, a call of its that is written, and the entry."""
    client = world.client()
    client.say(m.ResubmissionComplete(), m.Submit([once(1, detach=detach)], [DOUBLE]))
    world.turn()
    (entry,) = world.answer(full=False)
    client.heard()
    return client, entry


def test_a_call_that_runs_at_most_once_is_sent_when_it_is_written_that_it_begins(world):
    _, first = accepted_once(world)
    worker = world.worker()
    assert given(worker) == []
    (begins,) = world.answer(full=False)
    assert begins.progress == [("c-1", Progress(1))]
    assert given(worker) == [("c-1", 1)]
    record = restarted(world, first, begins).scheduler.tasks[TaskId("c-1")]
    assert record.wait_reason is WaitReason.MAY_HAVE_RUN


@pytest.mark.parametrize("detach", [False, True])
def test_where_that_cannot_be_written_it_waits_and_has_not_run(world, detach):
    client, first = accepted_once(world, detach=detach)
    worker = world.worker()
    for _ in range(3):
        entries = world.answer(full=True)
        assert TaskId("c-1") in [task for entry in entries for task, _ in entry.progress]
        assert given(worker) == []
        assert "cannot be written" in world.query(client, "task", "c-1")["why"]
        world.answer(full=True)
        assert given(worker) == [], "nor is it tried in each turn"
        world.turn(BEGIN_AGAIN_AFTER)
        client.acknowledge()
        worker.acknowledge()
    entries = world.answer(full=False)
    assert given(worker) == [("c-1", 4)]
    assert world.core.scheduler.tasks[TaskId("c-1")].begun == 1
    assert (
        restarted(world, first, *entries).scheduler.tasks[TaskId("c-1")].wait_reason
        is WaitReason.MAY_HAVE_RUN
    )


def test_what_has_not_begun_for_that_reason_is_queued_by_the_next_coordinator(world):
    _, first = accepted_once(world)
    world.worker()
    world.answer(full=True)
    world.turn()
    (note,) = world.answer(full=False)
    assert note.progress == [("c-1", Progress(1, unbegun=1))]
    assert restarted(world, first, note).scheduler.tasks[TaskId("c-1")].wait_reason is WaitReason.REATTACHMENT


def test_what_was_accepted_and_would_begin_in_one_entry_is_refused(world):
    client, worker = world.client(), world.worker()
    client.say(m.ResubmissionComplete(), m.Submit([once(1)], [DOUBLE]))
    world.turn()
    world.answer(full=True)
    assert given(worker) == []
    ((outcome,),) = [message.outcomes for message in client.heard_of(m.Outcomes)]
    assert (outcome.id, outcome.status) == ("c-1", m.REFUSED)
    assert world.answer(full=True) == []


@pytest.mark.parametrize("written", [False, True])
def test_it_is_cancelled_before_its_worker_hears_of_it(world, written):
    client, _ = accepted_once(world)
    worker = world.worker()
    if written:
        world.answer(full=False)  # in the turn that has not ended
    client.say(m.Cancel([m.CancelRequest(TaskId("c-1"), True)]))
    assert [o.status for message in client.heard_of(m.Outcomes) for o in message.outcomes] == [m.CANCELLED]
    world.answer(full=False)
    assert worker.heard() == []


def test_its_worker_is_lost_before_it_has_heard_of_it(world):
    client, _ = accepted_once(world)
    first = world.worker("first")
    first.say(m.Goodbye())
    second = world.worker("second")
    world.answer(full=False)
    assert given(second) == [("c-1", 2)]
    assert client.heard_of(m.Outcomes) == []
    assert given(first) == []


def test_its_worker_comes_back_before_it_has_heard_of_it(world):
    accepted_once(world)
    worker = world.worker()
    world.reopen(worker)
    world.answer(full=False)
    assert given(worker) == [("c-1", 2)]
