"""Detection: plan the parts of a frame to look at, run the network, and track the objects."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framegate.stages.detect.stage import Detect

__all__ = ["Detect"]


def __getattr__(name: str) -> Any:
    """Load the stage when it is first used: a configuration reads only its options."""
    if name != "Detect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("framegate.stages.detect.stage").Detect
