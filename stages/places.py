"""Where escalate asks, as `[escalate]` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.questions import Place
from stages.escalate_options import EscalateOptions
from stages.heavy_local import LocalHeavy


class HeavyPlace(Place, Protocol):
    """A place with the heavy pass.

    policy_id  hash of what it counts as truth
    is_exact   whether every answer is about the frame's own pixels
    """

    policy_id: str
    is_exact: bool


def open_place(options: EscalateOptions, classes: Sequence[str] | None) -> HeavyPlace | None:
    """The place; None if there is none."""
    if options.place == "off":
        return None
    return LocalHeavy(classes)
