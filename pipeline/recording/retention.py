"""What of the recordings goes, and when: by age, by bytes, for room on the disk.

Age looks at each kind by its own limit. Bytes and room are taken from the source that has the most
(`gives_way`): so no source, however much it sends or whatever its clock shows, takes anything from
one that has less. Of that source, in this order, the oldest first: what no episode pins, then what
detections pin, then what alerts pin.
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
    """Return the source whose oldest file goes, so that another one has room; None if none is left.

    It is the one that exceeds its share by the most. Shares are equal, so that is the one that has
    the most bytes, the room counted that `source` wants; of equal ones, the first by name. What a
    source does not need of its share is left to the others.

    held    bytes by source
    source  asks for `room` bytes
    """
    wanted = {name: size + (room if name == source else 0) for name, size in held.items() if size}
    return min(wanted, key=lambda name: (-wanted[name], name), default=None)


def trim(index: Index, spec: RecordSpec, source: str, room: int) -> bool:
    """Remove what is too old, and as much as is needed for `room` more bytes of a source within
    the limits; False if they cannot be had.
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
    """Which limit `room` more bytes would break."""
    if sum(index.nbytes().values()) + room > spec.bytes:
        return "bytes"
    return "space" if free_bytes(index) - room < spec.free_bytes else None


def free_bytes(index: Index) -> int:
    """Bytes that are free on the disk of the recordings."""
    there = os.statvfs(index.folder)
    return there.f_bavail * there.f_frsize
