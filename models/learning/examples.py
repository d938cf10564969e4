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
    earlier: list[Example] = []
    later: list[Example] = []
    for name in dict.fromkeys(one.source for one in whole.examples):
        own = [one for one in whole.examples if one.source == name]
        first_s, last_s = own[0].moment_s, own[-1].moment_s
        until_s = first_s + EARLIER * (last_s - first_s)
        from_s = first_s + (EARLIER + GAP) * (last_s - first_s)
        earlier += [one for one in own if one.moment_s <= until_s]
        later += [one for one in own if one.moment_s > from_s]
    return whole.where(earlier), whole.where(later)
