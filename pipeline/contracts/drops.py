"""Name and count the dropped frames of a live source: the reasons, their counters, their totals.

`ingest/frame_queue` decides which frames are dropped. `ingest/feed` adds `drop_counters` to the
counters of the source, in the commit of the next frame or of the lost connection. A dropped frame
counts as decoded, too: at the end of a run, decoded = published + dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

DROPPED: Final = "dropped:"  # begins the names of the counters, which end with the reason
REPLACED: Final = f"{DROPPED}replaced"  # a newer frame took the place: the pipeline was behind
BURST: Final = f"{DROPPED}burst"  # more frames arrived at once than may wait


class Drops(NamedTuple):
    """The number of dropped frames; `burst` of them exceeded the queue's bound in a burst."""

    dropped: int = 0
    burst: int = 0


NO_DROPS: Final = Drops()


def drop_counters(drops: Drops) -> dict[str, int]:
    """Return the growth of the counters in the store."""
    replaced = drops.dropped - drops.burst
    return {"decoded": drops.dropped, REPLACED: replaced, BURST: drops.burst}


def drops_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the dropped frames of a source by reason, from its counters."""
    names = [name for name in counters if name.startswith(DROPPED)]
    return {name.removeprefix(DROPPED): counters[name] for name in names}
