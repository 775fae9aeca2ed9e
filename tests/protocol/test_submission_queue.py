from __future__ import annotations

from support.cores import ids, spec

from jobrunner.protocol.client.submission_queue import SubmissionQueue


def test_the_highest_priority_is_first_and_equals_are_in_order():
    queue = SubmissionQueue()
    for task in (spec(1), spec(2, priority=5), spec(3, priority=-5), spec(4, priority=5)):
        queue.push(task)
    tasks = []
    while (task := queue.peek()) is not None:
        assert queue.pop() is task
        tasks.append(task)
        if task.id == "c-2":
            queue.push(spec(5, priority=9))
    assert ids(tasks) == ["c-2", "c-5", "c-4", "c-1", "c-3"]


def test_nothing_is_left_once_it_is_cleared():
    queue = SubmissionQueue()
    queue.push(spec(1))
    queue.clear()
    assert queue.peek() is None
    queue.push(spec(2))
    assert queue.peek() == spec(2)
