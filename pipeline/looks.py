"""How frames were looked at, and why: counted in the hop that publishes them, read by all who tell.

The counter of a result is `looked:LOOKED:REASON`; both are closed lists, so there are few.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pipeline.records import Looked, Reason

PREFIX = "looked:"


class _Look(msgspec.Struct, frozen=True):
    looked: Looked
    reason: Reason


_decode = msgspec.msgpack.Decoder(_Look).decode


def look_counter(result: bytes) -> str | None:
    """The counter of a published result (msgpack); None for what a user's stage publishes."""
    try:
        look = _decode(result)
    except msgspec.ValidationError:
        return None
    return f"{PREFIX}{look.looked}:{look.reason}"


def looks_of(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Frames by how they were looked at, and by why."""
    found: dict[str, dict[str, int]] = {}
    for name, n in counters.items():
        if n and name.startswith(PREFIX):
            looked, _, reason = name.removeprefix(PREFIX).partition(":")
            found.setdefault(looked, {})[reason] = n
    return found


def share_looked(looks: Mapping[str, Mapping[str, int]]) -> float | None:
    """Share of frames, 0..1, that were looked at, whole or in part; None without frames."""
    frames = {looked: sum(reasons.values()) for looked, reasons in looks.items()}
    total = sum(frames.values())
    return 1 - frames.get("no", 0) / total if total else None
