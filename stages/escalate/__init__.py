"""Escalation: doubt about a frame, queries to the heavy pass, and corrections by its answers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framegate.stages.escalate.stage import Escalate

__all__ = ["Escalate"]


def __getattr__(name: str) -> Any:
    """Load the stage when it is first used: a configuration reads only its options."""
    if name != "Escalate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("framegate.stages.escalate.stage").Escalate
