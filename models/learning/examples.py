"""Pictures with what a teacher says of them: what a model is tuned, trained and judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from framegate.models.boxes import Boxes
from framegate.models.errors import ArrayMismatch
from framegate.models.picture import Picture

EARLIER: Final = 0.60  # share of the footage that is learned from; what comes later judges
GAP: Final = 0.05  # of the footage between the two: neighbours flatter


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture with a teacher's answer.

    picture   as decoded
    sure      objects, in pixels of the picture; scores are the teacher's, 1 where people labelled
    unsure    neither objects nor background: nothing is learned from what they cover, and a box
              that overlaps one is not wrong
    source    name of the camera or file
    moment_s  seconds on the source's clock, finite: orders its examples

    Class ids of both index the labels of the set that the example is in. Raises ArrayMismatch.
    Safe to share between threads.
    """

    picture: Picture
    sure: Boxes
    unsure: Boxes
    source: str
    moment_s: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.moment_s):
            raise ArrayMismatch("moment_s", "a finite number", repr(self.moment_s))


@dataclass(frozen=True, slots=True, eq=False)
class ExampleSet:
    """Examples with the labels that their class ids index, in the order of sources and moments.

    Raises ArrayMismatch where a class id has no label. Safe to share between threads.
    """

    labels: tuple[str, ...]
    examples: tuple[Example, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.examples, key=lambda one: (one.source, one.moment_s))
        object.__setattr__(self, "examples", tuple(ordered))
        for one in self.examples:
            for boxes in (one.sure, one.unsure):
                if len(boxes) and not 0 <= boxes.class_ids.min() <= boxes.class_ids.max() < len(
                    self.labels
                ):
                    allowed = f"0 to {len(self.labels) - 1}, one a label"
                    raise ArrayMismatch("class_ids", allowed, f"{boxes.class_ids.tolist()}")

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def n_boxes(self) -> int:
        """Objects in all of them."""
        return sum(len(one.sure) for one in self.examples)

    def where(self, examples: Sequence[Example]) -> ExampleSet:
        """These examples with the same labels."""
        return ExampleSet(self.labels, tuple(examples))


def earlier_and_later(whole: ExampleSet) -> tuple[ExampleSet, ExampleSet]:
    """Each source's first 60 % of the time to learn from, its last 35 % to judge by."""
    earlier, later = sides([(one.source, one.moment_s) for one in whole.examples])
    own = whole.examples
    return whole.where([own[i] for i in earlier]), whole.where([own[i] for i in later])


def sides(moments: Sequence[tuple[str, float]]) -> tuple[list[int], list[int]]:
    """Which rows of (source, moment_s) are earlier and which later, where no picture is held."""
    earlier: list[int] = []
    later: list[int] = []
    for name in dict.fromkeys(source for source, _ in moments):
        own = [row for row, (source, _) in enumerate(moments) if source == name]
        seconds = [moments[row][1] for row in own]
        first_s, length_s = min(seconds), max(seconds) - min(seconds)
        earlier += [row for row in own if moments[row][1] <= first_s + EARLIER * length_s]
        later += [row for row in own if moments[row][1] > first_s + (EARLIER + GAP) * length_s]
    return sorted(earlier), sorted(later)
