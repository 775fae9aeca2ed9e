"""The limits of the details of outcomes that the coordinator passes on. Pure functions.

The law: what one receiver accepts, the next one accepts, too. A detail grows on its way: it gets the history of a
task's attempts, or becomes a part of the detail of a task that depended on this one. A detail beyond the limits of
`checks` would be refused by a peer that has done nothing wrong, in each of its sessions. So the coordinator cuts a
detail on arrival if it is far larger than anything that a worker has to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire.batches import of_detail
from jobrunner.protocol.wire.checks import MAX_DEPTH, plain
from jobrunner.protocol.wire.messages import Detail, Outcome
from jobrunner.protocol.wire.outcome_detail import DETAIL_TYPES

MAX_FACTS = 64
"""Maximum number of facts in a detail."""

MAX_LEVELS = MAX_DEPTH // 2
DETAIL_BYTES = 1024 * 1024
"""Approximate maximum size in bytes of a detail in the header of a message."""

CUT_TEXT = 1000
"""Number of characters to which each text is shortened if a detail is cut."""

CUT_ITEMS = 20

SCALARS = (int, float, bool, type(None))


def passable(outcome: Outcome) -> Outcome:
    """Return the outcome in a form that may be passed on."""
    if outcome.detail is None or fits(outcome.detail):
        return outcome
    return outcome._replace(detail=cut(outcome.detail))


def fits(detail: Detail) -> bool:
    if len(detail) > MAX_FACTS:
        return False
    try:
        plain(detail, MAX_LEVELS)
    except ProtocolError:
        return False
    return of_detail(detail) <= DETAIL_BYTES


def cut(detail: Detail) -> Detail:
    """Return a detail of limited size: known facts first, then the others while there is room.

    Strings and lists are shortened.
    """
    told: Mapping[str, Any] = detail
    names = [name for name in detail if name in DETAIL_TYPES] + [n for n in detail if n not in DETAIL_TYPES]
    kept: dict[str, Any] = {}
    for name in names[:MAX_FACTS]:
        value = told[name]
        if name == "need_detail" and value is not None:
            kept[name] = cut(without_need(value))
        elif isinstance(value, (list, tuple)):
            kept[name] = tuple([cut_scalar(item) for item in value[:CUT_ITEMS] if is_scalar(item)])
        elif is_scalar(value):
            kept[name[:CUT_TEXT]] = cut_scalar(value)
    return cast(Detail, kept)


def brief(detail: Detail) -> Detail:
    """Return the facts that lists of tasks show, because a whole detail may have a megabyte."""
    told: Mapping[str, Any] = detail
    return cast(Detail, {name: told[name][:CUT_TEXT] for name in ("error", "worker", "host") if name in told})


def without_need(detail: Detail) -> Detail:
    """Return a detail without the one that it contains, because in a chain the first failure is the cause of all."""
    return cast(Detail, {name: value for name, value in detail.items() if name != "need_detail"})


def is_scalar(value: Any) -> bool:
    return isinstance(value, (*SCALARS, str, bytes))


def cut_scalar(value: Any) -> Any:
    return value[:CUT_TEXT] if isinstance(value, (str, bytes)) else value
