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
TRAINING_S: Final = "training_cpu_s"  # metric of a trained model only: CPU seconds
LEAST_NEW: Final = 50  # pictures, without which a new model could not be judged

# A figure and its 95 % interval.
WithInterval = tuple[float, float, float]
# Classes that a person confirmed, and those merged (label -> class that it becomes).
ClassWishes = tuple[tuple[str, ...], dict[str, str]]


@dataclass(frozen=True, slots=True)
class ClassSeen:
    """A class in the labels of the footage.

    objects, frames  number of its objects, and of pictures with any
    is_confirmed     whether people labelled an object of it, called one right in a review, or
                     confirmed the class for the last model of this name
    """

    label: str
    objects: int
    frames: int
    is_confirmed: bool = False


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The classes to look for: a person confirmed that they are in the footage.

    merged  class -> class that it is counted as
    """

    kept: tuple[str, ...]
    merged: dict[str, str]


Choose = Callable[[Sequence[ClassSeen]], ClassChoice]
