"""Recognise changes of the whole picture: the camera moves, or its exposure changes.

A change of exposure is a line that the levels of the whole picture follow; it is no change of the
scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray, FloatArray
from framegate.models.gate.cells import Grid, contrasts
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import ByteArray

_EVERY: Final = 6  # every 6th cell in both directions is enough to fit two numbers
_VISIBLE: Final = 2  # levels; a smaller difference needs no compensation
_FEW: Final = 0.1  # share of cells with a visible difference, below which nothing is fitted
_ROUNDS: Final = 3
_LEAST_RESIDUAL: Final = 2.0  # levels; a cell within this distance is never trimmed
_TRIM: Final = 2.5 * 1.4826  # factor of the median residual: 2.5 sd of Gaussian noise
_FOLLOW: Final = 4.0  # levels; a cell within this distance follows the line
_MIN_FOLLOWERS: Final = 0.5  # share of cells that must follow the line
_NO_SHIFT: Final = 0.75  # levels; a smaller shift counts as none
_NO_GAIN: Final = 0.02  # a smaller change of contrast counts as none
_FLAT: Final = 10.0  # levels of standard deviation below which the gain cannot be measured
_GREY: Final = 128.0  # level of Cb and Cr without colour


@dataclass(frozen=True, slots=True)
class Exposure:
    """A level r of the reference became `level + shift + gain * (r - level)`.

    gain   contrast relative to the reference
    shift  change of the mean level
    level  mean level of the reference, 0..255
    """

    gain: float = 1.0
    shift: float = 0.0
    level: float = 0.0

    @property
    def same(self) -> bool:
        """True if the exposure did not change."""
        return self.gain == 1 and self.shift == 0

    @property
    def inverse(self) -> Exposure:
        """The exposure that maps current levels back to those of the reference."""
        return Exposure(1 / self.gain, -self.shift, self.level + self.shift)

    def apply(self, levels: ByteArray, grid: Grid) -> ByteArray:
        """Return the cell levels, uint8 (grid.cells,), at this exposure.

        The shift does not apply to Cb and Cr. The rounding error is at most half a level; levels
        outside 0..255 are clipped.
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
    """Return the exposure that most cells follow, or SAME if it is negligible or few follow it.

    reference, now  uint8 (rows, columns)  means of Y
    apart           the same shape, `distance` between the two

    Each round fits a line through the cells near the line of the round before; the first line is a
    plain shift (least trimmed squares, Rousseeuw 1984). So a change in less than half of the
    picture does not influence the line.
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
    if np.count_nonzero(residual < _FOLLOW) < _MIN_FOLLOWERS * old.size:
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
    """Return whether mean and spread hardly changed. This is much cheaper than a fit."""
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
    """Return the gain, the mean of `old` and the mean of `new` over the kept cells.

    The gain is the ratio of the spreads (reduced major axis), because least squares would take
    noise in the old levels for a loss of contrast. A flat picture has gain 1.
    """
    mask = kept.view(np.uint8)
    old_means, old_spreads = cv2.meanStdDev(old, mask=mask)
    new_means, new_spreads = cv2.meanStdDev(new, mask=mask)
    gain = 1.0
    if float(old_spreads[0, 0]) >= _FLAT:
        gain = float(new_spreads[0, 0]) / float(old_spreads[0, 0])
    return gain, float(old_means[0, 0]), float(new_means[0, 0])


def distance(a: ByteArray, b: ByteArray) -> ByteArray:
    """Return the absolute differences of the levels."""
    out = np.empty_like(a)
    cv2.absdiff(a, b, out)
    return out


_TEXTURED: Final = 2.0  # factor of a tile's bound: with more contrast, motion changes the tile
_ENOUGH: Final = 0.12  # share of all tiles below which a kind of tile is too rare to decide
_MAX_LOOKS: Final = 250  # counters of looks saturate here


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """The motion of a camera after a look.

    moving    the camera or its focus moves
    restless  looks in a row in which most of the textured tiles had changed, saturating
    restful   looks in a row in which few of them had changed, saturating
    noisy     the flat tiles had changed as well, so the whole picture is noisy
    """

    moving: bool = False
    restless: int = 0
    restful: int = 0
    noisy: bool = False


STILL: Final = CameraMotion()


def watch(
    motion: CameraMotion,
    changed: BoolArray | None,
    reference: ByteArray,
    now: ByteArray,
    bound: FloatArray,
    watched: BoolArray | None,
    settings: GateSettings,
) -> CameraMotion:
    """Return the motion after one more look.

    changed    bool (tile_rows, tile_columns)  tiles over their threshold; None: none
    reference  uint8 (rows, columns)  reference of the cells of Y
    now        uint8 (rows, columns)  cells of Y
    bound      float32 (tile_rows, tile_columns)  stated bound of each tile for Y, in levels
    watched    bool (tile_rows, tile_columns)  tiles that count; None: all

    Flat areas such as sky and road hide motion, so only tiles that are textured before and after
    count. A large object in front of a still camera leaves most of these unchanged, and where it
    passes over a flat area, its texture appears or disappears. If few tiles are of a kind, all
    tiles count.
    """
    moved_share = 0.0
    noise_share = 0.0
    if changed is not None and np.count_nonzero(changed) > _few(changed, watched, settings):
        contrast = np.minimum(contrasts(reference), contrasts(now))
        textured = contrast >= _TEXTURED * bound
        if watched is None:
            watched = np.ones_like(changed)
        moved_share = _share(changed, watched & textured, watched)
        noise_share = _share(changed, watched & ~textured, watched)
    restless = _counted(motion.restless, moved_share >= settings.moving_share)
    restful = _counted(motion.restful, moved_share <= settings.still_share)
    if motion.moving:
        is_moving = restful < settings.still_looks
    else:
        is_moving = restless >= settings.moving_looks
    return CameraMotion(is_moving, restless, restful, noise_share >= settings.noisy_share)


def _few(changed: BoolArray, watched: BoolArray | None, settings: GateSettings) -> float:
    """Return a number of changed tiles with which no share can reach any limit."""
    counted = changed.size
    if watched is not None:
        counted = int(watched.sum())
    kind = min(_ENOUGH * changed.size, counted)
    return kind * min(settings.still_share, settings.moving_share, settings.noisy_share)


def _share(changed: BoolArray, kind: BoolArray, every: BoolArray) -> float:
    """Return the changed share of the tiles of a kind, or of all tiles if the kind is rare."""
    if np.count_nonzero(kind) < _ENOUGH * kind.size:
        kind = every
    count = int(np.count_nonzero(kind))
    return int(np.count_nonzero(changed & kind)) / max(1, count)


def _counted(looks: int, is_on: bool) -> int:
    if not is_on:
        return 0
    return min(looks + 1, _MAX_LOOKS)
