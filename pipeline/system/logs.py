"""Set up logging: a line per message on stderr, as text or JSON, without secrets.

All output of a process goes through here, except the trace of a crash (`trace_crashes`): its own
messages, those of libraries, warnings, and uncaught errors.
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

to_user = logging.getLogger("framegate")  # in text form its lines have no time and no part


def set_up_logging(level: str, part: str, form: LogFormat = "text") -> None:
    """Send all logs of this process to stderr, from `level` on. part: name of the process"""
    formatter: logging.Formatter = TextLines(part)
    if form == "json":
        formatter = JsonLines(part)
    handler = _Stderr()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level in ("DEBUG", "INFO"):
        # A line for each request: a source with `events` makes 17,000 a day.
        for library in ("httpx", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # it would print arguments without our formatter
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


class _Stderr(logging.StreamHandler[Any]):
    """A handler that writes to the current `sys.stderr`, which may change."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class TextLines(logging.Formatter):
    """The text form: `time LEVEL part: message`, followed by the traceback."""

    def __init__(self, part: str) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a message, without secrets."""
        message = redacted(_message(record))
        if record.name == to_user.name:
            return f"framegate: {message}"
        time = self.formatTime(record, self.datefmt)
        line = f"{time} {record.levelname:<7} {self._part}: {message}"
        if not record.exc_info:
            return line
        trace = redacted(self.formatException(record.exc_info))
        return f"{line}\n{trace}"


class JsonLines(logging.Formatter):
    """The JSON form: an object per line with time (RFC 3339), level, part, message, exception."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a message, without secrets."""
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
    except Exception:  # a defect of a library: its message is still useful
        return f"{record.msg} (with arguments that do not fit it)"


def _uncaught(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    logging.critical("ended by an unexpected error", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = "?"
        if args.thread is not None:
            name = args.thread.name
        error = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.error("thread %s ended by an unexpected error", name, exc_info=error)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        error = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.error("%s", args.err_msg or "an error that could not be raised", exc_info=error)
