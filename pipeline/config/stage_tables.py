"""The tables of pipeline.toml that concern stages: `[stages.NAME]`, and those that a stage owns.

A stage may own a table at the top of the file: a field of its options, a dataclass, with `table`
in its metadata. `[gate]` is such a table of detect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.config.options import read_options
from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.loading import load

Table = dict[str, Any]


@dataclass(frozen=True)
class _StageTable:
    use: str
    input: str | None = None
    on_lag: Literal["drop", "wait"] = "drop"


def read_stages(tables: Table, engine: Sequence[str], faults: list[str]) -> list[StageEntry] | None:
    """The stages; what is wrong with them is appended to `faults`, then the answer is None.

    A table that is neither the engine's nor any stage's is a fault, too.
    """
    before = len(faults)
    entries = []
    owned: set[str] = set()
    all_loaded = True
    for name, entry in tables.get("stages", {}).items():
        if not isinstance(entry, dict):
            faults.append(f"stages.{name} = {entry!r}: must be a table with use and input")
            continue
        found = _loaded(name, entry, faults)
        if found is None:
            all_loaded = False
            continue
        table, kind = found
        owned |= own_tables(kind.Options).keys()
        read = _read_stage(name, entry, tables, (table, kind), faults)
        if read is not None:
            entries.append(read)
    known = {*engine, *owned}
    unknown = [key for key in tables if key not in known] if all_loaded else []
    allowed = ", ".join([*engine, *sorted(owned)])
    faults += [f"{key}: unknown table; allowed are {allowed}" for key in unknown]
    return entries if len(faults) == before else None


def own_tables(options: type) -> dict[str, Any]:
    """The top-level tables that these options name as theirs: what each holds."""
    hints = get_type_hints(options)
    fields = dataclasses.fields(options)
    return {field.name: hints[field.name] for field in fields if field.metadata.get("table")}


def _loaded(name: str, entry: Table, faults: list[str]) -> tuple[_StageTable, Any] | None:
    """What every stage's table says, and its class."""
    path = f"stages.{name}."
    if isinstance(entry.get("input"), list):
        faults.append(f"{path}input = {entry['input']!r}: a stage has exactly one input")
        return None
    said = {key: value for key, value in entry.items() if key in ("use", "input", "on_lag")}
    read = read_options(_StageTable, said, path, faults)
    if read is None:
        return None
    try:
        kind = load(read.use)
    except ConfigFaults as unknown:
        faults += [f"{path}{fault}" for fault in unknown.faults]
        return None
    if not dataclasses.is_dataclass(getattr(kind, "Options", None)):
        faults.append(f"{path}use = {read.use!r}: it is no stage (framegate.pipeline.stage.Stage)")
        return None
    return read, kind


def _read_stage(
    name: str, entry: Table, tables: Table, found: tuple[_StageTable, Any], faults: list[str]
) -> StageEntry | None:
    read, kind = found
    path = f"stages.{name}."
    own = own_tables(kind.Options)
    options = {key: v for key, v in entry.items() if key not in ("use", "input", "on_lag")}
    before = len(faults)
    faults += [
        f"{path}{key}: unknown key; it is a table of its own, [{key}]"
        for key in own
        if key in entry
    ]
    rest = {key: value for key, value in options.items() if key not in own}
    read_options(kind.Options, rest, path, faults)
    for key, holds in own.items():
        if isinstance(tables.get(key), dict):
            read_options(holds, tables[key], f"{key}.", faults)
            options[key] = tables[key]
    if len(faults) > before:
        return None
    return StageEntry(
        name=name,
        use=read.use,
        input=read.input,
        on_lag=read.on_lag,
        publishes=getattr(kind, "publishes", False),
        pixels=getattr(kind, "pixels", 0),
        options=options,
    )
