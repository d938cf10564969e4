"""Sounds in a window of sound: log-mel, which windows need a look, and the network (YAMNet).

The input of the network is computed as YAMNet was trained (Gemmeke et al., "Audio Set", ICASSP
2017; Hershey et al., "CNN architectures for large-scale audio classification", ICASSP 2017): frames
of 25 ms every 10 ms under a Hann window, the magnitudes of their spectrum in 64 bands of the mel
scale (HTK's formula) from 125 to 7500 Hz, and the logarithm of these.

The gate in front of the network is pure, and what it may miss has a bound. A window passes as quiet
only if no tenth of a second of it is louder than the stated level. It passes as unchanged only if,
in each of 16 groups of four bands and in each quarter of it, neither the mean nor the loudest
hundredth of a second differs by 6 dB or more from the window at which the network last looked, and
if that look is at most `most_age_s` old.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import msgspec
import numpy as np
from scipy.sparse import csr_array

from framegate.models.boxes import AnyArray, FloatArray, read_only
from framegate.models.detector import network
from framegate.models.errors import ArrayMismatch
from framegate.models.weights import FOLDER

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


Passed = Literal["quiet", "unchanged"]
_GROUPS, _QUARTERS = 16, 4
_PART: Final = RATE // 10
_CHANGE: Final = 6.0 / (20.0 / math.log(10.0))  # 6 dB in the natural logarithm of a magnitude
_SILENCE_DB: Final = -120.0


@dataclass(frozen=True, slots=True)
class SoundGateSettings:
    """When a window passes; the module says how.

    quiet_db    decibels of full scale, a square wave of 1: with nothing louder it is quiet
    most_age_s  seconds of the media for which the network's last look holds
    """

    quiet_db: float
    most_age_s: float


class SoundReference(msgspec.Struct, frozen=True, array_like=True):
    """How it sounded when the network last looked.

    profile   of `profile`, float32 bytes (2, 16): mean and loudest over the whole window
    at_s      end of that window, seconds of the media
    """

    profile: bytes
    at_s: float


def level_db(samples: FloatArray) -> float:
    """Decibels of the loudest tenth of a second, by its mean square; -120 at least."""
    whole = len(samples) // _PART * _PART
    parts = [*samples[:whole].reshape(-1, _PART), samples[-_PART:]]
    power = max(float(np.dot(part, part)) / len(part) for part in parts)
    return max(_SILENCE_DB, 10 * math.log10(power)) if power else _SILENCE_DB


def passes(
    log_mel: FloatArray,
    level: float,
    ends_s: float,
    before: SoundReference | None,
    settings: SoundGateSettings,
) -> Passed | None:
    """Return why the network need not look; None: it is to.

    log_mel: float32 (96, 64); level: of `level_db`; ends_s: seconds of the media
    """
    if level <= settings.quiet_db:
        return "quiet"
    if before is None or not 0 <= ends_s - before.at_s <= settings.most_age_s:
        return None
    known = np.frombuffer(before.profile, np.float32).reshape(2, 1, _GROUPS)
    return "unchanged" if np.abs(_profile(log_mel) - known).max() < _CHANGE else None


def reference(log_mel: FloatArray, ends_s: float) -> SoundReference:
    """What later windows are held against, of one that the network looks at."""
    mean, loudest = _profile(log_mel)
    told = np.stack([mean.mean(axis=0), loudest.max(axis=0)]).astype(np.float32)
    return SoundReference(told.tobytes(), ends_s)


def _profile(log_mel: FloatArray) -> FloatArray:
    """Mean and loudest frame of each quarter: (2, 4, 16)."""
    grouped = log_mel.reshape(FRAMES, _GROUPS, BANDS // _GROUPS).mean(axis=2)
    quarters = grouped.reshape(_QUARTERS, FRAMES // _QUARTERS, _GROUPS)
    return np.stack([quarters.mean(axis=1), quarters.max(axis=1)])


_FILE: Final = "yamnet"


@cache
def labels() -> tuple[str, ...]:
    """Names of the 521 sounds of AudioSet that the network knows, in the order of its scores."""
    return tuple((FOLDER / f"{_FILE}-labels.txt").read_text().splitlines())


class SoundNetwork:
    """The network, compiled; `name` is what outputs carry.

    It computes in float32 and on one thread: in bf16, which OpenVINO would take where a CPU has it,
    scores are off by up to .59, and a second thread costs more than it helps.

    Same input, same bits. Thread rule: one thread at a time. Raises ModelUnreadable.
    """

    def __init__(self) -> None:
        path, sha256 = network.verified(_FILE)
        compiled = network.core().compile_model(path, "CPU", network.config("f32", 1))
        self._request = compiled.create_infer_request()
        self.name = f"{_FILE}-f32@{sha256[:8]}"

    def scores(self, log_mel: FloatArray) -> FloatArray:
        """Return float32 (521,), 0 to 1, for a window's float32 (96, 64) of `log_mel`.

        They do not exclude each other: a dog is an animal, too. ArrayMismatch.
        """
        patch = read_only("log_mel", log_mel, np.float32, (FRAMES, BANDS))
        found = self._request.infer({"log_mel": patch[None]}, share_inputs=True)
        return read_only("scores", found[0][0].copy(), np.float32, (len(labels()),))
