"""Processes that the program forks while it has an embedded cluster: they do not keep the cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from jobrunner.testing.waiting import until
from jobrunner.transport.service import LEFT_AT_ONCE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forking a process with threads is not safe there"
)

PROGRAM = """
import os, signal, sys
from jobrunner import Executor

executor = Executor("cluster", max_workers=1)
executor.submit(print).result()
local = executor._lifetime.backend._connection._local
child = os.fork()
if not child:
    signal.pause()
print(local._process.pid, child, flush=True)
if sys.argv[1] == "shutdown":
    executor.shutdown()
    print(local._process.returncode, flush=True)
    os.kill(child, signal.SIGKILL)
else:
    signal.pause()
"""


@pytest.fixture
def program():
    started = []

    def start(how):
        started.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, text=True)
        )
        numbers = started[0].stdout.readline().split() or started[0].stdout.readline().split()
        started.extend(map(int, numbers))
        return started

    yield start
    if started:
        started[0].kill()
        for pid in started[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started[0].communicate()


def test_an_embedded_cluster_ends_in_an_orderly_way_while_a_forked_process_lives(program):
    running = program("shutdown")[0]
    assert running.stdout.read().split() == [str(LEFT_AT_ONCE)]  # it was not killed after a wait


def test_nor_does_a_forked_process_keep_it_alive_when_the_program_dies(program):
    running, cluster, _ = program("pause")
    running.kill()
    until(
        lambda: not os.path.exists(f"/proc/{cluster}/fd/0"), "the end of the cluster of a program that died"
    )


CONNECTING = """
import os, pickle, signal, socket, threading, time
from jobrunner import Executor
from jobrunner.backends import connections

executor = Executor("cluster", max_workers=1)
nobody = socket.socket()
nobody.bind(("127.0.0.1", 0))  # and does not listen
address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
known = pickle.loads(pickle.dumps(executor))
known.submit(abs, -1).result()
threading.Thread(target=connections.connection_to, args=[address], daemon=True).start()
while connections._lock.acquire(blocking=False):
    connections._lock.release()
    time.sleep(0.001)
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(pickle.loads(pickle.dumps(executor)).submit(abs, -3).result())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), known.submit(abs, -4).result(), flush=True)
executor.shutdown()
os._exit(0)
"""


def test_a_process_that_is_forked_while_another_thread_connects_has_connections_of_its_own():
    environment = {**os.environ, "JOBRUNNER_INSECURE": "1", "JOBRUNNER_CONNECT_TIMEOUT": "50"}
    done = subprocess.run(
        [sys.executable, "-c", CONNECTING], env=environment, stdout=subprocess.PIPE, text=True, timeout=50
    )
    assert done.stdout == "3 4\n"
