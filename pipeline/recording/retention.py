"""What of the recordings goes, and when: by age, by bytes, for room on the disk.

In this order, the oldest first: what no episode pins, then what detections pin, then what alerts
pin. Age looks at each by its own limit; bytes and room take from the first kind as long as there is
any of it.
"""

from __future__ import annotations

import os
from typing import Final

from framegate.pipeline.recording.index import Cause, Index
from framegate.pipeline.spec import RecordSpec

_AT_ONCE: Final = 64
_DAY_S: Final = 86400.0
_KINDS: Final = (0, 1, 2)


def trim(index: Index, spec: RecordSpec, now: float, room: int) -> bool:
    """Remove what is too old, and as much as is needed for `room` more bytes within the limits;
    False if they cannot be had. now: UNIX seconds.
    """
    for kind in _KINDS:
        days = spec.pinned_days if kind else spec.days
        while old := index.oldest(kind, now - days * _DAY_S, _AT_ONCE):
            index.remove(old, "age")
    while (cause := _lacks(index, spec, room)) is not None:
        going = next((old for kind in _KINDS if (old := index.oldest(kind, None, 1))), None)
        if going is None:
            return False
        index.remove(going, cause)
    return True


def _lacks(index: Index, spec: RecordSpec, room: int) -> Cause | None:
    """Which limit `room` more bytes would break."""
    if index.nbytes() + room > spec.bytes:
        return "bytes"
    return "space" if free_bytes(index) - room < spec.free_bytes else None


def free_bytes(index: Index) -> int:
    """Bytes that are free on the disk of the recordings."""
    there = os.statvfs(index.folder)
    return there.f_bavail * there.f_frsize
