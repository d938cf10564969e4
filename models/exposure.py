"""How the exposure changed: what levels of a reference became, as one line through all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.picture import ByteArray

_EVERY: Final = 4  # cells, in both directions: enough for two numbers
_VISIBLE: Final = 2  # levels; a difference below is no reason to compensate
_FEW: Final = 0.1  # share of cells with a visible difference up to which nothing is fitted
_ROUNDS: Final = 3
_LEAST_RESIDUAL: Final = 2.0  # levels within which a cell always follows the line
_TRIM: Final = 2.5 * 1.4826  # times the median residual: 2.5 sd of Gaussian noise
_MOST_FOLLOW: Final = 0.5  # share of cells that must follow the line
_NO_SHIFT: Final = 0.75  # levels
_NO_GAIN: Final = 0.02
_GREY: Final = 128.0  # level of Cb and Cr without colour


@dataclass(frozen=True, slots=True)
class Exposure:
    """Reference levels r became `level + shift + gain * (r - level)`.

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


SAME: Final = Exposure()


def fit(reference: ByteArray, luma: ByteArray) -> Exposure:
    """The line that most cells follow; SAME where it is too near to that, or few follow any line.

    reference, luma  uint8 (rows, columns), means of Y then and now

    Least squares over the cells that followed the line of the round before (least trimmed squares,
    Rousseeuw 1984, with concentration steps): what covers less than half of the picture does not
    bend it much.
    """
    then, now = reference[::_EVERY, ::_EVERY], luma[::_EVERY, ::_EVERY]
    step = now.astype(np.float32) - then
    if np.count_nonzero(np.abs(step) >= _VISIBLE) <= _FEW * step.size:
        return SAME
    old = then.astype(np.float32).ravel()
    new = now.astype(np.float32).ravel()
    gain, level, mean = 1.0, 0.0, float(np.median(step))
    kept = np.ones(old.shape, np.bool_)
    for _ in range(_ROUNDS):
        residual = np.abs(new - mean - gain * (old - level))
        kept = residual < max(_LEAST_RESIDUAL, _TRIM * float(np.median(residual)))
        gain, level, mean = _line(old[kept], new[kept])
    residual = np.abs(new - mean - gain * (old - level))
    if np.count_nonzero(residual < 2 * _LEAST_RESIDUAL) < _MOST_FOLLOW * old.size:
        return SAME
    if abs(gain - 1) < _NO_GAIN:
        gain = 1.0
    shift = mean - level
    if abs(shift) < _NO_SHIFT:
        shift = 0.0
    return Exposure(gain, shift, level)


def tables(exposure: Exposure) -> tuple[ByteArray, ByteArray]:
    """What each level became: uint8 (256,) for Y; for Cb and Cr, without the shift."""
    levels = np.arange(256, dtype=np.float64)
    luma = exposure.level + exposure.shift + exposure.gain * (levels - exposure.level)
    colour = _GREY + exposure.gain * (levels - _GREY)
    return _bytes(luma), _bytes(colour)


def _bytes(levels: npt.NDArray[np.floating]) -> ByteArray:
    rounded: ByteArray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return rounded


def _line(old: npt.NDArray[np.float32], new: npt.NDArray[np.float32]) -> tuple[float, float, float]:
    """Least squares: gain, mean of old, mean of new."""
    level, mean = float(old.mean()), float(new.mean())
    centred = old - level
    spread = float(centred @ centred)
    gain = float(centred @ (new - mean)) / spread if spread > 1 else 1.0
    return gain, level, mean
