"""A program's configuration of `logging` as plain data, and its application in another process.

Handlers are included if they write to the program's streams, to a file or to nothing, and are of exactly the types that
`logging.basicConfig` creates, or a NullHandler. Handlers of imported modules are not, because a module configures
itself wherever it is imported.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

STYLES: dict[type, str] = {
    logging.PercentStyle: "%",
    logging.StrFormatStyle: "{",
    logging.StringTemplateStyle: "$",
}


LEVELS = {
    logging.CRITICAL: "CRITICAL",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARNING",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
    logging.NOTSET: "NOTSET",
}
"""The names of levels in a new interpreter."""


def level_names() -> list[tuple[int, str]]:
    """Return the names that `logging.addLevelName` has set."""
    return [(level, name) for level, name in logging._levelToName.items() if LEVELS.get(level) != name]


def loggers() -> dict[str, dict[str, Any]]:
    """Return, by name, the loggers that differ from new ones; the root is called "root"."""
    known: list[tuple[str, Any]] = [
        (logging.root.name, logging.root),
        *logging.root.manager.loggerDict.items(),
    ]
    found = {}
    for name, logger in known:
        if isinstance(logger, logging.Logger):  # otherwise it stands for a logger that nobody has asked for
            described = _described(name, logger)
            if described:
                found[name] = described
    return found


def configure(loggers: dict[str, dict[str, Any]]) -> None:
    """Configure the loggers of this process as `loggers` has described them."""
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
        style = formatter._style
        described["format"] = formatter._fmt, formatter.datefmt, STYLES.get(type(style), "%")
        defaults = getattr(style, "_defaults", None)
        if defaults:
            if not _is_plain(defaults):
                return None
            described["defaults"] = defaults
    if type(handler) is logging.NullHandler:
        return {**described, "null": True}
    if "terminator" in vars(handler):
        described["terminator"] = vars(handler)["terminator"]
    if type(handler) is logging.FileHandler:
        return {
            **described,
            "file": handler.baseFilename,
            "encoding": handler.encoding,
            "errors": handler.errors,
        }
    if type(handler) is PresentStreamHandler and handler._given is None:
        return {**described, "stream": handler.stream_name}
    if type(handler) is logging.StreamHandler:
        for name in ("stderr", "stdout"):
            if handler.stream in (getattr(sys, name), getattr(sys, f"__{name}__")):
                return {**described, "stream": name}
    return None


def _is_plain(defaults: Any) -> bool:
    """Return whether another process can get the defaults of a formatter as JSON."""
    try:
        return bool(json.loads(json.dumps(defaults)) == defaults)
    except (TypeError, ValueError):
        return False


def _handler(described: dict[str, Any]) -> logging.Handler:
    handler: logging.Handler
    if "file" in described:
        # The file is never emptied, whatever mode the program has opened it in, because others write to it, too.
        handler = logging.FileHandler(
            described["file"], "a", described["encoding"], delay=True, errors=described["errors"]
        )
    elif "null" in described:
        handler = logging.NullHandler()
    else:
        handler = PresentStreamHandler(described["stream"])
    if "terminator" in described:
        vars(handler)["terminator"] = described["terminator"]
    handler.setLevel(described["level"])
    if "format" in described:
        fmt, datefmt, style = described["format"]
        handler.setFormatter(
            logging.Formatter(fmt, datefmt, style, False, defaults=described.get("defaults"))
        )
    return handler


class PresentStreamHandler(logging.StreamHandler[TextIO]):
    """A handler that writes to the present sys.stdout or sys.stderr, or to the stream that a call has given it.

    Each call may have its own sys.stdout and sys.stderr.
    """

    def __init__(self, name: str) -> None:
        self.stream_name = name
        self._given: TextIO | None = None
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        present: TextIO = getattr(sys, self.stream_name)
        return present if self._given is None else self._given

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        self._given = stream
