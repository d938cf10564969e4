"""The graph of stages: read from its tables, checked whole, turned into what workers are told."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_type_hints

from framegate.pipeline.config.options import read_options, with_variables
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import (
    CERTIFY,
    COLLECT,
    LISTEN,
    NAME_RULE,
    SOUND,
    is_name,
)
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.system.loading import load
from framegate.pipeline.system.machine import cores

RESERVED = {
    "print": "framegate run --json",
    "save": "framegate run --save",
    CERTIFY: "the table [promise]",
    COLLECT: "the table [learn]",
    SOUND: "the table [sound]",
    LISTEN: "rules about sounds",
}
SHARD: Final = "shard"
"""The worker of `[placement]` of which there are `[workers] shards`."""
_BY_STAGE: Final[Mapping[str, list[str]]] = {
    "ingest": ["decode", "window"],
    "infer": ["detect"],
    "publish": ["escalate", "cache"],
}
"""Workers without shards: each serves all sources."""


@dataclass(frozen=True)
class StageEntry:
    """One `[stages.NAME]` table.

    publishes, pixels, uses_models, promises, followed  what its class says
    options  what else stands in the table, checked by the class
    """

    name: str
    use: str
    input: str | None
    on_lag: str
    publishes: bool
    pixels: int
    options: dict[str, Any]
    uses_models: bool = False
    promises: bool = False
    followed: bool = False


def graph_faults(stages: Sequence[StageEntry], placement: Mapping[str, Sequence[str]]) -> list[str]:
    """Return all faults of the graph and its placement."""
    by_name = {stage.name: stage for stage in stages}
    faults = []
    for stage in stages:
        if not is_name(stage.name):
            faults.append(f"stages.{stage.name}: not the name of a stage; a name is {NAME_RULE}")
        if stage.name in RESERVED:
            faults.append(
                f"stages.{stage.name}: this name is reserved for {RESERVED[stage.name]}; rename "
                "the stage"
            )
        if stage.input is not None and stage.input not in by_name:
            faults.append(
                f"stages.{stage.name}.input = {stage.input!r}: there is no such stage; "
                f"stages are {', '.join(sorted(by_name))}{did_you_mean(stage.input, by_name)}"
            )
        if stage.pixels and stage.input in by_name and by_name[stage.input or ""].publishes:
            faults.append(
                f"stages.{stage.name}.input = {stage.input!r}: this stage uses pixels, and "
                "published results have none; must be a stage before the one that publishes"
            )
    faults += _root_faults(stages) + _cycle_faults(by_name)
    publishers = [stage.name for stage in stages if stage.publishes]
    if len(publishers) != 1:
        faults.append(
            f"stages: {', '.join(publishers) or 'none'} publish; exactly one stage must publish "
            "results (stages.cache)"
        )
    elif not faults:
        faults += _side_faults(by_name)
    return faults + _placement_faults(by_name, placement)


def _side_faults(by_name: Mapping[str, StageEntry]) -> list[str]:
    """Return the faults of stages that read a side stage.

    A side stage has outputs for a few frames only. So a reader's position does not show how far the
    reader is, and the pixels of a frame may be gone when its output is read.
    """
    main = _main_path(by_name)
    faults = []
    for name, stage in by_name.items():
        if stage.input is None or stage.input in main:
            continue
        reads = f"this stage reads the side stage {stage.input}"
        if stage.on_lag != "drop":
            faults.append(
                f"stages.{name}.on_lag = {stage.on_lag!r}: {reads}, whose last outputs stay until "
                "they are read; must be drop"
            )
        if stage.pixels:
            faults.append(
                f"stages.{name}.input = {stage.input!r}: {reads}, and needs pixels, which may be "
                "gone by then; must be a stage of the main path"
            )
    return faults


def _root_faults(stages: Sequence[StageEntry]) -> list[str]:
    roots = [stage.name for stage in stages if stage.input is None]
    if roots == ["decode"]:
        return []
    return [
        f"stages.{name}.input: missing; every stage but decode needs exactly one input"
        for name in roots
        if name != "decode"
    ] + ([] if "decode" in roots else ["stages.decode: must exist, and must have no input"])


def _cycle_faults(by_name: Mapping[str, StageEntry]) -> list[str]:
    faults = []
    for name in by_name:
        path: list[str] = [name]
        at = by_name[name].input
        while at is not None and at in by_name and at not in path:
            path.append(at)
            at = by_name[at].input
        if at == name:
            faults.append(
                f"stages.{name}.input: the inputs form a cycle: {' <- '.join([*path, name])}"
            )
    return faults


def _placement_faults(
    by_name: Mapping[str, StageEntry], placement: Mapping[str, Sequence[str]]
) -> list[str]:
    faults = []
    seen: dict[str, str] = {}
    for worker, names in placement.items():
        if not is_name(worker):
            faults.append(f"placement.{worker}: not the name of a worker; a name is {NAME_RULE}")
        for name in names:
            if name not in by_name:
                near = did_you_mean(name, by_name)
                faults.append(f"placement.{worker}: {name!r}: there is no such stage{near}")
            if name in seen:
                faults.append(f"placement.{worker}: {name!r} is already in {seen[name]}")
            seen[name] = worker
    return faults + _reader_faults(by_name, placement)


def _reader_faults(
    by_name: Mapping[str, StageEntry], placement: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return faults of the worker that decodes: it reads no streams, so inputs must be inside."""
    return [
        f"placement.{worker}: {name!r} reads {by_name[name].input!r}, which is in another worker; "
        "a worker with decode can only have stages whose input is in it, too"
        for worker, names in placement.items()
        for name in names
        if "decode" in names and name in by_name and by_name[name].input not in (None, *names)
    ]


def stage_specs(stages: Sequence[StageEntry]) -> list[StageSpec]:
    """Return the stages of a graph without faults as workers need them, inputs before readers."""
    by_name = {stage.name: stage for stage in stages}
    main = _main_path(by_name)
    ordered: list[StageEntry] = []
    while len(ordered) < len(stages):
        names = {stage.name for stage in ordered}
        ordered += [
            s for s in stages if s.name not in names and (s.input is None or s.input in names)
        ]
    return [
        StageSpec(
            name=stage.name,
            use=stage.use,
            input=stage.input,
            main=stage.name in main,
            reliable=stage.name in main or stage.on_lag != "drop",
            publishes=stage.publishes,
            options=stage.options,
            uses_models=stage.uses_models,
            followed=stage.followed,
            reads_side=stage.input is not None and stage.input not in main,
            files_only=stage.name not in main and stage.on_lag == "files",
        )
        for stage in ordered
    ]


def _main_path(by_name: Mapping[str, StageEntry]) -> set[str]:
    at: str | None = next(stage.name for stage in by_name.values() if stage.publishes)
    main = set()
    while at is not None:
        main.add(at)
        at = by_name[at].input
    return main


def with_readers(specs: Sequence[StageSpec], names: Sequence[str]) -> list[StageSpec]:
    """Return these stages and all that read them, directly or not.

    specs  inputs before readers
    """
    found: list[StageSpec] = []
    for spec in specs:
        if spec.name in names or any(spec.input == before.name for before in found):
            found.append(spec)
    return found


def place(
    specs: Sequence[StageSpec], placement: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return the stages of each worker in the order of the graph.

    A stage without a place gets a worker of its own.
    """
    worker_of = {name: worker for worker, names in placement.items() for name in names}
    workers: dict[str, list[str]] = {}
    for spec in specs:
        workers.setdefault(worker_of.get(spec.name, spec.name), []).append(spec.name)
    return workers


def in_shards(workers: Mapping[str, list[str]], shards: int | None) -> dict[str, list[str]]:
    """Return the workers to start, with the given number of copies of SHARD.

    Workers that host the same stages share the sources.

    shards  0 or None: no copies
    """
    started: dict[str, list[str]] = {}
    for worker, hosted in workers.items():
        if worker == SHARD and shards:
            # A name with "-" can be no worker's of a file.
            started |= {f"{SHARD}-{n}": list(hosted) for n in range(1, shards + 1)}
        else:
            started[worker] = hosted
    return started


def drawn(specs: Sequence[StageSpec], workers: Mapping[str, Sequence[str]]) -> str:
    """Return the graph as indented text, with the worker of each stage."""
    worker_of = {name: worker for worker, names in workers.items() for name in names}
    lines = []

    def draw(name: str | None, depth: int) -> None:
        for spec in specs:
            if spec.input == name:
                side = "" if spec.main else f"  (side{_waited_for(spec)})"
                mark = "└─ " if depth else ""
                text = f"{'   ' * depth}{mark}{spec.name}"
                use = spec.use.removeprefix("framegate.")
                lines.append(f"{text:<24} in {worker_of[spec.name]:<8} {use}{side}")
                draw(spec.name, depth + 1)

    draw(None, 0)
    return "\n".join(lines)


def _waited_for(spec: StageSpec) -> str:
    if not spec.reliable:
        return ""
    return ", files wait for it" if spec.files_only else ", waited for"


# -- The tables of pipeline.toml that concern stages: `[stages.NAME]`, and those that a stage
# owns. A stage may own a table at the top of the file: a field of its options, a dataclass, with
# `table` in its metadata. `[gate]` is such a table of detect.


Table = dict[str, Any]


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
        found = _loaded(name, entry, [other for other in stages if other != name], faults)
        if found is None:
            all_loaded = False
            continue
        table, kind = found
        owned |= own_tables(kind.Options).keys()
        read = _read_stage(name, entry, tables, (table, kind), faults)
        if read is not None:
            entries.append(read)
    known = [*engine, *sorted(owned)]
    for key in tables:
        if key not in known:
            near = _table_meant(key, known, stages)
            if all_loaded or near:  # one that could not be loaded may own it
                faults.append(f"{key}: unknown table; known tables are {', '.join(known)}{near}")
    return entries if len(faults) == before else None


def _table_meant(key: str, known: Sequence[str], stages: Table) -> str:
    return did_you_mean(key, known) or did_you_mean(key, stages).replace("mean ", "mean stages.")


def stages_that(tables: Table, can: str) -> list[str]:
    """Return the names of the stages whose class has this property. Skip unloadable classes."""
    found = []
    for name, entry in tables.items():
        with contextlib.suppress(ConfigFaults, AttributeError, KeyError):
            if getattr(load(entry["use"]) if isinstance(entry, dict) else None, can):
                found.append(name)
    return found


# -- The shipped graph under what a file says of it: a file names only what it changes.


def over_shipped(said: Table, shipped: Table) -> Table:
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
    named, default = said.get("stages", {}), shipped["stages"]
    if not all(isinstance(entry, dict) for entry in named.values()):
        return said
    stages = {name: {"use": e["use"]} | _input_of(e) for name, e in default.items()}
    (last,) = stages_that(stages, "publishes")
    stages |= {name: {**stages.get(name, {}), **entry} for name, entry in named.items()}
    publishers = [name for name in stages_that(stages, "publishes") if name != last] or [last]
    own = {name: entry for name, entry in named.items() if name not in default}
    ends = {*publishers, *stages_that(own, "pixels")}
    for name, entry in own.items():
        usual = stages[last]["input"] if name in ends else publishers[0]
        stages[name] = {"input": usual, **entry}
    there = _with_inputs({*named, *publishers}, stages)
    stages = {name: entry for name, entry in stages.items() if name in there}
    main = _with_inputs({publishers[0]}, stages)
    workers, placement = said.get("workers", {}), said.get("placement", {})
    if isinstance(workers, dict) and "shards" not in workers:
        workers = {**workers, "shards": 0 if main & _placed(placement) else cores()}
    hosted = _BY_STAGE
    if workers.get("shards"):
        hosted = {SHARD: [name for name in stages if name in main]}
    placed = _over_placed(placement, hosted, stages)
    return {**said, "stages": stages, "workers": workers, "placement": placed}


def _input_of(entry: Table) -> Table:
    return {"input": entry["input"]} if "input" in entry else {}


def _with_inputs(names: set[str], stages: Table) -> set[str]:
    """Return these stages and all that they read, directly or not."""
    found: set[str] = set()
    while names:
        found |= names
        names = {str(stages[n]["input"]) for n in names if "input" in stages[n]} & stages.keys()
        names -= found
    return found


def _over_placed(said: Table, shipped: Mapping[str, list[str]], stages: Table) -> Table:
    """Return the workers of a file, and the shipped workers with the stages that remain.

    The worker with decode keeps only stages whose inputs it hosts.
    """
    taken, placed = _placed(said), dict[str, Any]()
    for worker, hosted in shipped.items():
        names = [name for name in hosted if name in stages and name not in taken]
        while "decode" in names:
            fed = [n for n in names if n == "decode" or stages[n].get("input") in names]
            if fed == names:
                break
            names = fed
        if names:
            placed[worker] = names
    return placed | said


def _placed(placement: Table) -> set[str]:
    """Return the stages that a table of workers names."""
    return {str(name) for names in placement.values() if isinstance(names, list) for name in names}


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
    said = {key: value for key, value in entry.items() if key in ("use", "input", "on_lag")}
    if "use" not in said:
        faults.append(
            f'{path}use: missing; a stage of your own needs use = "package.module:Class"'
            f"{did_you_mean(name, others)}"
        )
        return None
    read = read_options(StageTable, said, path, faults)
    if read is None:
        return None
    try:
        kind = load(read.use)
    except ConfigFaults as unknown:
        faults += [f"{path}{fault}" for fault in unknown.faults]
        return None
    if not dataclasses.is_dataclass(getattr(kind, "Options", None)):
        faults.append(f"{path}use = {read.use!r}: not a subclass of framegate.Stage")
        return None
    return read, kind


def _read_stage(
    name: str, entry: Table, tables: Table, found: tuple[StageTable, Any], faults: list[str]
) -> StageEntry | None:
    read, kind = found
    path = f"stages.{name}."
    own = own_tables(kind.Options)
    options = {key: v for key, v in entry.items() if key not in ("use", "input", "on_lag")}
    before = len(faults)
    faults += [
        f"{path}{key}: unknown key; [{key}] is a table at the top level"
        for key in own
        if key in entry
    ]
    rest = {key: value for key, value in options.items() if key not in own}
    options = with_variables(kind.Options, rest, path, faults)
    read_options(kind.Options, options, path, faults)
    for key, holds in own.items():
        if isinstance(tables.get(key), dict):
            options[key] = with_variables(holds, tables[key], f"{key}.", faults)
            read_options(holds, options[key], f"{key}.", faults)
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
    )
