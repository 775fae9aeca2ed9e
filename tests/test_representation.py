"""What is shown of a Future and an Executor: true, bounded, escaped, and never in anybody's way."""

from __future__ import annotations

import time

import pytest
from rich.pretty import pretty_repr

from jobrunner import Executor, TaskLostError, gather
from jobrunner.display.notebooks import MAX_LENGTH, html_table, or_none, shown
from jobrunner.futures import Future
from jobrunner.testing.stub_backend import StubBackend
from jobrunner.testing.waiting import until


class Rude(Exception):
    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__

    @property
    def detail(self):
        raise RuntimeError("no")


class Result:
    def __repr__(self):
        raise AssertionError("a result may be large, so nobody looks at it")


def test_facts_are_cut_and_escaped():
    table = html_table("<b>", [("<i>", "<script>"), ("long", "x" * 10_000)])
    assert "<b>" not in table
    assert "<i>" not in table
    assert "&lt;script&gt;" in table
    assert len(table) < 1000
    assert len(shown("y" * 10_000)) == MAX_LENGTH
    assert shown(Rude()) == "<Rude, whose repr() fails>"
    assert or_none(lambda: 1 / 0) is None


def future_of(**what):
    future = Future()
    future.name = "f<x>"
    future.id = "id"
    for name, value in what.items():
        getattr(future, name)(*value)
    return future


@pytest.mark.parametrize(
    ("future", "words"),
    [
        (future_of(), ["pending"]),
        (future_of(confirm_running=()), ["running"]),
        (future_of(cancel=()), ["cancelled"]),
        (future_of(confirm_cancelled=()), ["cancelled"]),
        (future_of(set_result=(Result(),)), ["succeeded", "Result"]),
        (future_of(set_exception=(ValueError("wrong"),)), ["failed", "wrong"]),
        (future_of(set_exception=(Rude(),)), ["failed", "Rude"]),
    ],
)
def test_a_future(future, words):
    for text in (future._repr_html_(), pretty_repr(future)):
        assert all(word in text for word in words)
        assert "id" in text
    assert "f&lt;x&gt;" in future._repr_html_()


def test_a_future_whose_process_died_says_where():
    lost = TaskLostError("died")
    lost.detail = {"worker": "left", "host": "b"}
    future = future_of(set_exception=(lost,))
    future.duration = 1.2345
    for text in (future._repr_html_(), pretty_repr(future)):
        assert "left" in text
        assert "1.23 s" in text


def test_an_executor():
    executor = Executor(StubBackend())
    view = executor.with_options(name="<x>", retries=3)
    for text in (view._repr_html_(), pretty_repr(view)):
        assert all(word in text for word in ("stub", "open", "max_workers", "retries", "3"))
    assert "&lt;x&gt;" in view._repr_html_()
    assert repr(view) == "<Executor 'stub' max_workers=2, name='<x>', retries=3>"
    executor.shutdown()
    assert "shut down" in executor._repr_html_()


def test_an_executor_whose_backend_fails():
    class Broken(StubBackend):
        @property
        def max_workers(self):
            raise OSError("gone")

        unfinished = max_workers

        def status(self):
            raise AssertionError("that would ask the cluster")

        connection = status

    executor = Executor(Broken())
    assert "open" in executor._repr_html_()
    assert "stub" in repr(executor)
    assert "stub" in pretty_repr(executor)
    executor._lifetime.kill()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_the_calls_under_way(kind, tmp_path):
    def wait():
        while not go.exists():
            time.sleep(0.005)

    go = tmp_path / "go"
    with Executor(kind, max_workers=1) as executor:
        assert ("unfinished", 0) in executor.__rich_repr__()
        futures = [executor.submit(wait) for _ in range(3)]
        under_way = executor._lifetime.backend.unfinished
        go.touch()
        assert under_way == 3
        gather(futures)
        until(lambda: not executor._lifetime.backend.unfinished)
