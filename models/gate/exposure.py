"""Exposure: the line that the levels of a whole picture follow, so that it is no change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray, FloatArray
from framegate.models.gate.cells import Grid
from framegate.models.picture import ByteArray

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
        """Return what these levels of cells became: uint8 (grid.cells,).

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


def fit(reference: ByteArray, now: ByteArray, apart: ByteArray) -> Exposure:
    """Return the line that most cells follow; SAME where it is too near, or few follow any line.

    reference, now  uint8 (rows, columns)  means of Y
    apart           the same shape  `distance` between the two

    A line through the cells that lay near the line of the round before, first near a plain shift
    (as in least trimmed squares, Rousseeuw 1984): what covers less than half of the picture, and
    differs, does not bend it.
    """
    visible = apart[::_EVERY, ::_EVERY] >= _VISIBLE
    if np.count_nonzero(visible) <= _FEW * visible.size:
        return SAME
    before, after = reference[::_EVERY, ::_EVERY].ravel(), now[::_EVERY, ::_EVERY].ravel()
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
    rounded: ByteArray = np.minimum(np.maximum(np.rint(levels), 0), 255).astype(np.uint8)
    return rounded


def _alike(before: ByteArray, after: ByteArray) -> bool:
    """Return whether mean and spread hardly changed: far cheaper than a fit, so it comes first."""
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


def distance(a: ByteArray, b: ByteArray) -> ByteArray:
    """Return how far the levels are from each other."""
    out = np.empty_like(a)
    cv2.absdiff(a, b, out)
    return out
