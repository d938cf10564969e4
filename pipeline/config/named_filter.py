"""Read the keys of a filter that a user adds to a run, by command or over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framegate.pipeline.config.read_options import read_options
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.object_filters import NamedFilter, ObjectFilter


def named_filter(name: str, table: Mapping[str, Any]) -> NamedFilter:
    """Return the filter with the keys of a table `[filters.NAME]`. ConfigFaults with all faults."""
    faults: list[str] = []
    new = read_options(ObjectFilter, dict(table), f"filters.{name[:32]}.", faults)
    if new is None:
        raise ConfigFaults(faults)
    values: dict[str, Any] = vars(new)
    return NamedFilter(**values, name=name)
