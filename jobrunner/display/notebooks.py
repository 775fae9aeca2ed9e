"""The display of Futures and Executors in notebooks and in rich: known facts, escaped, shortened, without errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

MAX_LENGTH = 200
"""Maximum number of characters of one fact."""

Fact = tuple[str, Any]


def or_none(look: Callable[[], Any]) -> Any:
    """Return the result of `look()`, or None if it raises an error, because displaying an object must not fail."""
    try:
        return look()
    except Exception:
        return None


def shown(value: Any) -> str:
    """Return `value` as text of limited length, whatever its `__str__` or `__repr__` does."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__qualname__}, whose repr() fails>"
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def present(facts: Iterable[Fact]) -> list[Fact]:
    """Return the facts that have a value."""
    return [(name, value) for name, value in facts if value is not None and value != ""]


def html_table(title: str, facts: Iterable[Fact]) -> str:
    """Return a small table, which needs no style sheet."""
    import html  # imported here because slots load this module but never display anything

    rows = "".join(
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='text-align: left'>{html.escape(shown(value))}</td></tr>"
        for name, value in facts
    )
    return f"<table><caption style='text-align: left'>{html.escape(shown(title))}</caption>{rows}</table>"
