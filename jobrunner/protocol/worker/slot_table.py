"""The slots of a worker, the start and end of their processes, and the number of tasks that can run.

A missing process is started, and an idle one ends if nobody needs it or if it must be replaced. A slot is removed when
its exit has been confirmed. If starts fail, `slot_starts` says when to try again.
"""

from __future__ import annotations

from collections.abc import Callable

from jobrunner.protocol.effects import (
    Effect,
    EndSlot,
    Log,
    SignalSlot,
    SlotBlocked,
    SlotExited,
    SlotNotStarted,
    SlotReady,
    SpawnSlot,
)
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slot_starts import Starts
from jobrunner.protocol.worker.slots import ENDING, READY, STARTING, Slot

START_FAILURES = 5
"""Maximum number of slots that die in a row before they are ready, and of starts that fail in a row for lack of
resources. After that a worker without another slot gives up, and reports the reason."""

MAX_REASON_LENGTH = 500
"""Maximum number of characters of the reason why no slot can be started, in a message."""


class SlotTable:
    """The slots by id.

    `give_up` ends the worker; `note_stuck` is told after a failed start whether the worker is stuck.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        give_up: Callable[[str, str], None],
        note_stuck: Callable[[bool], None],
        effects: list[Effect],
    ) -> None:
        self._settings = settings
        self._give_up = give_up
        self._note_stuck = note_stuck
        self._effects = effects
        self.slots: dict[SlotId, Slot] = {}
        self.closed = False
        """True if no further slot is started."""
        self._next_slot = 0
        self._hash_seed: int | None = None
        self._welcomed = False
        """True once the coordinator has answered, so that the hash seed is known and slots can be started."""
        self._start_failures = 0
        self._starts = Starts()
        self._told_short = False
        """True if it was logged that there are fewer slots than wanted, and this has not changed since."""

    # --- how many there are ---

    def capacity(self) -> int:
        """Return the number of tasks that can run at the same time; tasks that wait have yielded their slots."""
        if self.closed:
            return 0
        wanted = self._wanted()
        return min(wanted, len(self._at_hand())) if self._starts.short else wanted

    def is_stuck(self) -> bool:
        """Return whether no task can continue: each waits for tasks of its own, and no slot can be started for these.

        As long as a process is about to end the worker is not stuck, because that releases resources for another one.
        """
        slots = self.slots.values()
        return self._starts.short and all(slot.blocked or self._starts.is_tried(slot.id) for slot in slots)

    def why_short(self) -> str:
        """Return the reason why no further slot can be started."""
        return self._starts.why

    def staying(self) -> list[Slot]:
        """Return the slots that are neither ending nor about to leave."""
        return [slot for slot in self.slots.values() if slot.stays]

    def starting(self) -> int:
        """Return the number of slots that are being started."""
        return sum(slot.state == STARTING for slot in self.slots.values())

    def _wanted(self) -> int:
        return self._settings.slots + sum([slot.blocked for slot in self.slots.values()])

    def _at_hand(self) -> list[Slot]:
        """Return the slots that exist, or that are expected to start."""
        slots = self.slots.values()
        return [slot for slot in slots if slot.state != ENDING and not self._starts.is_tried(slot.id)]

    # --- starting and ending them ---

    def take_seed(self, seed: int | None) -> None:
        """Take the hash seed for all slots of the cluster; slots with another seed leave when they are idle."""
        if self._welcomed and seed != self._hash_seed:
            for slot in self.slots.values():
                if slot.stays:
                    slot.leave()
        self._hash_seed, self._welcomed = seed, True

    def close(self) -> None:
        """Start no further slot, because the worker leaves when its tasks have ended."""
        self.closed = True

    def adjust(self, now: float) -> None:
        """Start missing processes, and end idle ones that are no longer needed as a stand-in."""
        if not self._welcomed or self.closed:
            return
        live = [slot for slot in self.slots.values() if slot.state != ENDING]
        missing = self._wanted() - len(live)
        self._tell_whether_short(len(live))
        for _ in range(self._starts.permitted(missing, now)):
            self._next_slot += 1
            slot = Slot(SlotId(self._next_slot), self._settings.max_tasks_per_slot)
            self.slots[slot.id] = slot
            if self._starts.short:
                self._starts.tried(slot.id)
            self._effects.append(SpawnSlot(slot.id, self._hash_seed))
        for slot in live:
            if missing >= 0:
                break
            if slot.idle:
                self.end(slot, now)
                missing += 1

    def replace_leaving(self, now: float) -> None:
        """End idle slots among those that must leave, and start others."""
        ended = [slot for slot in self.slots.values() if slot.leaving and slot.idle]
        for slot in ended:
            self.end(slot, now)
        if ended:
            self.adjust(now)

    def end(self, slot: Slot, now: float) -> None:
        """End an idle slot's process. One that has run no task is killed, because it has nothing to finish."""
        slot.state = ENDING
        if slot.owner is None or not self._settings.exit_wait:
            self._effects.append(SignalSlot(slot.id, "SIGKILL"))
        else:
            slot.kill_at = now + self._settings.exit_wait
            self._effects.append(EndSlot(slot.id))

    def kill_if_late(self, slot: Slot, now: float) -> None:
        """Kill a slot's process that was told to end, once its time is up."""
        if slot.kill_at is not None and now >= slot.kill_at:
            slot.kill_at = None
            text = "a slot was killed because it did not end in time; work that its calls had left for its exit is lost"
            self._effects.append(Log("warning", text))
            self._effects.append(SignalSlot(slot.id, "SIGKILL"))

    def next_start(self) -> float | None:
        """Return the time of the next try to start a slot, or None."""
        if not self._starts.short or self.closed or not self._welcomed:
            return None
        missing = self._wanted() - len(self._at_hand())
        return self._starts.next_try() if missing > 0 else None

    # --- what is heard of them ---

    def ready(self, event: SlotReady) -> None:
        """Note that the process has started."""
        slot = self.slots.get(event.slot)
        if slot is not None and slot.state == STARTING:
            slot.state = READY
            self._start_failures = 0
            self._starts.ready(slot.id)

    def blocked(self, event: SlotBlocked, now: float) -> Slot | None:
        """Note whether the slot's task waits for other tasks; return the slot if it has begun to wait."""
        slot = self.slots.get(event.slot)
        if slot is None or slot.blocked == event.blocked:
            return None
        slot.blocked = event.blocked
        if not slot.blocked:
            return None
        self._starts.hurry(slot.id, now)
        return slot

    def exited(self, event: SlotExited, now: float) -> Slot | None:
        """Remove the slot of a process that has ended; return it, unless the worker gives up for that reason."""
        slot = self.slots.pop(event.slot, None)
        if slot is None:
            return None
        if slot.state != STARTING:
            self._starts.hurry(slot.id, now)
            return slot
        self._start_failures += 1
        how = event.signal or f"exit code {event.exit_code}"
        self._effects.append(Log("error", f"a slot died while it started ({how}): {event.stderr.strip()}"))
        why = f"slots die while they start ({how}): {event.stderr.strip()}"
        too_often = self._start_failures >= START_FAILURES
        if too_often and not any(other.state == READY for other in self.slots.values()):
            self._give_up(why, "JobRunnerError")
            return None
        if too_often or self._starts.is_tried(slot.id):
            self._go_on_without(slot, why, now)
        return slot

    def not_started(self, event: SlotNotStarted, now: float) -> None:
        """Remove a slot whose process could not be started for lack of resources."""
        slot = self.slots.pop(event.slot, None)
        if slot is None or not self._go_on_without(slot, event.error, now) or self.slots:
            return
        if self._starts.failures >= START_FAILURES:
            self._give_up(f"no slot can be started: {event.error}", "JobRunnerError")

    def _go_on_without(self, slot: Slot, why: str, now: float) -> bool:
        """Continue for a while without a slot that could not be started; return True if this was a separate try."""
        fresh = self._starts.failed(slot.id, why[:MAX_REASON_LENGTH], now)
        self._note_stuck(fresh and self._starts.failures > 1 and self.is_stuck())
        return fresh

    def _tell_whether_short(self, live: int) -> None:
        """Log, once, that there are fewer slots than wanted."""
        if not self._starts.short:
            if self._told_short:
                self._told_short = live < self._wanted()
        elif not self._told_short:
            self._told_short = True
            text = f"only {live} of {self._wanted()} slots, until more can be started: {self._starts.why}"
            self._effects.append(Log("error", text))
