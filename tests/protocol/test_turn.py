from __future__ import annotations

from jobrunner.protocol.effects import DrainRequested, Log, Tick, Unreachable
from jobrunner.protocol.turn import run_turn


class Echo:
    """A core that says what it has handled, and whether it was the end of the turn."""

    def handle(self, event, now):
        return [Log("info", f"{type(event).__name__} at {now}"), Log("info", "and more")]

    def next_deadline(self):
        return None


def test_a_turn_handles_all_events_and_then_a_tick():
    effects = run_turn(Echo(), [DrainRequested(), Unreachable(b"x")], 7.0)
    assert [effect.text for effect in effects] == [
        *("DrainRequested at 7.0", "and more"),
        *("Unreachable at 7.0", "and more"),
        *("Tick at 7.0", "and more"),
    ]


def test_a_turn_without_events_is_a_tick():
    assert len(run_turn(Echo(), [], 1.0)) == len(Echo().handle(Tick(), 1.0))


def test_events_are_taken_as_the_core_handles_them():
    handled = []

    class Noting(Echo):
        def handle(self, event, now):
            handled.append(event)
            return []

    def events():
        for source in (b"1", b"2"):
            assert len(handled) == int(source) - 1
            yield Unreachable(source)

    run_turn(Noting(), events(), 0.0)
    assert len(handled) == 3
