"""Futures among the arguments of a call, which are found and replaced by their results.

The search covers the arguments themselves and lists, tuples and dicts (of exactly these types) inside them, at any
depth. A Future anywhere else, such as in an object of a user's class, is an ordinary argument.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

AnyFuture: TypeAlias = "concurrent.futures.Future[Any]"

CONTAINERS = frozenset((list, tuple, dict))


def may_hold_futures(
    args: tuple[Any, ...], kwargs: dict[str, Any], wanted: type = concurrent.futures.Future
) -> bool:
    """Return whether there may be a Future of the class `wanted`; False is certain, and the check is fast."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) in CONTAINERS:
            if _holds_future(value, wanted):
                return True
        elif isinstance(value, wanted):
            return True
    return False


def _holds_future(container: Any, wanted: type) -> bool:
    """Return whether a container or one inside it holds a Future.

    The search uses no recursion, and looks at the set of the items' types, which is fast even for long lists.
    """
    todo = [container]
    seen: set[int] = set()
    while todo:
        items: Iterable[Any] = todo.pop()
        if id(items) in seen:
            continue
        seen.add(id(items))
        if type(items) is dict:
            items = items.values()
        types = set(map(type, items))
        if any(issubclass(kind, wanted) for kind in types):
            return True
        if types & CONTAINERS:
            todo += [item for item in items if type(item) in CONTAINERS]
    return False


def replace_futures(
    value: Any, replace: Callable[[Any], Any], wanted: type = concurrent.futures.Future
) -> Any:
    """Return `value` with each Future replaced.

    Containers that hold a Future are copied, and all other objects stay the same. Raises RecursionError for containers
    that are nested very deeply or contain themselves.
    """
    if isinstance(value, wanted):
        return replace(value)
    kind = type(value)
    if kind is list or kind is tuple:
        items = [replace_futures(item, replace, wanted) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else kind(items)
    if kind is dict:
        pairs = {key: replace_futures(item, replace, wanted) for key, item in value.items()}
        return value if all(pairs[key] is item for key, item in value.items()) else pairs
    return value
