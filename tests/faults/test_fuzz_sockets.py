"""A small share of benchmarks/fuzz_sockets.py, always the same; the long run finds what is rare."""

from __future__ import annotations

import fuzz_sockets
import psutil
import pytest
from support.daemons import Daemon, free_port

from jobrunner.testing.waiting import until
from jobrunner.transport.curve import Credentials, new_pair

SCRIPT = fuzz_sockets.__file__


def ended(fuzz: Daemon, seconds: float) -> int:
    code = fuzz.popen.wait(seconds)
    fuzz.wait()
    return code


def test_nonsense_of_insiders_and_strangers_does_not_disturb_work(cluster):
    fuzz = cluster.run(str(SCRIPT), "--messages", "1000", "--seed", "test")
    assert ended(fuzz, 50) == 0, fuzz.output
    assert "the law holds" in fuzz.output


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_much_nonsense_of_insiders_and_strangers_does_not_disturb_work(cluster):
    fuzz = cluster.run(str(SCRIPT), "--messages", "50000", "--seed", "heavy")
    assert ended(fuzz, 580) == 0, fuzz.output
    assert "the law holds" in fuzz.output


def coordinator_of(fuzz: Daemon) -> psutil.Process | None:
    children = psutil.Process(fuzz.pid).children()
    return next((child for child in children if "coordinator" in child.cmdline()), None)


def test_a_coordinator_that_ends_is_found(cluster):
    fuzz = cluster.run(str(SCRIPT), "--messages", "1000000")
    fuzz.wait_for("of each")
    coordinator = until(lambda: coordinator_of(fuzz), "the coordinator")
    coordinator.kill()
    assert ended(fuzz, 40) == 1, fuzz.output
    assert "WRONG: coordinator has ended with exit code -9" in fuzz.output


@pytest.mark.parametrize("role", ["client", "worker", "observer"])
def test_nonsense_is_the_same_for_the_same_seed(role):
    address = f"tcp://127.0.0.1:{free_port()}"  # where nobody is
    credentials = Credentials(new_pair().public, new_pair())  # to which the names belong

    def messages(seed: str) -> list[list[bytes]]:
        insider = fuzz_sockets.Insider(address, credentials, role, 0, seed)
        try:
            return [insider.next_message()[0] for _ in range(200)]
        finally:
            insider.close()

    assert messages("a") == messages("a")
    assert messages("a") != messages("b")
