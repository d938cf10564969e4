"""Compare served results with the heavy pass, and with other ways to ask it.

Pure functions of lists with one entry a frame. A frame is *wrong* where the number of its objects
of some class is another than the heavy pass has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.promise.composed_hour import Seen
from framegate.models import matching
from framegate.models.boxes import Boxes

Flags = npt.NDArray[np.bool_]
Tally = tuple[tuple[int, int], ...]
VISIBLE: Final = 0.5  # of a composed thing, for it to count as there


def tally(boxes: Boxes) -> Tally:
    """(class, how many) of each class that is there, in the order of classes."""
    return tuple(sorted(Counter(boxes.class_ids.tolist()).items()))


def wrong(shown: Sequence[Boxes], heavy: Sequence[Boxes]) -> Flags:
    """bool (F,): which frames are wrong."""
    pairs = zip(shown, heavy, strict=True)
    return np.array([tally(ours) != tally(theirs) for ours, theirs in pairs], np.bool_)


def box_share(shown: Sequence[Boxes], heavy: Sequence[Boxes]) -> float:
    """Boxes that only one side has (IoU .5, classes must agree), by the heavy pass's boxes."""
    both, ours, theirs = matching.matched(shown, heavy).sum(axis=0)
    return float((ours + theirs - 2 * both) / max(1, theirs))


def composed_wrong(shown: Sequence[Boxes], composed: Sequence[Sequence[Seen]]) -> Flags:
    """bool (F,): which frames miscount the things that are in sight.

    Only classes that are ever composed count: a scene has things of its own.
    """
    classes = {seen.class_id for frame in composed for seen in frame}
    found = []
    for boxes, frame in zip(shown, composed, strict=True):
        there = Counter(seen.class_id for seen in frame if seen.share >= VISIBLE)
        said = Counter(one for one in boxes.class_ids.tolist() if one in classes)
        found.append(there != said)
    return np.array(found, np.bool_)


@dataclass(frozen=True, slots=True)
class Asking:
    """What it takes, by some rule, to have so few wrong frames.

    asked   share of frames that the heavy pass is asked about
    error   share of frames that are wrong all the same
    margin  of the rule's threshold; None for a rule without
    """

    asked: float
    error: float
    margin: float | None = None


def oracle(never_wrong: Flags, allowed: int) -> Asking:
    """Who knows which frames would be wrong asks about these, all but `allowed`.

    An answer mends its own frame and no other.
    """
    left = min(int(never_wrong.sum()), allowed)
    n = len(never_wrong)
    return Asking((int(never_wrong.sum()) - left) / n, left / n)


def lasting_oracle(never_wrong: Flags, heavy: Sequence[Boxes], allowed: int) -> Asking:
    """The same where an answer serves for as long as it stays true.

    That is up to the next frame for which the heavy pass counts otherwise: one answer, at the first
    wrong frame, mends a whole stretch, so the stretches with most wrong frames are asked about.
    """
    tallies = [tally(boxes) for boxes in heavy]
    stretches = [
        sum(bool(never_wrong[i]) for i in numbers)
        for _, numbers in groupby(range(len(tallies)), key=tallies.__getitem__)
    ]
    left, asked = int(never_wrong.sum()), 0
    for mended in sorted(stretches, reverse=True):
        if left <= allowed:
            break
        left, asked = left - mended, asked + 1
    return Asking(asked / len(tallies), left / len(tallies))


def plain_curve(shown: Sequence[Boxes], never_wrong: Flags, threshold: float) -> list[Asking]:
    """Ask where a shown object's score is within a margin of `threshold`.

    An answer mends its own frame. One point for each margin that makes a difference, from asking
    nothing on. A frame that shows nothing is never asked about.
    """
    margins = np.array([_margin(boxes, threshold) for boxes in shown])
    n, n_wrong = len(margins), int(never_wrong.sum())
    tried = np.unique(margins[np.isfinite(margins)])
    asked = np.searchsorted(np.sort(margins), tried, "right")
    mended = np.searchsorted(np.sort(margins[never_wrong]), tried, "right")
    curve = [Asking(0.0, n_wrong / n, 0.0)]
    for margin, so_many, right in zip(tried.tolist(), asked.tolist(), mended.tolist(), strict=True):
        curve.append(Asking(so_many / n, (n_wrong - right) / n, round(margin, 4)))
    return curve


def first_within(curve: Sequence[Asking], error: float) -> Asking:
    """The point that asks least with at most `error`; the one with least error if none has."""
    return next((one for one in curve if one.error <= error), curve[-1])


def _margin(boxes: Boxes, threshold: float) -> float:
    return float(np.abs(boxes.scores - threshold).min()) if len(boxes) else math.inf


def told(asking: Asking) -> dict[str, Any]:
    """As it stands in the result."""
    row: dict[str, Any] = {"asked_share": round(asking.asked, 4), "error": round(asking.error, 5)}
    return row if asking.margin is None else row | {"margin": asking.margin}
