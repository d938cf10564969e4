"""Who has something to do: told from where the stages of a source stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.records import Position
from pipeline.spec import SourceSpec, StageSpec


def pending_stages(
    stages: Sequence[StageSpec], source: SourceSpec, at: Mapping[str, Position], decoded: bool
) -> set[str]:
    """Stages that have a frame of this source to work on; only those can be hung.

    at       where every stage stands
    decoded  whether nothing is left to decode

    A decoder that waits for its readers, or for a frame to be due, has nothing to do.
    """
    pending = {s.name for s in stages if s.input is not None and at[s.name] < at[s.input]}
    slowest = min(at.values())
    room = at["decode"].seq - slowest.seq < source.credit // 2
    if not decoded and room and source.pace == "fast":
        pending.add("decode")
    return pending
