"""Remove recordings by age, by their total size, and for free space on the disk.

Each kind of recording has its own limit of age. Size and space are taken from the source with the
most bytes (`gives_way`), so no source takes, at any rate or clock, space from a source with
less. Of that source the oldest unpinned file goes first, then those pinned by detections, and last
those pinned by alerts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.index import Cause, Index

_AT_ONCE: Final = 64
_DAY_S: Final = 86400.0
_KINDS: Final = (0, 1, 2)


def gives_way(held: Mapping[str, int], source: str, room: int) -> str | None:
    """Return the source whose oldest file makes room for `room` bytes of `source`, if any.

    All sources have equal shares, and unused parts of a share serve the others. So it is the source
    with the most bytes, counting `room` for `source`; of equal ones the first by name.

    held    bytes by source
    """
    wanted = {name: size for name, size in held.items() if size}
    if source in wanted:
        wanted[source] += room
    return min(wanted, key=lambda name: (-wanted[name], name), default=None)


def trim(index: Index, spec: RecordSpec, source: str, room: int) -> bool:
    """Remove files that are too old, and files until `room` more bytes of a source fit the limits.
    Return False if they do not fit.
    """
    now = index.now()
    for kind in _KINDS:
        days = spec.pinned_days if kind else spec.days
        while old := index.older(kind, now - days * _DAY_S, _AT_ONCE):
            index.remove(old, "age")
    index.forget_before(now - max(spec.days, spec.pinned_days) * _DAY_S)
    while (cause := _lacks(index, spec, room)) is not None:
        loser = gives_way(index.nbytes(), source, room)
        going = None if loser is None else index.oldest(loser)
        if going is None:
            return False
        index.remove([going], cause)
    return True


def _lacks(index: Index, spec: RecordSpec, room: int) -> Cause | None:
    """Return the limit that `room` more bytes would exceed."""
    if sum(index.nbytes().values()) + room > spec.bytes:
        return "bytes"
    return "space" if free_bytes(index) - room < spec.free_bytes else None


def free_bytes(index: Index) -> int:
    """Return the free bytes of the recordings' disk."""
    disk = os.statvfs(index.folder)
    return disk.f_bavail * disk.f_frsize
