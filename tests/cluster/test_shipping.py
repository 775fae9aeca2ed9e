"""Modules that only the program has, and modules that only some workers have, with real daemons."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
from support import TESTS, calls
from support.daemons import connected

from jobrunner import Executor, InitializerError, QuotaError, SerializationError, current_executor
from jobrunner.testing.waiting import BOUND, until


@pytest.fixture(autouse=True)
def _private_temporary_files(cluster, tmp_path):
    """These workers are killed at the end, and what they leave must not stay."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    cluster.environment["TMPDIR"] = str(folder)


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """Writes packages that this process can import and workers cannot; they are unloaded at the end."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.syspath_prepend(str(home))

    def write(name, text="", data="", under=home):
        folder = under / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text + SOURCE)
        (folder / "data.txt").write_text(data)
        return folder

    yield write
    for name in [name for name in sys.modules if name.startswith("at_home_")]:
        del sys.modules[name]


SOURCE = """
from pathlib import Path

def data():
    return Path(__file__).with_name("data.txt").read_text()

def place():
    return __file__

def data_of_a_call():
    import jobrunner
    return jobrunner.current_executor().submit(data).result()

class Found(Exception):
    pass

def fail():
    raise Found("here")
"""


def test_a_package_that_only_the_program_has(cluster, address, at_home):
    at_home("at_home_a", data="forty-two")
    import at_home_a

    cluster.worker(address, "w", slots=2)
    with Executor(address, ship=[at_home_a]) as executor:
        assert executor.submit(at_home_a.data).result(BOUND) == "forty-two"
        assert executor.submit(lambda: at_home_a.data()).result(BOUND) == "forty-two"
        assert list(executor.map(lambda _: at_home_a.data(), range(20))) == ["forty-two"] * 20
        assert executor.submit(at_home_a.data_of_a_call).result(BOUND) == "forty-two"
        assert (
            executor.submit(lambda ex: ex.submit(at_home_a.data).result(), executor).result(BOUND)
            == "forty-two"
        )
        with pytest.raises(at_home_a.Found, match="here"):
            executor.submit(at_home_a.fail).result(BOUND)
        place = Path(executor.submit(at_home_a.place).result(BOUND))
        assert place != Path(at_home_a.__file__)
        assert place.parent.parent.stat().st_mode & 0o777 == 0o700


def test_the_folders_go_with_the_worker(cluster, address, at_home):
    folder = at_home("at_home_b")
    import at_home_b

    worker = cluster.worker(address, "w")
    with Executor(address, ship=[folder]) as executor:
        place = executor.submit(at_home_b.place).result(BOUND)
    assert os.path.exists(place)
    worker.send(2)
    assert worker.wait() == 0
    assert not os.path.exists(os.path.dirname(os.path.dirname(place)))


def test_two_versions_of_one_module_do_not_meet(cluster, address, at_home, tmp_path):
    """Even where the worker has a third one installed, and all use the same slot."""
    at_home("at_home_c", data="installed", under=tmp_path / "installed")
    first = at_home("at_home_c", data="first", under=tmp_path / "first")
    second = at_home("at_home_c", data="second", under=tmp_path / "second")

    def data():
        import at_home_c

        return at_home_c.data()

    installed = os.pathsep.join([str(TESTS), str(tmp_path / "installed")])
    daemon = cluster.run(
        *("-m", "jobrunner", "worker", "start", address, "--name", "w", "--slots", "1"), PYTHONPATH=installed
    )
    daemon.wait_for("joined coordinator")
    with (
        connected(address) as plain,
        Executor(address, ship=[first]) as one,
        Executor(address, ship=[second]) as two,
    ):
        for _ in range(2):
            futures = [executor.submit(data) for executor in (plain, one, two) for _ in range(3)]
            found = [future.result(BOUND) for future in futures]
            assert found == ["installed"] * 3 + ["first"] * 3 + ["second"] * 3
        inside = one.submit(lambda: current_executor().submit(data).result())
        assert inside.result(BOUND) == "first"


def test_all_slots_of_a_program_that_shipped_serve_the_next_one(cluster, address, at_home, tmp_path):
    at_home("at_home_s")
    import at_home_s

    cluster.worker(address, "w", slots=4)

    def run(executor, name, count):
        """Four of the calls are under way together before any of them ends."""
        trace, gate = tmp_path / name, tmp_path / f"{name} ends"
        futures = [executor.submit(calls.attempt_after, str(trace), str(gate)) for _ in range(count)]
        until(lambda: trace.exists() and len(trace.read_text().splitlines()) == 4)
        gate.touch()
        return [future.result(BOUND) for future in futures]

    with Executor(address, ship=[at_home_s]) as executor:
        run(executor, "first", 4)
    with connected(address) as executor:
        assert run(executor, "second", 8) == [1] * 8


def test_a_shipped_module_that_is_reloaded_is_collected_again(cluster, address, at_home, tmp_path):
    folder = at_home("at_home_g", data="first")
    import at_home_g

    cluster.worker(address, "w", slots=2)
    with Executor(address, ship=[at_home_g]) as executor:
        assert executor.submit(at_home_g.data).result(BOUND) == "first"
        (folder / "__init__.py").write_text("VERSION = 'the second'" + SOURCE.replace("fail", "fail_again"))
        (folder / "data.txt").write_text("second")
        assert executor.submit(at_home_g.data).result(BOUND) == "first", "a snapshot"
        importlib.reload(at_home_g)
        assert executor.submit(at_home_g.data).result(BOUND) == "second"
        assert executor.submit(at_home_g.data_of_a_call).result(BOUND) == "second"
        with pytest.raises(at_home_g.Found, match="here"):
            executor.submit(at_home_g.fail_again).result(BOUND)


def test_a_reloaded_module_that_is_another_version_at_the_worker_is_an_error(
    cluster, address, at_home, tmp_path
):
    folder = at_home("at_home_h", data="home")
    import at_home_h

    at_home("at_home_h", data="installed", under=tmp_path / "installed")
    installed = os.pathsep.join([str(TESTS), str(tmp_path / "installed")])
    daemon = cluster.run(
        *("-m", "jobrunner", "worker", "start", address, "--name", "w", "--slots", "1"), PYTHONPATH=installed
    )
    daemon.wait_for("joined coordinator")
    with connected(address) as executor:
        assert executor.submit(at_home_h.data).result(BOUND) == "installed"
        (folder / "__init__.py").write_text("VERSION = 'the second'" + SOURCE)
        importlib.reload(at_home_h)
        text = (
            r"'at_home_h', which is version \w+ there \(.*home/at_home_h/.*\) and version \w+ on .*installed"
        )
        with pytest.raises(InitializerError, match=text):
            executor.submit(at_home_h.data).result(BOUND)
    with connected(address) as executor:
        (folder / "__init__.py").write_text("VERSION = 'the third'" + SOURCE)
        (tmp_path / "installed/at_home_h/__init__.py").write_text("VERSION = 'the third'" + SOURCE)
        importlib.reload(at_home_h)
        assert executor.submit(at_home_h.data).result(BOUND) == "installed", (
            "the same module, with its own data"
        )


def test_an_initializer_in_a_shipped_module(cluster, address, at_home):
    at_home(
        "at_home_d", "started = []\ndef start(value): started.append(value)\ndef seen(): return started\n"
    )
    import at_home_d

    cluster.worker(address, "w")
    with Executor(address, ship=[at_home_d], initializer=at_home_d.start, initargs=(7,)) as executor:
        assert executor.submit(at_home_d.seen).result(BOUND) == [7]
        assert executor.submit(at_home_d.seen).result(BOUND) == [7]


def test_a_shipment_that_is_too_large(cluster, at_home):
    folder = at_home("at_home_e")
    (folder / "noise").write_bytes(os.urandom(200_000))
    coordinator = cluster.coordinator(JOBRUNNER_MAX_PAYLOAD="100000")
    cluster.worker(coordinator.address, "w")
    text = r"the modules shipped with it \(at_home_e\) have 20\d,\d{3} bytes, packed"
    with Executor(coordinator.address, ship=[folder]) as executor:
        future = executor.submit(calls.own_pid)
        with pytest.raises(QuotaError, match=text):
            future.result(BOUND)


def test_a_module_that_nobody_has_is_named_before_the_call_runs(cluster, address, at_home, tmp_path):
    at_home("at_home_f")
    import at_home_f

    cluster.worker(address, "a")
    cluster.worker(address, "b")
    trace = tmp_path / "trace"

    def by_value():
        calls.note(str(trace), "ran")
        return at_home_f.data()

    def by_value_of(number):
        return by_value()

    with connected(address) as executor:
        for fn, name in ((at_home_f.data, "data"), (by_value, "by_value")):
            with pytest.raises(SerializationError, match=r"lacks? the module 'at_home_f'") as caught:
                executor.submit(fn).result(BOUND)
            assert str(caught.value).endswith(
                f"workers a and b lack the module 'at_home_f', which {name} needs: install it there, or ship it with"
                " Executor(..., ship=[...])"
            )
            assert caught.value.detail["modules"] == ("at_home_f",)
        results = executor.map(by_value_of, range(3))
        with pytest.raises(SerializationError, match="lack the module"):
            list(results)
    assert not trace.exists()


def test_calls_go_to_the_worker_that_has_the_module(cluster, address, at_home, admin, tmp_path):
    folder = at_home("at_home_g", data="only there")
    import at_home_g

    cluster.worker(address, "poor", slots=4)
    path = os.pathsep.join([str(TESTS), str(folder.parent)])
    rich = cluster.run(
        *("-m", "jobrunner", "worker", "start", address, "--name", "rich", "--slots", "1"), PYTHONPATH=path
    )
    rich.wait_for("joined coordinator")
    with connected(address) as executor:
        futures = [executor.submit(at_home_g.data) for _ in range(50)]
        others = [executor.submit(calls.square, 3) for _ in range(50)]
        assert {future.result(BOUND) for future in futures} == {"only there"}
        assert {future.result(BOUND) for future in others} == {9}
        assert list(executor.map(lambda _: at_home_g.place(), range(30))) == [at_home_g.place()] * 30
        rich.send(2)
        assert rich.wait() == 0
        with pytest.raises(SerializationError, match="worker poor lacks the module 'at_home_g'"):
            executor.submit(at_home_g.data).result(BOUND)


def test_a_module_that_is_installed_later_is_found(cluster, address, at_home, tmp_path):
    folder = at_home("at_home_h", data="at last")
    import at_home_h

    later = tmp_path / "later"
    later.mkdir()
    worker = cluster.run(
        *("-m", "jobrunner", "worker", "start", address, "--name", "w", "--slots", "1"),
        PYTHONPATH=os.pathsep.join([str(TESTS), str(later)]),
    )
    worker.wait_for("joined coordinator")
    with connected(address) as executor:
        with pytest.raises(SerializationError):
            executor.submit(at_home_h.data).result(BOUND)
        (later / "at_home_h").symlink_to(folder)

        def arrives():
            try:
                return executor.submit(at_home_h.data).result(BOUND)
            except SerializationError:
                return None

        assert until(arrives) == "at last"
