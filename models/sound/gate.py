"""Whether a window of sound is worth a look: silence is none, and what sounds as before is known.

Pure. What it may miss has a bound. A window passes as quiet only if no tenth of a second of it is
louder than the stated level. It passes as unchanged only if, in each of 16 groups of four bands and
in each quarter of it, neither the mean nor the loudest hundredth of a second differs by 6 dB or
more from what they were when the network last looked, and that was at most `most_age_s` ago.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.sound.log_mel import BANDS, FRAMES, RATE

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
