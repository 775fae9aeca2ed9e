"""Every time that decides how much work waits close to where it runs: prefetch, bundles, chunks, and taking it back.

They relate like this, from the shortest to the longest. A bundle holds `BUNDLE_SECONDS` of calls, since a slot may be
idle beside it for so long. A slot holds `SLOT_SECONDS` of tasks, so that it has work while its report travels, and it
is asked for what it has not started after `RETRACT_WHEN_IDLE_AFTER` where another slot is idle. A chunk of `map` lasts
`CHUNK_SECONDS`, which stays below `ONE_AHEAD_MAX_SECONDS`: tasks up to that length may wait one behind another in a
slot. A worker holds `PREFETCH_SECONDS` of tasks per slot; what takes longer is never queued behind another task. A
wrong guess is corrected after `RECALL_AFTER` by the slot itself, after `RETURN_AFTER` by the worker, and without the
slot's help after `ANSWER_WITHIN`. The page docs/theory.md has the same figures beside what they are for.
"""

from __future__ import annotations

UNKNOWN = -1.0
"""The estimate of a function that has not finished a call yet."""

MIN_ESTIMATE = 20e-6
"""Minimum estimate in seconds: a call costs as much, whatever was measured inside it."""

BUNDLE_SECONDS = 0.001
"""Seconds that the calls of a bundle may be expected to take, one after the other."""

CHUNK_SURE_SECONDS = 0.0005
"""Minimum duration from which a chunk tells how long its calls take. In a shorter one, a part may have gone into its
loading and into what a function does at its first call: it tells that its calls are short."""

CHUNK_TAIL_SECONDS = 0.002
"""Near the end of the input chunks shrink, yet not below this duration."""

CHUNK_SECONDS = 0.010
"""Intended duration of a chunk. It is a hundred times what a task costs, and below `ONE_AHEAD_MAX_SECONDS`, so that the
next chunk is at hand where it runs, even if its calls take longer than was measured. Calls of that length travel one by
one, because there is nothing to save."""

RETRACT_WHEN_IDLE_AFTER = 0.003
"""Seconds without a finished task after which a slot gives back what it has not started, if another slot could run it
at once. A slot reports short tasks more often than that."""

SLOT_SECONDS = 0.005
"""Estimated seconds of work that a slot may hold, the running task included, before it gets no further one."""

ENGINE_PREFETCH_SECONDS = 0.005
"""Estimated seconds of work per slot that another engine (Dask, Ray, MPI) is given beyond what its slots run."""

DIVIDE_AGAIN_AFTER = 0.01
"""Seconds that a division of chunks has to fill the idle slots before further chunks are divided: the way to the slot,
back to the client, and to the coordinator again."""

ONE_AHEAD_MAX_SECONDS = 0.015
"""Maximum estimate of a task that may wait behind one running task: a worker may hold one per slot, and a slot one, as
it would have nothing to do while an outcome goes up and the next task comes."""

PREFETCH_SECONDS = 0.02
"""Estimated seconds of work that a worker may hold per slot beyond what its slots run."""

RECALL_AFTER = 0.02
"""Seconds without a finished task after which a slot gives back what it has not started."""

RUNNING_AFTER = 0.05
"""Seconds after which a task that still runs is announced as running."""

START_SECONDS = 0.1
"""Seconds that a new process for a slot takes, about: a shorter task had better wait for a slot that exists."""

RETURN_AFTER = 0.1
"""Seconds that a worker's queue may stand still before the worker gives it back to the coordinator."""

FAIRNESS_QUANTUM = 0.5
"""Seconds that a slot is left to an owner who has more tasks while another owner has none."""

ANSWER_WITHIN = 1.0
"""Seconds after which recalled tasks are taken back, or a chunk is divided, without a slot that has not answered; and
seconds between two attempts at that."""

PREFETCH_LIMIT = 512
"""Maximum number of tasks that a worker may hold per slot beyond what its slots run."""

SLOT_LIMIT = 256
"""Maximum number of tasks that a slot may hold."""
