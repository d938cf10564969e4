"""`[cache]` of pipeline.toml: what detect remembers of the network's answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from framegate.pipeline.keys import NAME_RULE, is_name


def groups_fault(groups: Any) -> str | None:
    """What is wrong with `[cache.groups]`, None if nothing is."""
    for source, group in groups.items():
        if not isinstance(group, str) or not is_name(group):
            return f"{source}: allowed is the name of a group: {NAME_RULE}"
    return None


@dataclass(frozen=True)
class CacheOptions:
    """The table `[cache]`.

    exact   whether an input that the network has seen is answered without it: same bits
    ttl_s   for which anything is kept
    bytes   of the store's memory that a group takes at most
    groups  source -> group; sources of one group share answers, also over hosts. Without one a
            source's group has its own name
    """

    exact: bool = True
    ttl_s: float = field(default=86400.0, metadata={"least": 1.0, "most": 2592000.0})
    bytes: int = field(default=16777216, metadata={"least": 0})
    groups: dict[str, Any] = field(default_factory=dict, metadata={"check": groups_fault})
