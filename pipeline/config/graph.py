"""The graph of stages: check it, place it in workers, and convert it for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.contracts.keys import (
    CERTIFY,
    COLLECT,
    LISTEN,
    NAME_RULE,
    SOUND,
    VISITS,
    is_name,
)
from framegate.pipeline.contracts.spec import StageSpec

RESERVED = {
    "print": "framegate run --json",
    "save": "framegate run --save",
    CERTIFY: "the table [promise]",
    COLLECT: "the table [learn]",
    SOUND: "the table [sound]",
    LISTEN: "rules about sounds",
    VISITS: "the stream of visits",
}
SHARD: Final = "shard"
"""The worker of `[placement]` that `[workers] shards` multiplies."""


@dataclass(frozen=True)
class StageEntry:
    """A table `[stages.NAME]`.

    publishes, pixels, uses_models, promises, followed, takes_undecoded  attributes of its class
    options  the other keys of the table, checked by the class
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
    takes_undecoded: bool = False

    @property
    def makes_promise(self) -> bool:
        """Return whether its table `promise` makes it promise something."""
        table = self.options.get("promise", {"measure": "off"})
        return self.promises and str(table.get("measure", "counts")) != "off"


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


def undecoded_faults(stages: Sequence[StageEntry], lazy_keys: Sequence[str]) -> list[str]:
    """Return faults for sources that are decoded lazily, by their keys.

    Their frames without pixels pass by a stage that cannot take them. If that stage is the
    detector, these frames have no detections, so each of them would fail where it is published.
    Without a gate, the network must see each frame.

    stages  a graph without faults
    """
    if is_gate_off(stages):
        return [
            f'{key} = "lazy": the network looks at every frame (gate.mode = "off", or gate.most = '
            '0), so each must be decoded; use decode = "always", or another gate.mode'
            for key in lazy_keys
        ]
    by_name = {stage.name: stage for stage in stages}
    detector: StageEntry | None = None  # the first stage of the main path that reads pixels
    at: str | None = next(stage.name for stage in stages if stage.publishes)
    while at is not None:
        if by_name[at].pixels:
            detector = by_name[at]
        at = by_name[at].input
    if detector is None or detector.takes_undecoded:
        return []
    return [
        f'{key} = "lazy": stages.{detector.name} reads pixels, and gives nothing for frames that '
        'are not decoded; use decode = "always", or a stage with takes_undecoded = True'
        for key in lazy_keys
    ]


def gate_options(stages: Iterable[StageEntry]) -> dict[str, Any]:
    """Return the keys of `[gate]` that are given."""
    options: dict[str, Any] = {}
    for stage in stages:
        if stage.uses_models:
            options |= stage.options.get("gate", {})
    return options


def is_gate_off(stages: Iterable[StageEntry]) -> bool:
    """Return whether the network looks at every frame, so that each must be decoded."""
    options = gate_options(stages)
    return options.get("mode") == "off" or options.get("most") == 0


def _root_faults(stages: Sequence[StageEntry]) -> list[str]:
    roots = [stage.name for stage in stages if stage.input is None]
    faults = [
        f"stages.{name}.input: missing; every stage but decode needs exactly one input"
        for name in roots
        if name != "decode"
    ]
    if "decode" not in roots:
        faults.append("stages.decode: must exist, and must have no input")
    return faults


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
    faults = []
    for worker, names in placement.items():
        if "decode" not in names:
            continue
        faults += [
            f"placement.{worker}: {name!r} reads {by_name[name].input!r}, which is in another "
            "worker; a worker with decode can only have stages whose input is in it, too"
            for name in names
            if name in by_name and by_name[name].input not in (None, *names)
        ]
    return faults


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
    chosen: list[StageSpec] = []
    for spec in specs:
        if spec.name in names or any(spec.input == before.name for before in chosen):
            chosen.append(spec)
    return chosen


def place(
    specs: Sequence[StageSpec], placement: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return the stages of each worker in the order of the graph.

    A stage without a place gets a worker of its own.
    """
    worker_of = _worker_of(placement)
    workers: dict[str, list[str]] = {}
    for spec in specs:
        worker = worker_of.get(spec.name, spec.name)
        workers.setdefault(worker, []).append(spec.name)
    return workers


def _worker_of(placement: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the worker of each stage."""
    workers: dict[str, str] = {}
    for worker, names in placement.items():
        workers |= dict.fromkeys(names, worker)
    return workers


def in_shards(workers: Mapping[str, list[str]], shards: int | None) -> dict[str, list[str]]:
    """Return the workers to start, with the given number of copies of SHARD.

    Workers that host the same stages share the sources.

    shards  0 or None: no copies
    """
    started: dict[str, list[str]] = {}
    for worker, hosted in workers.items():
        if worker == SHARD and shards:
            # No worker of a file can have a name with "-".
            started |= {f"{SHARD}-{n}": list(hosted) for n in range(1, shards + 1)}
        else:
            started[worker] = hosted
    return started


def drawn(specs: Sequence[StageSpec], workers: Mapping[str, Sequence[str]]) -> str:
    """Return the graph as indented text, with the worker of each stage."""
    worker_of = _worker_of(workers)
    lines = []

    def draw(name: str | None, depth: int) -> None:
        for spec in specs:
            if spec.input != name:
                continue
            text = spec.name
            if depth:
                text = f"{'  ' * depth}└─ {spec.name}"
            use = spec.use.removeprefix("framegate.")
            lines.append(f"{text:<23} in {worker_of[spec.name]:<7} {use}{_side(spec)}")
            draw(spec.name, depth + 1)

    draw(None, 0)
    return "\n".join(lines)


def _side(spec: StageSpec) -> str:
    if spec.main:
        return ""
    if not spec.reliable:
        return "  (side)"
    if spec.files_only:
        return "  (side, files wait for it)"
    return "  (side, waited for)"
