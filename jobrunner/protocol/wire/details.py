"""What the coordinator passes on of the details of outcomes; pure.

The law: what one hop takes, the next one takes too. A detail grows on its way (the history of a task's attempts, the
end of a task that needed this one, within which it is a detail itself), and what is more than `checks` allows would be
refused by somebody who has done nothing, in each of his sessions. So the coordinator cuts what is far beyond anything
that a worker has to tell, where it comes in.
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
"""Facts of a detail."""

MAX_LEVELS = MAX_DEPTH // 2
DETAIL_BYTES = 1024 * 1024
"""About; of a detail as a whole, in the header of a message."""

CUT_TEXT = 1000
"""Characters that are left of each text where something is cut."""

CUT_ITEMS = 20

SCALARS = (int, float, bool, type(None))


def passable(outcome: Outcome) -> Outcome:
    """An outcome as it may be passed on."""
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
    """The facts that mean something to anybody, then the others, as far as there is room; strings and lists are cut."""
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
    """What is shown in lists, of which there are many, while a detail may have a megabyte."""
    told: Mapping[str, Any] = detail
    return cast(Detail, {name: told[name][:CUT_TEXT] for name in ("error", "worker", "host") if name in told})


def without_need(detail: Detail) -> Detail:
    """A detail as it is told within that of another outcome: along a chain, the first failure is the cause of all."""
    return cast(Detail, {name: value for name, value in detail.items() if name != "need_detail"})


def is_scalar(value: Any) -> bool:
    return isinstance(value, (*SCALARS, str, bytes))


def cut_scalar(value: Any) -> Any:
    return value[:CUT_TEXT] if isinstance(value, (str, bytes)) else value
