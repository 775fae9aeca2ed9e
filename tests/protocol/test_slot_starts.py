from __future__ import annotations

from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.slot_starts import FIRST_PAUSE, MAX_PAUSE, Starts


def test_all_may_start_until_one_cannot():
    starts = Starts()
    assert starts.permitted(5, 0.0) == 5
    assert starts.next_try() is None
    assert starts.failed(SlotId(1), "full", 0.0)
    assert not starts.failed(SlotId(2), "full", 0.0), "of the same moment"
    assert starts.failures == 1
    assert starts.permitted(5, 0.0) == 0


def test_the_pauses_grow_to_a_limit():
    starts, now, pauses = Starts(), 0.0, []
    starts.failed(SlotId(1), "full", now)
    for n in range(2, 30):
        pauses.append(round(starts.next_try() - now, 6))
        now = starts.next_try()
        assert starts.permitted(3, now) == 1
        starts.tried(SlotId(n))
        assert starts.permitted(3, now) == 0, "one at a time"
        assert starts.next_try() is None
        assert starts.failed(SlotId(n), "full", now)
    assert pauses[0] == FIRST_PAUSE
    assert pauses[-1] == MAX_PAUSE
    assert pauses == sorted(pauses)


def test_only_the_one_that_is_tried_ends_the_shortage():
    starts = Starts()
    starts.failed(SlotId(2), "full", 0.0)
    starts.ready(SlotId(1))
    assert starts.short, "that one was started before the other"
    starts.tried(SlotId(3))
    starts.ready(SlotId(3))
    assert not starts.short
    assert starts.permitted(4, 0.0) == 4


def test_something_that_has_changed_is_a_reason_to_try_at_once():
    starts = Starts()
    starts.failed(SlotId(2), "full", 0.0)
    starts.hurry(SlotId(1), 0.1)
    assert starts.permitted(4, 0.1) == 1
    starts.tried(SlotId(3))
    starts.failed(SlotId(3), "full", 0.1)
    assert (starts.failures, starts.next_try()) == (1, 0.1 + FIRST_PAUSE), "as the first time"
