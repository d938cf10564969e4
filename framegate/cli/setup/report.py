"""Findings of a check on stdout, and the exit code that follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from framegate.cli.console.terminal import counted, say
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.system.outputs import is_stdout_closed


class Report:
    """Lines on stdout under headings, and the worst exit code of the faults."""

    def __init__(self) -> None:
        self.exit = Exit.DONE
        self.faults = 0
        self.warnings = 0
        self._heading = ""

    def say(self, heading: str, text: str) -> None:
        """Print a text of one or more lines; a heading is printed once."""
        for line in text.splitlines():
            is_new = heading != self._heading
            self._heading = heading
            say(line, f"{heading * is_new:<18} ")

    @contextmanager
    def watching(self, heading: str, about: str = "") -> Iterator[None]:
        """Report an exception of the block as a fault, or as several."""
        try:
            yield
        except Exception as error:
            if isinstance(error, BrokenPipeError) and is_stdout_closed():
                raise
            if isinstance(error, ConfigFaults):
                faults = error.faults
            elif isinstance(error, FramegateError):
                faults = [str(error)]
            else:
                faults = [f"{type(error).__name__}: {error}"]
            code = error.exit if isinstance(error, FramegateError) else Exit.USAGE
            self.exit = max(self.exit, code)
            self.faults += len(faults)
            for fault in faults:
                self.say(heading, redacted(f"FAULT: {about}{fault}"))

    def warn(self, heading: str, text: str) -> None:
        """Report a doubt: a run can begin with it, but may do something else than was meant."""
        self.warnings += 1
        self.say(heading, redacted(f"WARNING: {text}"))

    def verdict(self) -> str:
        """Return the last line: how many faults and warnings there are."""
        kinds = {"fault": self.faults, "warning": self.warnings}
        counts = [counted(n, word) for word, n in kinds.items() if n]
        words = [word.upper() for word, n in kinds.items() if n]
        if not counts:
            return "all is well"
        return f"{', '.join(counts)}: see {' and '.join(words)} above"
