"""A length of time, as users write it: 90s, 15m, 1h or 2d."""

from __future__ import annotations

import re
from typing import Final

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_s(text: str) -> float:
    """Return the seconds of a duration such as 90s, 15m, 1h or 2d. Raise ValueError for others."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if match is None:
        raise ValueError(f"must be a duration, such as 90s, 15m, 1h or 1d, got {text[:40]!r}")
    return float(match[1]) * _UNITS_S[match[2]]
