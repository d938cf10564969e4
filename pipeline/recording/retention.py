"""Remove recordings by age, by their total size, and for free space on the disk.

Clips have their own limit of age, which never makes them go before other recordings. Size and
space are taken from the source with the most bytes (`gives_way`), so no source takes, at any rate
or clock, space from a source with less. Of that source the oldest unpinned file goes first, then
those pinned by detections, and last those pinned by alerts.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.index import Cause, Index

_AT_ONCE: Final = 64
_DAY_S: Final = 86400.0
_KINDS: Final = (0, 1, 2)
_AGAIN_S: Final = 60.0  # after a removal that freed too little space
_waits_until: Final[dict[Path, float]] = {}  # monotonic seconds, by folder of recordings


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
    longest_days = max(spec.days, spec.pinned_days)
    for kind in _KINDS:
        days = longest_days if kind else spec.days
        while old := index.older(kind, now - days * _DAY_S, _AT_ONCE):
            index.remove(old, "age")
    index.forget_before(now - longest_days * _DAY_S)
    excess = sum(index.nbytes().values()) + room - spec.bytes
    fits = _remove(index, source, room, excess, "bytes")
    return fits and _make_space(index, spec, source, room)


def _make_space(index: Index, spec: RecordSpec, source: str, room: int) -> bool:
    """Remove as many bytes as the disk lacks; return whether that made them free.

    Snapshots, other links, and open files keep the space of a removed file, and some file systems
    free it late. So this never removes more than is lacking, and after a removal that freed too
    little, it waits before the next one. Otherwise one full disk would cost all recordings.
    """
    needed = spec.free_bytes + room
    lacking = needed - free_bytes(index)
    if lacking <= 0:
        return True
    if time.monotonic() < _waits_until.get(index.folder, -math.inf):
        return False
    if not _remove(index, source, room, lacking, "space"):
        return False
    if free_bytes(index) < needed:
        os.sync()  # ZFS and Btrfs free the space of removed files with their next transaction
    is_free = free_bytes(index) >= needed
    if not is_free:
        _waits_until[index.folder] = time.monotonic() + _AGAIN_S
    return is_free


def _remove(index: Index, source: str, room: int, nbytes: int, cause: Cause) -> bool:
    """Remove files of at least `nbytes`, for `room` bytes of `source`; return False if there are
    too few.
    """
    while nbytes > 0:
        loser = gives_way(index.nbytes(), source, room)
        going = None if loser is None else index.oldest(loser)
        if going is None:
            return False
        index.remove([going], cause)
        nbytes -= going.nbytes
    return True


def free_bytes(index: Index) -> int:
    """Return the free bytes of the recordings' disk."""
    disk = os.statvfs(index.folder)
    return disk.f_bavail * disk.f_frsize
