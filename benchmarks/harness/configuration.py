"""pipeline.toml of a benchmark: the packaged one with changes, or with stand-ins for stages."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

Tables = Mapping[str, Mapping[str, Any]]  # keys and values of each table, by its dotted name

# For footage that is played over, or that several cameras show: the exact cache would answer what
# was seen before, which no real camera sends, and which no other program gets.
NO_EXACT_CACHE: Final[Tables] = MappingProxyType({"cache": {"exact": False}})


def packaged(changes: Tables) -> str:
    """Return the packaged pipeline.toml, with `changes` laid over its tables and new ones added."""
    text = files("framegate.pipeline.config").joinpath("pipeline.toml").read_text(encoding="utf-8")
    tables = dict(_tables(tomllib.loads(text)))
    for name, values in changes.items():
        tables[name] = {**tables.get(name, {}), **values}
    return toml(tables)


def with_stand_ins(sources: Tables, decode: Mapping[str, Any], detect: str) -> str:
    """Return a pipeline.toml of four stages, all else by default.

    sources  by name
    decode   its `use`, and its options
    detect   its `use`
    """
    stages: Tables = {
        "decode": decode,
        "detect": {"use": detect, "input": "decode"},
        "escalate": {"use": "framegate.stages.escalate:Escalate", "input": "detect"},
        "cache": {"use": "framegate.stages.publish:Publish", "input": "escalate"},
    }
    return toml({
        "log": {"level": "WARNING"},
        **{f"sources.{name}": values for name, values in sources.items()},
        **{f"stages.{name}": values for name, values in stages.items()},
    })  # fmt: skip


def toml(tables: Tables) -> str:
    """Return the text of tables of numbers, strings, truths and lists of these."""
    lines = []
    for name, values in tables.items():
        lines.append(f"[{name}]")
        # What JSON writes of such values is TOML as well.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _tables(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table that has values of its own, by its dotted name."""
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if values and path:
        yield path, values
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _tables(value, f"{path}.{key}" if path else key)
