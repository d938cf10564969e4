"""How old what is known may get before it is looked at again."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import FloatArray
from framegate.models.gate.state import SHORTEST, age_limit
from framegate.stages.detect.gate_options import GateOptions
from framegate.stages.detect.memory import Memory

SecondsArray = npt.NDArray[np.float64]

_SOON: Final = 0.5  # of the age at which a look is due: it is cheaper together
_IN_DOUBT: Final = 0.04  # so near to the least score that is shown
_NONE: Final = np.empty((0, 4), np.float32)


def frame_is_due(memory: Memory, now_s: float, key: bytes, options: GateOptions) -> bool:
    """Whether the whole frame was not looked at for so long that it must be, now."""
    limit_s = age_limit(options.frame_age_s, key, (round(memory.whole_s * 1000),))
    return now_s - memory.whole_s >= limit_s


def aged(
    memory: Memory,
    now_s: float,
    key: bytes,
    options: GateOptions,
    shown: float,
    with_soon: bool = True,
) -> FloatArray:
    """Boxes (M, 4) that were not seen for too long; if any was not, those too that soon will be.

    now_s  the source's clock; key  of the source; shown  0..1, least score of what is shown
    """
    if _all_fresh(memory, now_s, SHORTEST * options.object_age_s):
        return _NONE
    ages, most = _ages(memory, now_s, options, shown)
    if not (ages >= SHORTEST * most).any():
        return _NONE
    believed = memory.believed
    seen_ms, tracks = np.rint(believed.seen_s * 1000).astype(int).tolist(), believed.ids.tolist()
    limits = np.array(
        [
            age_limit(limit, key, (seen, track)) if math.isfinite(limit) else limit
            for limit, seen, track in zip(most.tolist(), seen_ms, tracks, strict=True)
        ]
    )
    # What may be as old as the frame is seen with it.
    limits = np.where(most < options.frame_age_s, limits, most)
    if not (ages >= limits).any():
        return _NONE
    limits = np.minimum(limits, _SOON * most) if with_soon else limits
    old: FloatArray = believed.boxes.xyxy[ages >= limits]
    return old


def any_too_old(memory: Memory, now_s: float, options: GateOptions, shown: float) -> bool:
    """Whether something was not seen for as long as it may be: then nothing waits."""
    if _all_fresh(memory, now_s, options.object_age_s):
        return False
    ages, most = _ages(memory, now_s, options, shown)
    return bool((ages >= most).any())


def _all_fresh(memory: Memory, now_s: float, age_s: float) -> bool:
    """Whether everything was looked at within the shortest age: then no ages are compared."""
    return bool(now_s - memory.believed.seen_s.min(initial=now_s) < age_s)


def _ages(
    memory: Memory, now_s: float, options: GateOptions, shown: float
) -> tuple[SecondsArray, SecondsArray]:
    """Of each believed box, seconds since it was looked at, and the most that may be.

    What was found where it is for some time is trusted for as long again, so the time between two
    looks at what stands still doubles; but not where its score leaves in doubt whether it is shown.
    For what is surely not shown there is no limit.
    """
    believed = memory.believed
    is_shown = believed.means > 0
    margin = np.where(is_shown, believed.means, believed.boxes.scores) - np.float32(shown)
    longest = max(options.object_age_s, options.still_age_s)
    most = np.clip(believed.seen_s - believed.since_s, options.object_age_s, longest)
    most[np.abs(margin) < _IN_DOUBT] = options.object_age_s
    most[~is_shown & (margin <= -_IN_DOUBT)] = np.inf
    return now_s - believed.seen_s, most
