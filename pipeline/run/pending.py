"""Who has something to do: told from where the stages of a source stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framegate.pipeline.records import Position
from framegate.pipeline.spec import SourceSpec, StageSpec, low_water


def pending_stages(
    stages: Sequence[StageSpec], source: SourceSpec, at: Mapping[str, Position], decoded: bool
) -> set[str]:
    """Stages that have a frame of this source to work on; only those can be hung.

    at       where every stage stands
    decoded  whether nothing is left to decode

    A decoder that waits for its readers has nothing to do, be it for the last epoch's or this
    one's. One that waits for the source's own pace is in this set: its worker says so itself, in
    Pong. A camera's is never: its frames may come or not.
    """
    pending = {s.name for s in stages if s.input is not None and at[s.name] < at[s.input]}
    slowest = min(at[s.name] for s in stages if s.reliable)
    last = at["decode"]
    if (
        not (decoded or source.live)
        and slowest.epoch == last.epoch
        and last.seq - slowest.seq <= still_unread(source.credit)
    ):
        pending.add("decode")
    return pending


def still_unread(limit: int) -> int:
    """Frames that are still unread when a decoder whose credit was used up is woken."""
    return limit - 1 - low_water(limit)
