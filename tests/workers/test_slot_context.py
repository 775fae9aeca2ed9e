"""What a task may ask about itself, and its way to a connection, which the control thread answers."""

from __future__ import annotations

import threading

import pytest
from support.steps import Steps

from jobrunner.system import conditions
from jobrunner.workers.interrupts import Interrupts
from jobrunner.workers.slot_context import TASK_ADDRESS, SlotContext

SECONDS = 20


@pytest.fixture
def make(parts, monkeypatch):
    monkeypatch.setenv(TASK_ADDRESS, "ipc://somewhere")
    interrupts = Interrupts(parts.running, parts.outbox, lambda: None)
    return lambda: SlotContext(parts.board, parts.outbox, parts.running, interrupts)


def answered(context):
    """Whether the control thread comes to the end of its answer."""
    control = threading.Thread(target=context.answer, args=("",), daemon=True)
    control.start()
    control.join(SECONDS)
    return not control.is_alive()


def test_a_task_that_is_interrupted_while_it_waits_for_the_answer_leaves_the_control_thread_alone(make):
    """The control thread does everything else for the slot, too: an interrupt must not stop it for ever."""
    step, place = 0, "before the first"
    while place:
        step += 1
        context = make()
        context._answered.wait = lambda wait=context._answered.wait: wait(0.001)  # nobody answers in time
        steps = Steps([threading, conditions], step, error=KeyboardInterrupt, edges=True)
        try:
            with steps.here():
                context.cluster()
        except KeyboardInterrupt:
            assert steps.place
        place = steps.place
        assert answered(context), place
