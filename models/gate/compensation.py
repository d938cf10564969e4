"""What changes a whole picture: exposure, noise that a reference follows, a camera that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray, FloatArray
from framegate.models.gate.cells import Grid, contrasts
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import ByteArray

# -- A reference that follows noise and key frames, yet only so far from where it was anchored.


def nearer(
    origin: ByteArray,
    reference: ByteArray,
    expected: ByteArray,
    now: ByteArray,
    reach: int,
    step: ByteArray | np.uint8 | None = None,
) -> ByteArray:
    """The reference moved by what came over the expected, yet within `reach` of the origin.

    origin, reference, expected, now  uint8 (n,)  cells when they were inferred, what
        became of them, how they should look at today's exposure, and how they look
    step  uint8 (n,), or one for all  at most so many levels at once; None: all the way

    Moved by one level at a time a reference goes to the median of what it sees (sigma-delta
    estimation, Manzanera and Richefeu 2004). Since it stays near its origin in total, no number of
    key frames or looks can carry it away.
    """
    up, down = above(now, expected), above(expected, now)
    if step is not None:
        np.minimum(up, step, out=up)
        np.minimum(down, step, out=down)
    moved = above(plus(reference, up), down)
    np.maximum(moved, above(origin, reach), out=moved)
    return np.minimum(moved, plus(origin, reach), out=moved)


def above(more: ByteArray, less: Any) -> ByteArray:
    """How much `more` is above `less`, levels or one level for all; 0 where it is not."""
    out = np.empty_like(more)
    cv2.subtract(more, less, out)  # saturates
    return out


def plus(levels: ByteArray, more: Any) -> ByteArray:
    """The sum with more levels, or with one for all; at most 255."""
    out = np.empty_like(levels)
    cv2.add(levels, more, out)
    return out


def apart(a: ByteArray, b: ByteArray) -> ByteArray:
    """How far the levels are from each other."""
    out = np.empty_like(a)
    cv2.absdiff(a, b, out)
    return out


_EVERY: Final = 6  # cells, in both directions: enough for two numbers
_VISIBLE: Final = 2  # levels; a difference below is no reason to compensate
_FEW: Final = 0.1  # share of cells with a visible difference up to which nothing is fitted
_ROUNDS: Final = 3
_LEAST_RESIDUAL: Final = 2.0  # levels within which a cell always follows the line
_TRIM: Final = 2.5 * 1.4826  # times the median residual: 2.5 sd of Gaussian noise
_FOLLOW: Final = 4.0  # levels: a cell so near to the line follows it,
_MOST_FOLLOW: Final = 0.5  # and at least this share of them must
_NO_SHIFT: Final = 0.75  # levels
_NO_GAIN: Final = 0.02
_FLAT: Final = 10.0  # levels of standard deviation
_GREY: Final = 128.0  # level of Cb and Cr without colour


@dataclass(frozen=True, slots=True)
class Exposure:
    """Levels r of a reference became `level + shift + gain * (r - level)`.

    gain   contrast now, in parts of the reference's
    shift  levels by which the picture's mean level rose
    level  the mean level of the reference, 0..255
    """

    gain: float = 1.0
    shift: float = 0.0
    level: float = 0.0

    @property
    def same(self) -> bool:
        """Nothing changed that could be seen in 8 bits."""
        return self.gain == 1 and self.shift == 0

    @property
    def inverse(self) -> Exposure:
        """Back from levels of now to those of the reference."""
        return Exposure(1 / self.gain, -self.shift, self.level + self.shift)

    def apply(self, levels: ByteArray, grid: Grid) -> ByteArray:
        """What these levels of cells became: uint8 (grid.cells,).

        Colour has no part in the shift. Within half a level, but for what leaves 0..255.
        """
        if self.same:
            return levels
        all_levels = np.arange(256, dtype=np.float64)
        bright = self.level + self.shift + self.gain * (all_levels - self.level)
        colour = _GREY + self.gain * (all_levels - _GREY)
        became = np.empty_like(levels)
        luma = grid.luma[0] * grid.luma[1]
        cv2.LUT(levels[:luma], _bytes(bright), became[:luma])
        cv2.LUT(levels[luma:], _bytes(colour), became[luma:])
        return became


SAME: Final = Exposure()


def fit(reference: ByteArray, now: ByteArray) -> Exposure:
    """The line that most cells follow; SAME where it is too near to that, or few follow any line.

    reference, now  uint8 (rows, columns)  means of Y

    A line through the cells that lay near the line of the round before, first near a plain shift
    (as in least trimmed squares, Rousseeuw 1984): what covers less than half of the picture, and
    differs, does not bend it.
    """
    before, after = reference[::_EVERY, ::_EVERY].ravel(), now[::_EVERY, ::_EVERY].ravel()
    if np.count_nonzero(apart(before, after) >= _VISIBLE) <= _FEW * before.size:
        return SAME
    if _alike(before, after):
        return SAME
    old, new = before.astype(np.float32), after.astype(np.float32)
    gain, level, mean = 1.0, 0.0, _median(new - old)
    for _ in range(_ROUNDS):
        residual = _residual(old, new, gain, mean - gain * level)
        kept = residual < max(_LEAST_RESIDUAL, _TRIM * _median(residual))
        gain, level, mean = _line(old, new, kept)
    residual = _residual(old, new, gain, mean - gain * level)
    if np.count_nonzero(residual < _FOLLOW) < _MOST_FOLLOW * old.size:
        return SAME
    if abs(gain - 1) < _NO_GAIN:
        gain = 1.0
    shift = mean - level
    if abs(shift) < _NO_SHIFT:
        shift = 0.0
    return Exposure(gain, shift, level)


def _bytes(levels: npt.NDArray[np.floating]) -> ByteArray:
    rounded: ByteArray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return rounded


def _alike(before: ByteArray, after: ByteArray) -> bool:
    """Whether mean and spread hardly changed: so much cheaper than a fit that it is asked first."""
    (mean, spread), (mean_now, spread_now) = cv2.meanStdDev(before), cv2.meanStdDev(after)
    few_levels = abs(float(mean_now[0, 0] - mean[0, 0])) < _NO_SHIFT
    return few_levels and abs(float(spread_now[0, 0] / max(spread[0, 0], 1)) - 1) < _NO_GAIN


def _residual(old: FloatArray, new: FloatArray, gain: float, shift: float) -> FloatArray:
    rest: FloatArray = old * np.float32(-gain)
    rest += new
    rest -= np.float32(shift)
    return np.abs(rest, out=rest)


def _median(values: FloatArray) -> float:
    return float(np.partition(values, values.size // 2)[values.size // 2])


def _line(old: FloatArray, new: FloatArray, kept: BoolArray) -> tuple[float, float, float]:
    """Gain, mean of old, mean of new, of the kept cells.

    The gain is the ratio of the spreads (reduced major axis): least squares would take noise in
    the old levels for a loss of contrast. A flat picture does not tell its gain.
    """
    mask = kept.view(np.uint8)
    (levels, spreads), (means, spreads_now) = (
        cv2.meanStdDev(levels, mask=mask) for levels in (old, new)
    )
    level, mean = float(levels[0, 0]), float(means[0, 0])
    before, after = float(spreads[0, 0]), float(spreads_now[0, 0])
    return (after / before if before >= _FLAT else 1.0), level, mean


# -- Whether a camera moves, by where its picture changes.


_TEXTURED: Final = 2.0  # times a tile's bound: contrast from which on motion must show in it
_ENOUGH: Final = 0.12  # share of tiles that must be of a kind before their share says something
_MOST: Final = 250  # where counters of looks stop


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """What is known of it after a look.

    moving    the camera moves, or its focus does
    restless  looks in a row in which most of the textured tiles had changed, saturating
    restful   looks in a row in which few of them had, saturating
    noisy     the flat tiles had changed as well, as by noise that is everywhere
    """

    moving: bool = False
    restless: int = 0
    restful: int = 0
    noisy: bool = False


STILL: Final = CameraMotion()


def watch(
    motion: CameraMotion,
    changed: BoolArray,
    reference: ByteArray,
    now: ByteArray,
    bound: FloatArray,
    watched: BoolArray | None,
    settings: GateSettings,
) -> CameraMotion:
    """Go on by one look.

    changed    bool (tile_rows, tile_columns)  tiles over their threshold
    reference  uint8 (rows, columns)  cells of Y that they were compared with
    now        uint8 (rows, columns)  cells of Y
    bound      float32 (tile_rows, tile_columns)  stated bound of each tile for Y, in levels
    watched    bool (tile_rows, tile_columns)  tiles that count; None: all

    Sky and road hide motion, so the share of tiles counts that had texture and have it still: much
    that moves in front of a still camera leaves most of what is behind it as it was, and where it
    passes over something plain, texture comes and goes. Where few tiles are of a kind, all count.
    """
    moved = noise = 0.0
    # With fewer no share of a kind could reach any limit.
    kind = min(_ENOUGH * changed.size, changed.size if watched is None else int(watched.sum()))
    few = kind * min(settings.still_share, settings.moving_share, settings.noisy_share)
    if np.count_nonzero(changed) > few:
        contrast = np.minimum(contrasts(reference), contrasts(now))
        textured = contrast >= _TEXTURED * bound
        every = np.ones_like(changed) if watched is None else watched
        moved = _share(changed, every & textured, every)
        noise = _share(changed, every & ~textured, every)
    restless = _counted(motion.restless, moved >= settings.moving_share)
    restful = _counted(motion.restful, moved <= settings.still_share)
    limit = settings.still_looks if motion.moving else settings.moving_looks
    enough = (restful if motion.moving else restless) >= limit
    return CameraMotion(motion.moving != enough, restless, restful, noise >= settings.noisy_share)


def _share(changed: BoolArray, kind: BoolArray, every: BoolArray) -> float:
    """What part of the tiles of a kind changed; of all where there are few of the kind."""
    if np.count_nonzero(kind) < _ENOUGH * kind.size:
        kind = every
    count = int(np.count_nonzero(kind))
    return int(np.count_nonzero(changed & kind)) / max(1, count)


def _counted(looks: int, on: bool) -> int:
    return min(looks + 1, _MOST) if on else 0
