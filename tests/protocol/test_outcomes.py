"""The outcomes that a worker makes: what each says of how the attempt ended, and where."""

from __future__ import annotations

from support.cores import assignment

from jobrunner.protocol.effects import FINAL_ERROR, IN_INITIALIZER, INITIALIZER_FAILED, SlotExited
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId, WorkerId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slots import WorkerTask

SETTINGS = WorkerSettings(WorkerId("id"), "w", "1.0", "3.11", "host", 2, 1)
HERE = {"worker": "w", "host": "host"}


def task(**call):
    return WorkerTask(assignment(1, **call))


def death(element=-1, **how):
    fields = {"exit_code": None, "signal": "SIGKILL", "peak_memory": 10, "stderr": "", "element": element}
    fields |= how
    return SlotExited(SlotId(1), 77, **{"number": 1, **fields})


def test_a_result_has_no_detail():
    assert outcomes.ended(task(), m.OK, b"r", 1.0, SETTINGS) == m.Outcome("c-1", 1, m.OK, b"r", 1.0)


def test_what_raised_is_an_error_that_names_its_place():
    for status, more in (
        (m.ERROR, {}),
        (FINAL_ERROR, {"final": True}),
        (INITIALIZER_FAILED, {"setup": True}),
    ):
        outcome = outcomes.ended(task(), status, b"e", 1.0, SETTINGS)
        assert (outcome.status, outcome.payload, outcome.detail) == (m.ERROR, b"e", {**HERE, **more})


def test_a_result_is_too_large_only_beyond_what_the_coordinator_takes():
    welcome = m.Welcome("coo", "1.0", 1, 1, 1, "s", 10, None)
    assert outcomes.too_large(task(), b"r" * 10, welcome, SETTINGS) is None
    assert outcomes.too_large(task(), b"r" * 11, None, SETTINGS) is None, "nothing is known of it yet"
    outcome = outcomes.too_large(task(), b"r" * 11, welcome, SETTINGS)
    assert outcome is not None
    assert outcome.detail is not None
    assert outcome.detail["too_large"]
    assert outcome.payload == b""


def test_a_death_names_the_element_of_a_chunk_and_nothing_of_a_call():
    chunk, call = task(kind=Chunk(3, 6)), task()
    assert outcomes.crashed(chunk, 1.0, death(4), SETTINGS).detail["element"] == 4
    assert "element" not in outcomes.crashed(call, 1.0, death(4), SETTINGS).detail
    assert outcomes.crashed(call, 1.0, death(IN_INITIALIZER), SETTINGS).detail["setup"]


def test_memory_is_blamed_where_nearly_all_was_taken_or_the_kernel_says_so():
    limited = WorkerSettings(WorkerId("id"), "w", "1.0", "3.11", "host", 2, 1, slot_memory=100)
    for peak, settings, blamed in ((79, limited, False), (80, limited, True), (80, SETTINGS, False)):
        detail = outcomes.crashed(task(), 1.0, death(peak_memory=peak), settings).detail
        assert detail.get("out_of_memory", False) is blamed
    assert outcomes.crashed(task(), 1.0, death(oom_kill=True), SETTINGS).detail["out_of_memory"]


def test_a_task_that_was_stopped_says_why():
    stopped = task()
    stopped.stop_reason = m.CANCELLED
    assert outcomes.stopped(stopped, 1.0, None, SETTINGS).detail == HERE
    late = task(timeout=2.0)
    late.stop_reason = m.TIMED_OUT
    detail = outcomes.stopped(late, 1.0, death(stderr="words"), SETTINGS).detail
    assert (detail["timeout"], detail["stderr"]) == (2.0, "words")
