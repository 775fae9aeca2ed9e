"""What notebooks and rich show of a Future or an Executor: facts that are at hand, escaped, cut, never an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

MAX_LENGTH = 200
"""Characters of one fact."""

Fact = tuple[str, Any]


def or_none(look: Callable[[], Any]) -> Any:
    """What `look()` returns; None where it raises: whoever looks at an object must not stumble over it."""
    try:
        return look()
    except Exception:
        return None


def shown(value: Any) -> str:
    """`value` as text of bounded length, whatever its `__str__` or `__repr__` does."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__qualname__}, whose repr() fails>"
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def present(facts: Iterable[Fact]) -> list[Fact]:
    """Those that have a value."""
    return [(name, value) for name, value in facts if value is not None and value != ""]


def html_table(title: str, facts: Iterable[Fact]) -> str:
    """A small table, which needs no style sheet."""
    import html  # here: slots load this module, and never show anything

    rows = "".join(
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='text-align: left'>{html.escape(shown(value))}</td></tr>"
        for name, value in facts
    )
    return f"<table><caption style='text-align: left'>{html.escape(shown(title))}</caption>{rows}</table>"
