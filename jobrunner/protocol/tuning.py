"""Every figure that decides how much work waits close to where it runs: prefetch, bundles, chunks, and taking it back.

Times come first, in seconds, from the shortest to the longest; counts, bytes and weights follow. The times relate like
this. A bundle holds `BUNDLE_SECONDS` of calls, since a slot may be idle beside it for so long. A slot holds
`SLOT_SECONDS` of tasks, so that it has work while its report travels, and it is asked for what it has not started after
`RETRACT_WHEN_IDLE_AFTER` where another slot is idle. A chunk of `map` lasts `CHUNK_SECONDS`, which stays below
`ONE_AHEAD_MAX_SECONDS`: tasks up to that length may wait one behind another in a slot. A worker holds
`PREFETCH_SECONDS` of tasks per slot; what takes longer is never queued behind another task. A wrong guess is corrected
after `RECALL_AFTER` by the slot itself, after `RETURN_AFTER` by the worker, and without the slot's help after
`ANSWER_WITHIN`. A chunk that takes much longer than `CHUNK_SECONDS` is announced as running after `RUNNING_AFTER` and
divided from then on, or stops by itself after `ENGINE_GIVE_BACK_AFTER` on an engine that cannot divide it.

tests/protocol/test_tuning.py holds these relations. docs/theory.md has the same figures beside what they are for.
"""

from __future__ import annotations

UNKNOWN = -1.0
"""The estimate of a function that has not finished a call yet."""

MIN_ESTIMATE = 20e-6
"""Minimum estimate in seconds: a call costs as much, whatever was measured inside it."""

CHUNK_SURE_SECONDS = 0.0005
"""Minimum duration from which a chunk tells how long its calls take. In a shorter one, a part may have gone into its
loading and into what a function does at its first call: it tells that its calls are short."""

BUNDLE_SECONDS = 0.001
"""Seconds that the calls of a bundle may be expected to take, one after the other."""

CHUNK_TAIL_SECONDS = 0.002
"""Minimum duration to which chunks shrink near the end of the input."""

RETRACT_WHEN_IDLE_AFTER = 0.003
"""Seconds without a finished task after which a slot gives back what it has not started, if another slot could run it
at once. A slot reports short tasks more often than that."""

SLOT_SECONDS = 0.005
"""Estimated seconds of work that a slot may hold, the running task included, before it gets no further one."""

ENGINE_PREFETCH_SECONDS = 0.005
"""Estimated seconds of work per slot that another engine (Dask, Ray, MPI) is given beyond what its slots run."""

CHUNK_SECONDS = 0.010
"""Intended duration of a chunk. It is a hundred times what a task costs, and below `ONE_AHEAD_MAX_SECONDS`, so that the
next chunk is at hand where it runs, even if its calls take longer than was measured. Calls of that length travel one by
one, because there is nothing to save."""

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

ENGINE_GIVE_BACK_AFTER = 0.05
"""Seconds after which a chunk in the worker of another engine gives its other elements back: its worker may be the only
one with something to do, and no engine can take a part of what runs. A chunk is meant to take a fifth of that, so only
chunks whose elements turn out to take long come here."""

START_SECONDS = 0.1
"""Seconds that a new process for a slot takes, about: a shorter task had better wait for a slot that exists."""

RETURN_AFTER = 0.1
"""Seconds that a worker's queue may stand still before the worker gives it back to the coordinator."""

REST_AFTER_RETURN = 0.25
"""Maximum time in seconds for which a worker that has given a task back gets no other one, although it counts as having
a free slot. Its next outcome ends that time."""

FAIRNESS_QUANTUM = 0.5
"""Seconds that a slot is left to an owner who has more tasks while another owner has none."""

ANSWER_WITHIN = 1.0
"""Seconds after which recalled tasks are taken back, or a chunk is divided, without a slot that has not answered; and
seconds between two attempts at that."""

PREFETCH_LIMIT = 512
"""Maximum number of tasks that a worker may hold per slot beyond what its slots run."""

SLOT_LIMIT = 256
"""Maximum number of tasks that a slot may hold."""

ENGINE_PREFETCH_LIMIT = 32
"""Maximum number of calls per slot that another engine is given beyond what its slots run."""

BUNDLE_MAX_CALLS = 128
"""Maximum number of calls in a bundle."""

BUNDLE_FIRST_CALLS = 64
"""Calls of a function that may show how long it takes before many more are submitted."""

CHUNK_GROWTH = 16
"""A chunk has at most this many times the elements of the longest measured one: the first calls may be untypical."""

DIVIDE_MAX_DOUBLINGS = 16
"""Times that the number of chunks to divide may double while slots stay idle: more would only make the number large."""

PACK_UNMEASURED = 4096
"""Maximum number of elements of a pack while nothing is known about their duration. It may have to be cut into single
calls, which then all carry the pack; but those are slow calls."""

PACK_LARGEST = 8192
"""Maximum number of elements of a pack."""

BUNDLE_SMALL_CALL = 1024
"""Bytes of arguments up to which a call goes into a bundle, and of a result up to which others like it do."""

PACK_BYTES = 32 * 1024
"""Bytes that a pack of elements is meant to have: each of its chunks brings the whole pack along."""

ENGINE_GIVE_BACK_BYTES = 256 * 1024
"""Bytes of arguments, all of the pack's, beyond which a chunk in the worker of another engine runs to its end: they
would travel again and again."""

SPREAD_BYTES = 64 * 1024 * 1024
"""Bytes that all the chunks together may bring along of a pack, of which one chunk gave its elements back."""

CHUNK_NEWEST_WEIGHT = 0.4
"""Share of the newest chunk in the average of a map's durations; calls that get slower should be noticed soon."""

ENGINE_NEWEST_WEIGHT = 0.2
"""Share of the newest call in the average of an engine's durations."""

ESTIMATE_DECAY = 0.9
"""Factor by which an estimate, the largest recent duration, shrinks with each shorter call."""
