"""The interface by which long work reports its progress to a command."""

from __future__ import annotations

from typing import Protocol


class OnProgress(Protocol):
    """A function that shows progress to the caller."""

    def __call__(self, what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
        """Report that `done` of `total` pieces of work are done.

        what   name of the work, such as "training"; a new name starts new work
        total  None if it is unknown
        more   figures to show after the count
        """


def no_report(what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
    """Report nothing."""
