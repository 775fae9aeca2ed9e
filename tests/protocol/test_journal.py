"""What the coordinator has written, and what it does while that is not possible."""

from __future__ import annotations

import pytest
from protocol.support import DOUBLE, Coordinator, ok, spec

from jobrunner.ids import TaskId
from jobrunner.protocol import messages as m
from jobrunner.protocol.coordinator_core import CoordinatorCore, CoordinatorSettings
from jobrunner.protocol.effects import JournalFailed, JournalWritten, WriteJournal
from jobrunner.protocol.journal import JournalEntry, JournalState, KeptOutcome, Owed, Progress

FULL = "the journal j cannot be written (no space left)"


class Journaling(Coordinator):
    """A coordinator with a journal; `answer` says whether what it wants to keep could be written."""

    def __init__(self):
        super().__init__()
        self.core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), self.now, JournalState())
        self.core.scheduler.reattach_deadline = self.now

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
