"""Routing by difficulty: which of several input sizes is enough for a source, as looks told. Pure.

The rungs of a ladder are one network at several sizes, cheapest first. How likely a look finds an
object follows from the object's side in pixels of the model, by nearly the same curve at every size
(`benchmarks.ladder_sizes`). So the boxes of the largest rung tell what each other one would lose of
them, and the cheapest rung whose loss is within the limit is taken. A loss never grows with the
rung, so the path is nested: what is harder is never looked at by a lower rung.

Now and then the largest rung looks as well: a probe. From what it shows all losses are reckoned,
with older probes forgotten exponentially; and what the rung in use missed, of what the largest is
sure of, counts against that rung and those below it, however large it was. A probe changes no
answer, only choices after it. A rise takes one probe, a fall two in a row and a smaller loss.

Less computation for easy input: Bengio et al., "Conditional computation in neural networks for
faster models" (2015); Wu et al., "BlockDrop: dynamic inference paths in residual networks" (2018).
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from models.boxes import Boxes, FloatArray
from models.errors import ModelError
from models.nms import area, iou

Array = npt.NDArray[np.float64]
MOST_RUNGS: Final = 8
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BBBBHf")  # version, rungs, rung, falls, wait, gap
_FALLS: Final = 2  # probes in a row that a lower rung must have been enough at
_SAME: Final = 0.5  # IoU of two rungs' boxes of one object
_NOTHING: Final = 1e-3  # objects; where none is seen every rung is enough
_LEAST_WEIGHT: Final = 0.1


class LadderStateUnreadable(ModelError, ValueError):
    """Bytes that are no state of this ladder, or of a version this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"ladder state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


class RungsUnordered(ModelError, ValueError):
    """Rungs that are not two to MOST_RUNGS sizes, each larger than the one before."""

    def __init__(self, long_sides: tuple[int, ...]) -> None:
        wanted = f"expected 2 to {MOST_RUNGS} rising sizes"
        super().__init__(f"rungs: {wanted}, found {', '.join(map(str, long_sides))}")
        self.long_sides = long_sides


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """Numbers of the policy.

    rungs     longer side of each rung's input, rising
    limit     0..1, what a rung may lose of the largest one's F1, as expected
    hold      0..1, a lower rung is taken only with a loss that is smaller by this share
    shown     0..1, the detector's threshold: boxes above it are objects
    sure      score above `shown` from which on a box counts in full; less sure, less
    first, growth, most   looks until the second probe, by how much gaps grow, the longest
    memory    probes after which evidence weighs 1/e
    half_px   side in model pixels at which half is found of what is found of large objects
    octaves   the curve's width, in octaves of the side
    believed  objects that a rung's misses are weighed against from the start

    `half_px` and `octaves` were fitted on coco128 (`benchmarks.ladder_sizes`); limits from .1 to
    .15 do about equally well on clips (`benchmarks.ladder`).

    Raises RungsUnordered, ValueError.
    """

    rungs: tuple[int, ...] = (224, 256, 320, 384, 416)
    limit: float = 0.1
    hold: float = 0.2
    shown: float = 0.31
    sure: float = 0.15
    first: int = 4
    growth: float = 1.5
    most: int = 48
    memory: float = 12.0
    half_px: float = 18.5
    octaves: float = 0.48
    believed: float = 4.0

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in itertools.pairwise(self.rungs))
        if not (2 <= len(self.rungs) <= MOST_RUNGS and rises and self.rungs[0] > 0):
            raise RungsUnordered(self.rungs)
        if not (1 <= self.first <= self.most <= 0xFFFF and self.growth >= 1):
            found = f"{self.first}, {self.growth}, {self.most}"
            raise ValueError(f"first, growth, most: {found}; allowed: 1 <= first <= most, growth 1")

    @property
    def top(self) -> int:
        """Index of the largest rung."""
        return len(self.rungs) - 1


DEFAULT: Final = LadderSettings()


@dataclass(frozen=True, slots=True)
class LadderState:
    """Where a source stands, in the precision in which it is stored.

    rung    index of the rung in use
    falls   probes in a row that a lower one was enough at
    wait    looks before the next probe
    gap     looks from that one to the one after
    finds   objects of the probes that each rung is expected to find, forgotten exponentially
    sure    of what the largest rung was sure of while this one was in use, forgotten likewise
    missed  of these, what this rung did not show
    """

    rung: int
    falls: int
    wait: int
    gap: float
    finds: tuple[float, ...]
    sure: tuple[float, ...]
    missed: tuple[float, ...]

    def to_bytes(self) -> bytes:
        """10 bytes and 12 a rung, the same on every machine."""
        n = len(self.finds)
        head = _HEAD.pack(_VERSION, n, self.rung, self.falls, self.wait, self.gap)
        return head + struct.pack(f"<{3 * n}f", *self.finds, *self.sure, *self.missed)

    @staticmethod
    def from_bytes(data: bytes) -> LadderState:
        """What `to_bytes` wrote; LadderStateUnreadable for anything else."""
        n = data[1] if len(data) > 1 else 0
        size = _HEAD.size + 12 * n
        if len(data) != size or data[:2] != bytes((_VERSION, n)):
            expected = f"version {_VERSION}, {n} rungs in {size} bytes"
            raise LadderStateUnreadable(expected, f"{len(data)} bytes, {data[:2].hex()}")
        _, _, rung, falls, wait, gap = _HEAD.unpack_from(data)
        if rung >= n:
            raise LadderStateUnreadable(f"a rung below {n}", f"{rung}")
        values = struct.unpack_from(f"<{3 * n}f", data, _HEAD.size)
        return LadderState(rung, falls, wait, gap, values[:n], values[n : 2 * n], values[2 * n :])


@dataclass(frozen=True, slots=True)
class Choice:
    """How the next whole look is made.

    rung   index of the rung that answers
    probe  whether the largest rung looks as well, if it is not the one that answers
    """

    rung: int
    probe: bool


def at_start(settings: LadderSettings = DEFAULT) -> LadderState:
    """Before a source's first look: at the largest rung, with a probe due."""
    none = (0.0,) * len(settings.rungs)
    return LadderState(settings.top, 0, 0, float(settings.first), none, none, none)


def choose(state: LadderState) -> Choice:
    """How to look next."""
    return Choice(state.rung, state.wait == 0)


def after(
    state: LadderState,
    choice: Choice,
    found: Boxes,
    largest: Boxes | None,
    size: tuple[int, int],
    settings: LadderSettings = DEFAULT,
) -> LadderState:
    """Where the source stands after a whole look.

    found    what the rung of `choice` found; largest: what the largest did, None without a probe
    size     (width, height) of the picture, as boxes are in its pixels

    ValueError where there was a probe and `largest` is None.
    """
    if not choice.probe:
        return replace(state, wait=state.wait - 1)
    if largest is None:
        raise ValueError("largest: None after a probe; allowed: its boxes")
    kept = np.exp(-1 / settings.memory)
    objects = largest.take(largest.scores > np.float32(settings.shown))
    finds = kept * np.array(state.finds) + expected_finds(objects, size, settings)
    sure, missed = kept * np.array(state.sure), kept * np.array(state.missed)
    if choice.rung < settings.top:
        certain = objects.take(objects.scores >= np.float32(settings.shown + settings.sure))
        sure[choice.rung] += len(certain)
        missed[choice.rung] += _n_missed(certain, found, settings)
    evidence = _stored(finds), _stored(sure), _stored(missed)
    rung, falls = _moved(state, losses(*evidence, settings), settings)
    wait = int(state.gap) - 1
    gap = np.float32(min(state.gap * settings.growth, settings.most))
    return LadderState(rung, falls, wait, float(gap), *evidence)


def expected_finds(objects: Boxes, size: tuple[int, int], settings: LadderSettings) -> Array:
    """Of these objects, how many each rung is expected to find, those of low scores counted less.

    float64 (R,), by the share that is found of large ones; it never falls with the rung.
    """
    sides = np.sqrt(area(objects.xyxy.astype(np.float64))) / max(size)
    px = np.maximum(np.outer(settings.rungs, sides), 1e-3)
    reach = np.log2(px / settings.half_px) / settings.octaves
    chances: Array = 1 / (1 + np.exp(-np.clip(reach, -60, 60)))
    finds: Array = chances @ _weights(objects, settings)
    return finds


def losses(
    finds: tuple[float, ...],
    sure: tuple[float, ...],
    missed: tuple[float, ...],
    settings: LadderSettings,
) -> tuple[float, ...]:
    """What each rung may lose of the largest one's F1, 0..1, never growing with the rung.

    With a recall of r in parts of the largest one's, and as few mistakes: (1 - r) / (1 + r).
    """
    recall = (np.array(finds) + _NOTHING) / (finds[-1] + _NOTHING)
    seen = 1 - np.array(missed) / (np.array(sure) + settings.believed)
    # Who finds less than a larger rung did is not worth more than that one.
    seen = np.minimum.accumulate(seen[::-1])[::-1]
    least = np.minimum(recall, seen)
    least[-1] = 1.0
    return tuple(((1 - least) / (1 + least)).tolist())


def needed(expected: tuple[float, ...], limit: float) -> int:
    """The lowest rung whose loss is within the limit."""
    return next(rung for rung, loss in enumerate(expected) if loss <= limit)


def _moved(
    state: LadderState, expected: tuple[float, ...], settings: LadderSettings
) -> tuple[int, int]:
    """The rung after a probe, and for how many probes a lower one has been enough."""
    if (least := needed(expected, settings.limit)) >= state.rung:
        return least, 0
    lower = needed(expected, settings.limit * (1 - settings.hold))
    if lower >= state.rung:
        return state.rung, 0
    falls = state.falls + 1
    return (lower, 0) if falls >= _FALLS else (state.rung, falls)


def _weights(objects: Boxes, settings: LadderSettings) -> Array:
    """0..1 of each object: how sure the largest rung is of it."""
    above = (objects.scores.astype(np.float64) - settings.shown) / settings.sure
    weights: Array = np.clip(above, _LEAST_WEIGHT, 1)
    return weights


def _n_missed(objects: Boxes, found: Boxes, settings: LadderSettings) -> int:
    """How many of the objects have no box of their class in `found`."""
    shown = found.take(found.scores > np.float32(settings.shown))
    overlap: FloatArray = iou(objects.xyxy, shown.xyxy)
    there = (overlap >= _SAME) & (objects.class_ids[:, None] == shown.class_ids[None, :])
    return len(objects) - int(there.any(axis=1).sum())


def _stored(values: Array) -> tuple[float, ...]:
    """As float32 has them: a state that was written and read goes on to the same bits."""
    return tuple(values.astype(np.float32).astype(np.float64).tolist())
