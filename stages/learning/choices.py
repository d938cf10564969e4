"""Decisions of a user before a model learns: the teacher, classes, sizes and effort.

The command line shows these defaults in its help, so nothing here imports a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

HEAVY: Final = "heavy"  # the teacher, unless a model of the registry is named
TUNE_FRAMES: Final = 400
TRAIN_FRAMES: Final = 600  # of which 60 % are learned from
STEPS: Final = 800  # of training, unless minutes are given
SIDES: Final = {"compact": 320, "accurate": 416}  # longer side of a student's input, pixels
LEAST_NEW: Final = 50  # pictures, without which a new model could not be judged

# A figure and its 95 % interval.
WithInterval = tuple[float, float, float]
# Classes that are looked for alone, those struck, and those merged (label -> what it becomes).
ClassWishes = tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]


@dataclass(frozen=True, slots=True)
class ClassSeen:
    """A class that the teacher saw."""

    label: str
    objects: int
    frames: int


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """Classes to look for; `merged` maps a class to the one that it is counted as."""

    kept: tuple[str, ...]
    merged: dict[str, str]


Choose = Callable[[Sequence[ClassSeen]], ClassChoice]
