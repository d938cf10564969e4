"""Label the sounds of a window: the log-mel input, the gate, and the network YAMNet.

The input is computed as in YAMNet's training (Gemmeke et al., "Audio Set", ICASSP 2017; Hershey et
al., "CNN architectures for large-scale audio classification", ICASSP 2017): frames of 25 ms every
10 ms under a Hann window, the magnitudes of their spectra in 64 mel bands (HTK's formula) from 125
to 7500 Hz, and the logarithm of these.

The gate in front of the network is a pure function with a stated bound. A window skips the network
as quiet only if no tenth of a second in it is louder than a stated level. It skips the network as
unchanged only if in each quarter of the window and each of 16 groups of four bands, the mean and
the loudest hundredth of a second differ by less than 6 dB from the window of the network's last
pass, and if that pass is at most `most_age_s` old.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np

from framegate.models.boxes import AnyArray, FloatArray, read_only
from framegate.models.detector import network
from framegate.models.errors import ArrayMismatch
from framegate.models.weights import FOLDER

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RATE: Final = 16_000
WINDOW: Final = 15_600
"""Samples of a window: 0.975 s, or 96 frames."""
FRAMES: Final = 96
BANDS: Final = 64
_STEP: Final = 160
_FRAME: Final = 400
_FFT: Final = 512
_LOWEST_HZ: Final = 125.0
_HIGHEST_HZ: Final = 7500.0
_FLOOR: Final = np.float32(1e-3)


def log_mel(samples: AnyArray) -> FloatArray:
    """Return the log-mel spectrogram of a window, float32 (96, 64): one row for each frame.

    samples  float32 (15600,)  samples at 16 kHz, -1..1; silence gives log(0.001)

    Raises ArrayMismatch for another shape or dtype.
    """
    if samples.shape != (WINDOW,) or samples.dtype != np.float32:
        raise ArrayMismatch(
            "samples", f"float32 ({WINDOW},)", f"{samples.dtype} {tuple(samples.shape)}"
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_STEP]
    magnitudes = np.abs(np.fft.rfft(frames * _hann(), _FFT)).astype(np.float32)
    # A dense product would wake one thread for each core; a sparse product uses one thread.
    return np.asarray(np.log((_sparse_bands() @ magnitudes.T).T + _FLOOR), np.float32, order="C")


@cache
def _hann() -> FloatArray:
    """Return the periodic Hann window, as in YAMNet's training."""
    angles = 2 * np.pi * np.arange(_FRAME) / _FRAME
    return np.asarray(0.5 - 0.5 * np.cos(angles), np.float32)


@cache
def _bands() -> FloatArray:
    """Return the mel filters, float32 (257, 64): triangles at even distances on the mel scale, each
    from the centre of one neighbour to that of the other. The constant part has no weight.
    """
    mel = _mel(np.linspace(0.0, RATE / 2, _FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(np.array(_LOWEST_HZ)), _mel(np.array(_HIGHEST_HZ)), BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (mel - low) / (centre - low)
    falling = (high - mel) / (high - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return np.asarray(weights, np.float32)


@cache
def _sparse_bands() -> csr_array:
    from scipy.sparse import csr_array  # its import takes 0.13 s, and few processes need it

    return csr_array(_bands().T)


def _mel(hertz: AnyArray) -> AnyArray:
    return np.asarray(1127.0 * np.log1p(hertz / 700.0))


Passed = Literal["quiet", "unchanged"]
_GROUPS: Final = 16
_QUARTERS: Final = 4
_PART: Final = RATE // 10
_CHANGE: Final = 6.0 / (20.0 / math.log(10.0))  # 6 dB in the natural logarithm of a magnitude
_SILENCE_DB: Final = -120.0


@dataclass(frozen=True, slots=True)
class SoundGateSettings:
    """The settings of the gate; see the module for its rule.

    quiet_db    decibels of full scale (a square wave of 1); a window that is nowhere louder is
                quiet
    most_age_s  seconds of media time for which the network's last pass stays valid
    """

    quiet_db: float
    most_age_s: float


class SoundReference(msgspec.Struct, frozen=True, array_like=True):
    """The sound at the network's last pass.

    profile  float32 (2, 16) as bytes: mean and loudest frame of the window for each group of bands
    at_s     end of that window, seconds of media time
    """

    profile: bytes
    at_s: float


def level_db(samples: FloatArray) -> float:
    """Return the decibels of the loudest tenth of a second, from its mean square, at least -120."""
    whole = len(samples) // _PART * _PART
    parts = [*samples[:whole].reshape(-1, _PART), samples[-_PART:]]
    power = max(float(np.dot(part, part)) / len(part) for part in parts)
    if not power:
        return _SILENCE_DB
    return max(_SILENCE_DB, 10 * math.log10(power))


def passes(
    log_mel: FloatArray,
    level: float,
    ends_s: float,
    before: SoundReference | None,
    settings: SoundGateSettings,
) -> Passed | None:
    """Return the reason why a window skips the network, or None if the network must process it.

    log_mel  float32 (96, 64)
    level    as `level_db` returns it
    ends_s   end of the window, seconds of media time
    before   the sound at the network's last pass
    """
    if level <= settings.quiet_db:
        return "quiet"
    if before is None or not 0 <= ends_s - before.at_s <= settings.most_age_s:
        return None
    known = np.frombuffer(before.profile, np.float32).reshape(2, 1, _GROUPS)
    if np.abs(_profile(log_mel) - known).max() < _CHANGE:
        return "unchanged"
    return None


def reference(log_mel: FloatArray, ends_s: float) -> SoundReference:
    """Return the reference for later windows from a window that the network processes."""
    mean, loudest = _profile(log_mel)
    profile = np.stack([mean.mean(axis=0), loudest.max(axis=0)]).astype(np.float32)
    return SoundReference(profile.tobytes(), ends_s)


def _profile(log_mel: FloatArray) -> FloatArray:
    """Return the mean and the loudest frame of each quarter and group of bands: (2, 4, 16)."""
    grouped = log_mel.reshape(FRAMES, _GROUPS, BANDS // _GROUPS).mean(axis=2)
    quarters = grouped.reshape(_QUARTERS, FRAMES // _QUARTERS, _GROUPS)
    return np.stack([quarters.mean(axis=1), quarters.max(axis=1)])


_FILE: Final = "yamnet"


@cache
def labels() -> tuple[str, ...]:
    """Return the names of the network's 521 AudioSet classes, in the order of its scores."""
    return tuple((FOLDER / f"{_FILE}-labels.txt").read_text(encoding="utf-8").splitlines())


class SoundNetwork:
    """The compiled network. The same input gives the same bits.

    name  name of the network in outputs

    It computes in float32 on one thread. OpenVINO's default on many CPUs, bf16, changes scores by
    up to 0.59, and a second thread costs more than it saves.

    Thread rule: one thread at a time. Raises ModelUnreadable.
    """

    def __init__(self) -> None:
        path, sha256 = network.verified(_FILE)
        compiled = network.core().compile_model(path, "CPU", network.config("f32", 1))
        self._request = compiled.create_infer_request()
        self.name = f"{_FILE}-f32@{sha256[:8]}"

    def scores(self, log_mel: FloatArray) -> FloatArray:
        """Return the score of each class, float32 (521,), 0..1. Several classes can apply at once.

        log_mel  float32 (96, 64)

        Raises ArrayMismatch.
        """
        patch = read_only("log_mel", log_mel, np.float32, (FRAMES, BANDS))
        outputs = self._request.infer({"log_mel": patch[None]}, share_inputs=True)
        return read_only("scores", outputs[0][0].copy(), np.float32, (len(labels()),))
