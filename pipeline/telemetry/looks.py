"""How frames were looked at, and why: counted in the hop that publishes them, read by all who tell.

The counters of a result are `looked:LOOKED:REASON` and, where the heavy model was to be asked,
`escalated:done` or `escalated:WHY NOT`; all are closed lists, so there are few.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from framegate.pipeline.records import DegradedReason, Escalation, Looked, Reason

PREFIX = "looked:"
ESCALATED = "escalated:"


class _Look(msgspec.Struct, frozen=True):
    looked: Looked
    reason: Reason
    escalation: Escalation = "none"
    degraded: DegradedReason | None = None


_decode = msgspec.msgpack.Decoder(_Look).decode


def look_counters(result: bytes) -> tuple[str, ...]:
    """The counters of a published result (msgpack); none for what a user's stage publishes."""
    try:
        look = _decode(result)
    except msgspec.ValidationError:
        return ()
    looked = f"{PREFIX}{look.looked}:{look.reason}"
    if look.escalation == "none":
        return (looked,)
    return looked, f"{ESCALATED}{look.degraded or look.escalation}"


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


def escalations_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Frames that the heavy model was to be asked about: done, or by why it was not."""
    return {
        name.removeprefix(ESCALATED): n
        for name, n in counters.items()
        if name.startswith(ESCALATED)
    }
