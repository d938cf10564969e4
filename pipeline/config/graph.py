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
    """Everything wrong with the graph and its placement."""
    by_name = {stage.name: stage for stage in stages}
    faults = []
    for stage in stages:
        if not is_name(stage.name):
            faults.append(f"stages.{stage.name}: a stage's name is {NAME_RULE}")
        if stage.name in RESERVED:
            faults.append(
                f"stages.{stage.name}: this name is kept for {RESERVED[stage.name]}; allowed is "
                "any other"
            )
        if stage.input is not None and stage.input not in by_name:
            faults.append(
                f"stages.{stage.name}.input = {stage.input!r}: there is no such stage; "
                f"allowed are {', '.join(sorted(by_name))}{did_you_mean(stage.input, by_name)}"
            )
        if stage.pixels and stage.input in by_name and by_name[stage.input or ""].publishes:
            faults.append(
                f"stages.{stage.name}.input = {stage.input!r}: it reads pixels, and published "
                "results have none; allowed is a stage before it"
            )
    faults += _root_faults(stages) + _cycle_faults(by_name)
    publishers = [stage.name for stage in stages if stage.publishes]
    if len(publishers) != 1:
        faults.append(
            f"stages: {', '.join(publishers) or 'none'} publish; exactly one must (stages.cache)"
        )
    elif not faults:
        faults += _side_faults(by_name)
    return faults + _placement_faults(by_name, placement)


def _side_faults(by_name: Mapping[str, StageEntry]) -> list[str]:
    """Faults of stages that read a side stage: it says something of a few frames only, so nobody
    can be waited for by what has been read of it, and pixels may be gone when it is read.
    """
    main = _main_path(by_name)
    faults = []
    for name, stage in by_name.items():
        if stage.input is None or stage.input in main:
            continue
        reads = f"it reads a side stage, {stage.input}"
        if stage.on_lag != "drop":
            faults.append(
                f"stages.{name}.on_lag = {stage.on_lag!r}: {reads}, whose last outputs stay until "
                "they are read; allowed is drop"
            )
        if stage.pixels:
            faults.append(
                f"stages.{name}.input = {stage.input!r}: it reads pixels, and {reads}, which may "
                "speak when they are gone; allowed is a stage of the main path"
            )
    return faults


def _root_faults(stages: Sequence[StageEntry]) -> list[str]:
    roots = [stage.name for stage in stages if stage.input is None]
    if roots == ["decode"]:
        return []
    return [
        f"stages.{name}.input: missing; only decode has none, every other stage has exactly one"
        for name in roots
        if name != "decode"
    ] + ([] if "decode" in roots else ["stages.decode: missing, or it has an input; it must not"])


def _cycle_faults(by_name: Mapping[str, StageEntry]) -> list[str]:
    faults = []
    for name in by_name:
        path: list[str] = [name]
        at = by_name[name].input
        while at is not None and at in by_name and at not in path:
            path.append(at)
            at = by_name[at].input
        if at == name:
            faults.append(f"stages.{name}.input: a cycle: {' <- '.join([*path, name])}")
    return faults


def _placement_faults(
    by_name: Mapping[str, StageEntry], placement: Mapping[str, Sequence[str]]
) -> list[str]:
    faults = []
    seen: dict[str, str] = {}
    for worker, names in placement.items():
        if not is_name(worker):
            faults.append(f"placement.{worker}: a worker's name is {NAME_RULE}")
        for name in names:
            if name not in by_name:
                near = did_you_mean(name, by_name)
                faults.append(f"placement.{worker}: {name!r}: there is no such stage{near}")
            if name in seen:
                faults.append(f"placement.{worker}: {name!r} is placed in {seen[name]} already")
            seen[name] = worker
    return faults + _reader_faults(by_name, placement)


def _reader_faults(
    by_name: Mapping[str, StageEntry], placement: Mapping[str, Sequence[str]]
) -> list[str]:
    """The worker that decodes reads no streams: what it hosts gets its input from inside it."""
    return [
        f"placement.{worker}: {name!r} reads {by_name[name].input!r}, which is not in this worker; "
        "with decode there can be only stages whose input is there too"
        for worker, names in placement.items()
        for name in names
        if "decode" in names and name in by_name and by_name[name].input not in (None, *names)
    ]


def stage_specs(stages: Sequence[StageEntry]) -> list[StageSpec]:
    """What workers are told of a faultless graph, inputs before readers."""
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
    """These stages and all that read from them, directly or not; `specs` inputs before readers."""
    found: list[StageSpec] = []
    for spec in specs:
        if spec.name in names or any(spec.input == before.name for before in found):
            found.append(spec)
    return found


def place(
    specs: Sequence[StageSpec], placement: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Stages by worker, in order of the graph; a stage that is not placed gets its own worker."""
    worker_of = {name: worker for worker, names in placement.items() for name in names}
    workers: dict[str, list[str]] = {}
    for spec in specs:
        workers.setdefault(worker_of.get(spec.name, spec.name), []).append(spec.name)
    return workers


def in_shards(workers: Mapping[str, list[str]], shards: int | None) -> dict[str, list[str]]:
    """These workers as they are started: SHARD in so many copies. Workers that host the same stages
    share the sources. shards: 0 or None for none
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
    """The graph as indented text, with the worker of each stage."""
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
    """The stages; what is wrong with them is appended to `faults`, then the answer is None.

    A table that is neither the engine's nor any stage's is a fault, too.
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
                faults.append(f"{key}: unknown table; allowed are {', '.join(known)}{near}")
    return entries if len(faults) == before else None


def _table_meant(key: str, known: Sequence[str], stages: Table) -> str:
    return did_you_mean(key, known) or did_you_mean(key, stages).replace("mean ", "mean stages.")


def stages_that(tables: Table, can: str) -> list[str]:
    """Names of the stages whose class says that it can; of one that cannot be loaded none knows."""
    found = []
    for name, entry in tables.items():
        with contextlib.suppress(ConfigFaults, AttributeError, KeyError):
            if getattr(load(entry["use"]) if isinstance(entry, dict) else None, can):
                found.append(name)
    return found


# -- The shipped graph under what a file says of it: a file names only what it changes.


def over_shipped(said: Table, shipped: Table) -> Table:
    """The tables of a file, with `stages` and `placement` laid over those of the shipped graph.

    A shipped stage is there if the file names it or a stage that is there reads it. So one is left
    out by having the stage after it read the one before it. The shipped publisher is there unless
    the file has another. Of a shipped stage only what it uses and reads comes from here.

    A stage of the file's own that does not say what it reads gets what is published; one with
    pixels, and one that publishes, get what the shipped publisher gets. What the file does not
    place of the main path is the shards'; of these there are as many as cores where the file says
    no number and places nothing of that path, else as many as it says. Without, each worker of
    _BY_STAGE has what the file leaves of it.
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
    """These stages and all that they read, directly or not."""
    found: set[str] = set()
    while names:
        found |= names
        names = {str(stages[n]["input"]) for n in names if "input" in stages[n]} & stages.keys()
        names -= found
    return found


def _over_placed(said: Table, shipped: Mapping[str, list[str]], stages: Table) -> Table:
    """Workers of a file; shipped ones that it does not name, with those of their stages that are
    there and not placed in the file. Beside decode stays what reads nothing from elsewhere.
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
    """Stages that a table of workers names."""
    return {str(name) for names in placement.values() if isinstance(names, list) for name in names}


def own_tables(options: type) -> dict[str, Any]:
    """The top-level tables that these options name as theirs: what each holds."""
    hints = get_type_hints(options)
    fields = dataclasses.fields(options)
    return {field.name: hints[field.name] for field in fields if field.metadata.get("table")}


def _loaded(
    name: str, entry: Table, others: Sequence[str], faults: list[str]
) -> tuple[StageTable, Any] | None:
    """What every stage's table says, and its class."""
    path = f"stages.{name}."
    if isinstance(entry.get("input"), list):
        faults.append(f"{path}input = {entry['input']!r}: a stage has exactly one input")
        return None
    said = {key: value for key, value in entry.items() if key in ("use", "input", "on_lag")}
    if "use" not in said:
        faults.append(
            f'{path}use: missing; a stage of your own has use = "package.module:Class"'
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
        faults.append(f"{path}use = {read.use!r}: it is no stage (framegate.Stage)")
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
        f"{path}{key}: unknown key; it is a table of its own, [{key}]"
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
    if own and len(faults) == before:  # what is wrong with its tables together
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
