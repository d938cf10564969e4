"""Read a text file of decisions line by line, and the words of its lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.truth.labels import CLASSES

# Words of a class that has two are joined in a decisions file: `potted-plant`.
_WRITTEN: Final = {name.replace(" ", "-"): name for name in CLASSES}


class DecisionFault(Exception):
    """A line cannot be understood or applied. `read_lines` adds file and line."""


def read_lines(path: Path, read: Callable[[list[str], int], None]) -> list[str]:
    """Call `read` with the words and the number of each line, and return the faults it raised.

    Empty lines and comments, which begin with #, are skipped. A fault names file and line.
    """
    faults = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            read(words, number)
        except DecisionFault as fault:
            faults.append(f"{path}:{number}: {fault}")
    return faults


def class_of(word: str) -> str:
    """Return the class that a word names. DecisionFault."""
    if word not in _WRITTEN:
        raise DecisionFault(
            f"unknown class {word!r}; allowed are vehicle and COCO's names, with - for a space"
        )
    return _WRITTEN[word]


def whole(word: str) -> int:
    """Return a whole number from a line. DecisionFault."""
    if not word.isdecimal():
        raise DecisionFault(f"{word!r} is not a whole number")
    return int(word)
