"""A configuration with another value in the place of a table or key is refused, never an error."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "docs" / "pipeline.schema.json").read_text(encoding="utf-8")
)
VALUES = ("3", '"x"', "[1]", "[{ a = 1 }]", "{ a = 1 }", "nan", "2026-01-01")


def paths(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the paths of tables and keys, down to the keys of named tables."""
    tables = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        tables["named"] = schema["additionalProperties"]
    for key, inner in tables.items():
        yield above + key
        if above.count(".") < 2:
            yield from paths(inner, f"{above}{key}.")


@pytest.mark.parametrize("value", VALUES)
def test_any_value_in_any_place_is_accepted_or_a_fault(value: str) -> None:
    places = list(paths(SCHEMA))
    assert {"events", "events.rules", "stages.named.use", "sinks.named.url"} <= set(places)
    for path in places:
        with contextlib.suppress(ConfigFaults):
            read_config("pipeline.toml", f"{path} = {value}\n")
