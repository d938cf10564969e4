"""How far a long piece of work is: what does the work reports, and a command shows it."""

from __future__ import annotations

from typing import Protocol


class OnProgress(Protocol):
    """Report progress to whoever started the work."""

    def __call__(self, what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
        """Report that `done` of `total` pieces of work are done.

        what   the work, as "training"; another `what` starts another piece of work
        total  None if it is unknown
        more   figures that are shown after the count
        """


def no_report(what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
    """Report nothing."""
