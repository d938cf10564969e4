"""Logging: one message a line on stderr, as text or JSON, with the process's part in it.

All that a process says goes through here: its own words, those of libraries, warnings, and errors
that nobody caught. What is secret is taken out here, whoever said it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import types
from datetime import UTC, datetime
from typing import Any

from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.spec import LogFormat

to_user = logging.getLogger("framegate")  # as text it is said plainly, without time and part


def set_up_logging(level: str, part: str, form: LogFormat = "text") -> None:
    """Send all logs of this process to stderr, from `level` on; `part` names the process."""
    handler = _Stderr()
    handler.setFormatter(JsonLines(part) if form == "json" else TextLines(part))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # it would print a message's arguments past the formatter
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


class _Stderr(logging.StreamHandler[Any]):
    """To whatever stderr is now."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class TextLines(logging.Formatter):
    """`time LEVEL part: message`, and the traceback below it."""

    def __init__(self, part: str) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """One message, without secrets."""
        message = redacted(_message(record))
        if record.name == to_user.name:
            return f"framegate: {message}"
        time = self.formatTime(record, self.datefmt)
        trace = redacted(f"\n{self.formatException(record.exc_info)}") if record.exc_info else ""
        return f"{time} {record.levelname:<7} {self._part}: {message}{trace}"


class JsonLines(logging.Formatter):
    """An object a line: time (RFC 3339), level, part, message; exception, where there is one."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """One message, without secrets."""
        time = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "part": self._part,
            "message": redacted(_message(record)),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a library's mistake must not cost its message
        return f"{record.msg} (with arguments that do not fit it)"


def _uncaught(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    logging.critical("ended by an unexpected error", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "?"
        found = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.error("thread %s ended by an unexpected error", name, exc_info=found)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        found = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.error("%s", args.err_msg or "an error that could not be raised", exc_info=found)
