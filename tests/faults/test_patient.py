"""A call that fails, and is repeated, very often."""

from __future__ import annotations

from support.daemons import connected
from support.work import fail

from jobrunner.admin import ClusterAdmin
from jobrunner.protocol.coordinator.task import MAX_HISTORY_LINES
from jobrunner.testing.waiting import BOUND


def test_what_is_told_of_a_call_that_fails_very_often_is_bounded(cluster):
    """The journal and each list of tasks hold it, too."""
    coordinator = cluster.coordinator()
    cluster.worker(coordinator.address, "w")
    with connected(coordinator.address) as executor:
        retries = 3 * MAX_HISTORY_LINES
        future = executor.with_options(retries=retries, backoff=0).submit(fail)
        assert isinstance(future.exception(BOUND), ValueError)
        with ClusterAdmin(coordinator.address, BOUND) as admin:
            history = admin.task(future.id)["history"]
    assert len(history) == MAX_HISTORY_LINES
    assert history[0].startswith("attempt 1 ")
    assert history[-1].startswith(f"attempt {retries + 1} ")
