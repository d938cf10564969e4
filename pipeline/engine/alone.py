"""A stage without a run: what it may use where there is no store and no supervisor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from framegate.pipeline.contracts.errors import StageRefused
from framegate.pipeline.contracts.queries import PlaceSpec
from framegate.pipeline.contracts.stage import AskPort, Context, Item
from framegate.pipeline.shared_memory.state import unshared_plane, unshared_ring
from framegate.pipeline.system.machine import user_cache


def context_alone(
    pixels: Callable[[Item], AbstractContextManager[memoryview]],
    now: Callable[[], float],
    folder: Path,
    before: str,
    **others: Any,
) -> Context:
    """Return a Context whose planes and rings are of this process alone.

    others: fields of Context in place of those of a stage alone. Without `asks`, a stage that asks
    a heavier model is refused as it starts (StageRefused).
    """
    of_this_process: dict[str, Any] = {
        "plane": functools.cache(unshared_plane),
        "ring": functools.cache(unshared_ring),
        "asks": _nobody,
        "user_cache": user_cache(),
    }
    return Context(pixels, now, folder, before, **(of_this_process | others))


def _nobody(place: PlaceSpec, patience_s: float) -> AskPort:
    raise StageRefused(
        f"{place} cannot be asked for {patience_s:g} s: this stage runs alone; give `asks`"
    )
