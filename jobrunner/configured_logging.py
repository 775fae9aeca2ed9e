"""What a program has configured of `logging`, as plain data, and another process that is configured so.

Handlers go along if they write to the program's streams or to a file, and are of exactly the kinds that
`logging.basicConfig` makes. Those of imported modules do not: a module configures itself wherever it is imported.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

STYLES: dict[type, str] = {
    logging.PercentStyle: "%",
    logging.StrFormatStyle: "{",
    logging.StringTemplateStyle: "$",
}


def loggers() -> dict[str, dict[str, Any]]:
    """By name, loggers that are not as `getLogger` makes them; the root is called "root"."""
    known: list[tuple[str, Any]] = [
        (logging.root.name, logging.root),
        *logging.root.manager.loggerDict.items(),
    ]
    found = {}
    for name, logger in known:
        if isinstance(logger, logging.Logger):  # else it stands for one that nobody has asked for
            described = _described(name, logger)
            if described:
                found[name] = described
    return found


def configure(loggers: dict[str, dict[str, Any]]) -> None:
    """Have the loggers of this process be as `loggers` has described them."""
    for name, described in loggers.items():
        logger = logging.root if name == logging.root.name else logging.getLogger(name)
        logger.setLevel(described.get("level", logger.level))
        logger.propagate = described.get("propagate", logger.propagate)
        logger.disabled = described.get("disabled", logger.disabled)
        for handler in described.get("handlers", ()):
            logger.addHandler(_handler(handler))


def _described(name: str, logger: logging.Logger) -> dict[str, Any]:
    described: dict[str, Any] = {}
    is_root = logger is logging.root
    if logger.level != (logging.WARNING if is_root else logging.NOTSET):
        described["level"] = logger.level
    if not logger.propagate:
        described["propagate"] = False
    if logger.disabled:
        described["disabled"] = True
    if is_root or name.partition(".")[0] not in sys.modules or name == "__main__":
        handlers = [found for handler in logger.handlers if (found := _described_handler(handler))]
        if handlers:
            described["handlers"] = handlers
    return described


def _described_handler(handler: logging.Handler) -> dict[str, Any] | None:
    formatter = handler.formatter
    if handler.filters or not (formatter is None or type(formatter) is logging.Formatter):
        return None
    described: dict[str, Any] = {"level": handler.level}
    if formatter is not None:
        described["format"] = formatter._fmt, formatter.datefmt, STYLES.get(type(formatter._style), "%")
    if type(handler) is logging.FileHandler:
        return {**described, "file": handler.baseFilename, "encoding": handler.encoding}
    if type(handler) is PresentStreamHandler:
        return {**described, "stream": handler.stream_name}
    if type(handler) is logging.StreamHandler:
        for name in ("stderr", "stdout"):
            if handler.stream in (getattr(sys, name), getattr(sys, f"__{name}__")):
                return {**described, "stream": name}
    return None


def _handler(described: dict[str, Any]) -> logging.Handler:
    handler: logging.Handler
    if "file" in described:
        # Others write into it, too: whatever mode the program has opened it in, this is no reason to empty it.
        handler = logging.FileHandler(described["file"], "a", described["encoding"], delay=True)
    else:
        handler = PresentStreamHandler(described["stream"])
    handler.setLevel(described["level"])
    if "format" in described:
        fmt, datefmt, style = described["format"]
        handler.setFormatter(logging.Formatter(fmt, datefmt, style, validate=False))
    return handler


class PresentStreamHandler(logging.StreamHandler[TextIO]):
    """Writes to what is sys.stdout or sys.stderr at the moment, as that may be another one for each call."""

    def __init__(self, name: str) -> None:
        self.stream_name = name
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        present: TextIO = getattr(sys, self.stream_name)
        return present
