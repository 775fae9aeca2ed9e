"""The interpreter's own tests that are not run here, each with the reason.

By the class that defines the test, and the test's name, which are the same in all versions of Python.
"""

from __future__ import annotations

AT_ONCE = "reads the private attribute _processes, of processes that the standard pool starts within `submit`"
MANAGER = "reads the private attribute _executor_manager_thread"
THE_STANDARD_ONE = "runs a test of the standard library's own pool"

LEFT_OUT = {
    "FailingInitializerResourcesTest.test_spawn": THE_STANDARD_ONE,
    "FailingInitializerResourcesTest.test_forkserver": THE_STANDARD_ONE,
    "ThreadPoolShutdownTest.test_thread_names_default": "says what the threads are called by default",
    "ProcessPoolShutdownTest.test_processes_terminate": AT_ONCE,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": AT_ONCE,
    "ProcessPoolShutdownTest.test_del_shutdown": MANAGER,
    "ProcessPoolShutdownTest.test_shutdown_no_wait": MANAGER,
    "ProcessPoolExecutorTest.test_killed_child": AT_ONCE,
    "ProcessPoolExecutorTest.test_saturation": AT_ONCE,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": AT_ONCE,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": AT_ONCE,
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "replaces the private function that starts threads, and counts those of the standard pool"
    ),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": MANAGER,
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": (
        "replaces private parts of the standard pool"
    ),
}

LEFT_OUT_OF_CLUSTERS = {
    "ProcessPoolExecutorTest.test_max_tasks_per_child": (
        "reads the private attribute _processes: those of a cluster are children of its worker"
    ),
}
"""Those that are run on threads and on processes."""
