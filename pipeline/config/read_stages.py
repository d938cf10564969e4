"""Read the stages of pipeline.toml: `[stages.NAME]`, and the tables that a stage owns.

A stage can own a table at the top level of the file. It is a field of the stage's options, a
dataclass with `table` in its metadata; `[gate]` is a table of detect. A file names only its
differences from the shipped graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_type_hints

from framegate.pipeline.config.graph import SHARD, StageEntry
from framegate.pipeline.config.read_options import read_options, with_variables
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.system.loading import load_declared
from framegate.pipeline.system.machine import cores

Table = dict[str, Any]

_BY_STAGE: Final[Mapping[str, list[str]]] = {
    "ingest": ["decode"],
    "infer": ["detect"],
    "publish": ["escalate", "windows", "cache"],
}
"""Workers without shards: each serves all sources."""


@dataclass(frozen=True)
class StageTable:
    """`[stages.NAME]`: keys of every stage, in addition to the options of its class.

    use     package.module:Class of the stage. The shipped stages have one by default
    input   stage whose outputs this stage reads; decode has none. Default for a stage of your own:
            the published results, or, if it uses pixels, the input of the stage that publishes
    on_lag  for a stage beside the main path that is too slow. drop: it can miss frames, and learns
            how many. wait: all other stages wait for it. files: files wait for it, and it can miss
            frames of cameras
    """

    use: str
    input: str | None = None
    on_lag: Literal["drop", "wait", "files"] = "drop"


_COMMON_KEYS: Final = ("use", "input", "on_lag")


def read_stages(tables: Table, engine: Sequence[str], faults: list[str]) -> list[StageEntry] | None:
    """Return the stages. If there are faults, append them and return None.

    A table that belongs to no stage and is not in `engine` is a fault, too.
    """
    before = len(faults)
    entries = []
    owned: set[str] = set()
    all_loaded = True
    stages = tables.get("stages", {})
    for name, entry in stages.items():
        if not isinstance(entry, dict):
            faults.append(f"stages.{name} = {entry!r}: must be a table, [stages.{name}]")
            continue
        others = [other for other in stages if other != name]
        loaded = _loaded(name, entry, others, faults)
        if loaded is None:
            all_loaded = False
            continue
        _, kind = loaded
        owned |= own_tables(kind.Options).keys()
        read = _read_stage(name, entry, tables, loaded, faults)
        if read is not None:
            entries.append(read)
    known = [*engine, *sorted(owned)]
    for key in tables:
        if key not in known:
            near = _similar_table(key, known, stages)
            if all_loaded or near:  # a class that could not be loaded may own it
                faults.append(f"{key}: unknown table; known tables are {', '.join(known)}{near}")
    if len(faults) > before:
        return None
    return entries


# Tables within another one, by the names that look like tables of their own.
_WITHIN: Final = {
    "areas": "events.areas",
    "lines": "events.lines",
    "masks": "privacy.masks",
    "profiles": "events.profiles",
    "rules": "events.rules",
}


def _similar_table(key: str, known: Sequence[str], stages: Table) -> str:
    if key in _WITHIN:
        return f"; did you mean {_WITHIN[key]}?"
    return did_you_mean(key, known) or did_you_mean(key, stages).replace("mean ", "mean stages.")


def stages_that(tables: Table, attribute: str) -> list[str]:
    """Return the stages whose class has this attribute set. Skip classes that cannot be loaded."""
    names = []
    for name, entry in tables.items():
        if not isinstance(entry, dict):
            continue
        with contextlib.suppress(ConfigFaults, AttributeError, KeyError):
            use = entry["use"]
            if isinstance(use, str) and getattr(load_declared(use), attribute):
                names.append(name)
    return names


# -- The shipped graph, completed with the tables of a file, which name only the differences


def over_shipped(given: Table, shipped: Table) -> Table:
    """Return the tables of a file, with its `stages` and `placement` completed by the shipped ones.

    A shipped stage is part of the graph if the file names it or another stage of the graph reads
    it. So a file leaves a stage out if the next stage reads the one before it. The shipped stage
    that publishes is there unless the file has another. Only `use` and `input` of a shipped stage
    come from here.

    A stage of the user without an input reads the published results. If it uses pixels or
    publishes, it reads the input of the shipped stage that publishes.

    Stages of the main path that the file does not place go to the shards. Their number is that of
    the file. Without a number it is one per core, or none if the file places a stage of the main
    path. Without shards, each worker of _BY_STAGE gets those of its stages that the file does not
    place.
    """
    named = given.get("stages", {})
    if not all(isinstance(entry, dict) for entry in named.values()):
        return given
    stages: Table = {}
    for name, entry in shipped["stages"].items():
        stages[name] = {key: value for key, value in entry.items() if key in ("use", "input")}
    (last,) = stages_that(stages, "publishes")
    stages |= {name: {**stages.get(name, {}), **entry} for name, entry in named.items()}
    publishers = [name for name in stages_that(stages, "publishes") if name != last] or [last]
    own = {name: entry for name, entry in named.items() if name not in shipped["stages"]}
    before_last = {*publishers, *stages_that(own, "pixels")}
    for name, entry in own.items():
        default_input = publishers[0]
        if name in before_last:
            default_input = stages[last]["input"]
        stages[name] = {"input": default_input, **entry}
    used = _with_inputs({*named, *publishers}, stages)
    stages = {name: entry for name, entry in stages.items() if name in used}
    main = _with_inputs({publishers[0]}, stages)
    workers = given.get("workers", {})
    placement = given.get("placement", {})
    if isinstance(workers, dict) and "shards" not in workers:
        shards = cores()
        if main & _placed(placement):
            shards = 0
        workers = {**workers, "shards": shards}
    hosted = _BY_STAGE
    if workers.get("shards"):
        hosted = {SHARD: [name for name in stages if name in main]}
    placed = _over_placed(placement, hosted, stages)
    return {**given, "stages": stages, "workers": workers, "placement": placed}


def _with_inputs(names: set[str], stages: Table) -> set[str]:
    """Return these stages and all that they read, directly or not."""
    chosen: set[str] = set()
    while names:
        chosen |= names
        inputs = {str(stages[name]["input"]) for name in names if "input" in stages[name]}
        names = inputs & stages.keys() - chosen
    return chosen


def _over_placed(given: Table, shipped: Mapping[str, list[str]], stages: Table) -> Table:
    """Return the workers of a file, and the shipped workers with the stages that remain.

    The worker with decode keeps only stages whose inputs it hosts.
    """
    placed_by_file = _placed(given)
    placed: dict[str, Any] = {}
    for worker, hosted in shipped.items():
        names = [name for name in hosted if name in stages and name not in placed_by_file]
        while "decode" in names:
            fed = [n for n in names if n == "decode" or stages[n].get("input") in names]
            if fed == names:
                break
            names = fed
        if names:
            placed[worker] = names
    return placed | given


def _placed(placement: Table) -> set[str]:
    """Return the stages that a table of workers names."""
    placed: set[str] = set()
    for names in placement.values():
        if isinstance(names, list):
            placed.update(map(str, names))
    return placed


def own_tables(options: type) -> dict[str, Any]:
    """Return the classes of the top-level tables that belong to these options, by name."""
    hints = get_type_hints(options)
    fields = dataclasses.fields(options)
    return {field.name: hints[field.name] for field in fields if field.metadata.get("table")}


def _loaded(
    name: str, entry: Table, others: Sequence[str], faults: list[str]
) -> tuple[StageTable, Any] | None:
    """Return the common keys of a stage's table, and its class; None after a fault."""
    path = f"stages.{name}."
    if isinstance(entry.get("input"), list):
        faults.append(f"{path}input = {entry['input']!r}: must be one stage")
        return None
    common = {key: value for key, value in entry.items() if key in _COMMON_KEYS}
    if "use" not in common:
        faults.append(
            f'{path}use: missing; a stage of your own needs use = "package.module:Class"'
            f"{did_you_mean(name, others)}"
        )
        return None
    read = read_options(StageTable, common, path, faults)
    if read is None:
        return None
    try:
        kind = load_declared(read.use)
    except ConfigFaults as unknown:
        faults += [f"{path}{fault}" for fault in unknown.faults]
        return None
    if not dataclasses.is_dataclass(getattr(kind, "Options", None)):
        faults.append(f"{path}use = {read.use!r}: not a subclass of framegate.Stage")
        return None
    return read, kind


def _read_stage(
    name: str, entry: Table, tables: Table, loaded: tuple[StageTable, Any], faults: list[str]
) -> StageEntry | None:
    read, kind = loaded
    path = f"stages.{name}."
    own = own_tables(kind.Options)
    options = {key: value for key, value in entry.items() if key not in _COMMON_KEYS}
    before = len(faults)
    faults += [
        f"{path}{key}: unknown key; [{key}] is a table at the top level"
        for key in own
        if key in entry
    ]
    rest = {key: value for key, value in options.items() if key not in own}
    options = with_variables(kind.Options, rest, path, faults)
    read_options(kind.Options, options, path, faults)
    for key, table_kind in own.items():
        if isinstance(tables.get(key), dict):
            options[key] = with_variables(table_kind, tables[key], f"{key}.", faults)
            read_options(table_kind, options[key], f"{key}.", faults)
    if own and len(faults) == before:  # faults between its tables
        read_options(kind.Options, options, "", faults)
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
        uses_models=getattr(kind, "uses_models", False),
        promises=getattr(kind, "promises", False),
        followed=getattr(kind, "followed", False),
        takes_undecoded=getattr(kind, "takes_undecoded", False),
    )
