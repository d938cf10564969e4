"""What a sound network is given: how loud each band of hearing is, every hundredth of a second.

As YAMNet was trained (Gemmeke et al., "Audio Set", ICASSP 2017; Hershey et al., "CNN architectures
for large-scale audio classification", ICASSP 2017): frames of 25 ms every 10 ms under a Hann
window, the magnitudes of their spectrum gathered in 64 bands of the mel scale (HTK's formula) from
125 to 7500 Hz, and of that the logarithm.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from scipy.sparse import csr_array

from framegate.models.boxes import AnyArray, FloatArray
from framegate.models.errors import ArrayMismatch

RATE: Final = 16_000
WINDOW: Final = 15_600
"""Samples of a window: .975 s, that is 96 frames."""
FRAMES, BANDS = 96, 64
_STEP: Final = 160
_FRAME: Final = 400
_FFT: Final = 512
_LOWEST_HZ: Final = 125.0
_HIGHEST_HZ: Final = 7500.0
_FLOOR: Final = np.float32(1e-3)


def log_mel(samples: AnyArray) -> FloatArray:
    """Return float32 (96, 64), row by row in time, of a window of float32 (15600,) at 16 kHz.

    Samples are -1 to 1; silence gives log(.001). ArrayMismatch for another shape or dtype.
    """
    if samples.shape != (WINDOW,) or samples.dtype != np.float32:
        raise ArrayMismatch(
            "samples", f"float32 ({WINDOW},)", f"{samples.dtype} {tuple(samples.shape)}"
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_STEP]
    magnitudes = np.abs(np.fft.rfft(frames * _hann(), _FFT)).astype(np.float32)
    # By a product of sparse matrices: a dense one would wake as many threads as there are cores.
    return np.asarray(np.log((_sparse_bands() @ magnitudes.T).T + _FLOOR), np.float32, order="C")


@cache
def _hann() -> FloatArray:
    """Periodic, as of a window that is one of many."""
    angles = 2 * np.pi * np.arange(_FRAME) / _FRAME
    return np.asarray(0.5 - 0.5 * np.cos(angles), np.float32)


@cache
def _bands() -> FloatArray:
    """Weights (257, 64) of triangles that stand evenly on the mel scale, each up to the middle of
    its neighbours. The spectrum's constant part is in none.
    """
    mel = _mel(np.linspace(0.0, RATE / 2, _FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(np.array(_LOWEST_HZ)), _mel(np.array(_HIGHEST_HZ)), BANDS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel - low) / (middle - low), (high - mel) / (high - middle)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return np.asarray(weights, np.float32)


@cache
def _sparse_bands() -> csr_array:
    return csr_array(_bands().T)


def _mel(hertz: AnyArray) -> AnyArray:
    return np.asarray(1127.0 * np.log1p(hertz / 700.0))
