"""The context of a stage that runs without a store and a supervisor."""

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
    """Return a Context whose state planes and rings belong to this process alone.

    others  fields of Context that replace the defaults. Without `asks`, a stage that asks a heavier
            model raises StageRefused when it starts.
    """
    defaults: dict[str, Any] = {
        "plane": functools.cache(unshared_plane),
        "ring": functools.cache(unshared_ring),
        "asks": _refuse_to_ask,
        "user_cache": user_cache(),
    }
    return Context(pixels, now, folder, before, **(defaults | others))


def _refuse_to_ask(place: PlaceSpec, patience_s: float) -> AskPort:
    raise StageRefused(
        f"{place} cannot be asked (patience {patience_s:g} s): this stage runs without a pipeline; "
        "pass `asks`"
    )
