"""What the steps of a task leave behind; what tasks do to their slot is in `test_child`."""

from __future__ import annotations

import pytest
import zoo

from jobrunner.calls import serialization
from jobrunner.errors import InitializerError, SerializationError
from jobrunner.protocol import effects
from jobrunner.protocol.wire import messages as m
from jobrunner.workers import slot_functions, task_runner


def test_the_constants_that_are_not_imported_are_those_of_the_protocol():
    assert (task_runner.OK, task_runner.ERROR) == (m.OK, m.ERROR)
    assert task_runner.FINAL_ERROR == effects.FINAL_ERROR
    assert task_runner.INITIALIZER_FAILED == effects.INITIALIZER_FAILED
    assert slot_functions.IN_INITIALIZER == effects.IN_INITIALIZER


def fails_to_initialize(owner, slot):
    initializer = serialization.dump_initializer(zoo.divide, (1, 0))
    owner.call(slot, zoo.nothing, initializer=initializer)


def fails_in_a_chunk(owner, slot):
    raise owner.value(owner.chunk(slot, zoo.divide, [(1, 0)])).failures[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda owner, slot: owner.call(slot, zoo.divide, 1, 0),
        lambda owner, slot: owner.call(slot, zoo.echo, zoo.FailsOnUnpickle()),
        fails_to_initialize,
        fails_in_a_chunk,
    ],
)
def test_a_traceback_shows_none_of_the_slots_own_frames(owner, slot, call):
    with pytest.raises((ZeroDivisionError, InitializerError, SerializationError)) as caught:
        call(owner, slot)
    # What follows is the error that is made of the initializer's, which has no other frames.
    text = str(caught.value.__cause__).partition("The above exception")[0]
    assert "Traceback" in text
    for own in ("task_runner.py", "slot_functions.py", "function_cache.py", "child.py"):
        assert own not in text


def test_an_initializer_that_fails_is_told_from_a_task_that_fails(owner, slot):
    initializer = serialization.dump_initializer(zoo.fail_to_initialize, ("no licence",))
    failed = owner.run(slot, zoo.nothing, initializer=initializer)
    raised = owner.run(slot, zoo.divide, 1, 0)
    owner.until(lambda: {failed, raised} <= owner.outcomes.keys())
    assert owner.outcomes[failed].status == effects.INITIALIZER_FAILED
    assert owner.outcomes[raised].status == m.ERROR
