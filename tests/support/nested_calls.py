"""Calls that make calls which need a resource, each in a way of its own. `name` is that of the resource."""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

from jobrunner import Executor, Future, current_executor, gather, wait
from support import calls


def inside(name: str, amount: float = 1, **options: Any) -> Executor:
    return current_executor().with_options(resources={name: amount}, **options)


def ask(name: str, value: int) -> int:
    return inside(name).submit(calls.square, value).result()


def ask_for_two(name: str, value: int) -> int:
    return inside(name, 2).submit(calls.square, value).result()


def ask_for_a_detached_one(name: str, value: int) -> int:
    return inside(name, detach=True).submit(calls.square, value).result()


def ask_in_a_chain(name: str, levels: int) -> int:
    """By a call that asks a call that ... asks for the resource; the first of these holds it."""
    if levels:
        return current_executor().submit(ask_in_a_chain, name, levels - 1).result()
    return ask(name, 2)


def ask_twice(name: str) -> list[str]:
    """How both siblings end."""
    futures = [inside(name).submit(calls.square, value) for value in range(2)]
    wait(futures)
    return [type(future.exception()).__name__ for future in futures]


def ask_with_gather(name: str) -> list[int]:
    return gather([inside(name).submit(calls.square, value) for value in range(3)])


def ask_with_map(name: str) -> list[int]:
    return list(inside(name).map(calls.square, range(3)))


def ask_for_the_result_of_another(name: str) -> int:
    """It waits for a call that needs nothing but the result of one that cannot begin."""
    needed = inside(name).submit(calls.square, 2)
    return current_executor().submit(calls.square, needed).result()


def ask_when_both_run(name: str, folder: str, side: str) -> int:
    """Once the calls "left" and "right" hold the resource of a worker each."""
    open(f"{folder}/{side}", "w").close()
    for each in ("left", "right"):
        calls.wait_for_file(f"{folder}/{each}")
    return ask(name, 2)


def ask_for_the_first_of_two(name: str, path: str) -> Future[int]:
    """The one that cannot begin; the other one waits for a file."""
    helpless = inside(name).submit(calls.square, 2)
    wait(
        [helpless, current_executor().submit(calls.wait_for_file, path)],
        return_when=concurrent.futures.FIRST_COMPLETED,
    )
    return helpless


def ask_with_limits(name: str, path: str) -> Future[int]:
    """Waits again and again, but never without a limit."""
    future = inside(name).submit(calls.square, 3)
    while not os.path.exists(path):
        wait([future], timeout=1.5)
    return future


def go_on(name: str, path: str) -> Future[int]:
    """A call that is not waited for."""
    future = inside(name).submit(calls.square, 4)
    calls.wait_for_file(path)
    return future
