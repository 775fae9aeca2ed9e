"""The interpreter's own tests that are not run here, each with the reason."""

from __future__ import annotations

THREADS = "reads the private attribute _threads"
PROCESSES = "reads the private attribute _processes"
MANAGER = "reads the private attribute _executor_manager_thread"

LEFT_OUT = {
    "FailingInitializerMixin.test_initializer": "reads the private attribute _broken",
    "FailingInitializerResourcesTest.test_spawn": "runs the test before it, of the standard library's own processes",
    "FailingInitializerResourcesTest.test_forkserver": "runs the test before it, of the standard library's own processes",
    "ThreadPoolShutdownTest.test_threads_terminate": THREADS,
    "ThreadPoolShutdownTest.test_context_manager_shutdown": THREADS,
    "ThreadPoolShutdownTest.test_del_shutdown": THREADS,
    "ThreadPoolShutdownTest.test_shutdown_no_wait": THREADS,
    "ThreadPoolShutdownTest.test_thread_names_assigned": THREADS,
    "ThreadPoolShutdownTest.test_thread_names_default": THREADS,
    "ThreadPoolExecutorTest.test_saturation": THREADS,
    "ThreadPoolExecutorTest.test_idle_thread_reuse": THREADS,
    "ProcessPoolShutdownTest.test_processes_terminate": PROCESSES,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": PROCESSES,
    "ProcessPoolShutdownTest.test_del_shutdown": MANAGER,
    "ProcessPoolShutdownTest.test_shutdown_no_wait": MANAGER,
    "ProcessPoolExecutorTest.test_killed_child": PROCESSES,
    "ProcessPoolExecutorTest.test_saturation": PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": (
        "reads the private attribute _mp_context"
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "replaces the private function that starts threads, and counts those that the standard pool starts"
    ),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": MANAGER,
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": (
        "replaces private parts of the standard pool"
    ),
}
"""By the class that defines the test and its name; the same test in another version of Python has the same name."""
