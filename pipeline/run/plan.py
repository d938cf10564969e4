"""The plan of a run: its stages, its workers, and the stages that its options add."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.events import rules_to_mute, sounds_asked
from framegate.pipeline.config.graph import SHARD, StageEntry
from framegate.pipeline.config.read_events import label_faults
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import (
    CERTIFY,
    COLLECT,
    EVENTS,
    LISTEN,
    SOUND,
    VISITS,
    WINDOWS,
)
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.spec import LogFormat, SourceSpec, StageSpec, Suspect, WorkerSpec
from framegate.pipeline.run.filters import no_rule_to_mute
from framegate.pipeline.run.models import RunModels
from framegate.pipeline.run.restarts import LIMIT, Deaths
from framegate.pipeline.run.source_forms import gate_masks
from framegate.pipeline.store.retention import RetentionLimits
from framegate.pipeline.system.loading import BUILTINS

_FOOTAGE_NICE: Final = 10  # niceness of a worker that only keeps footage


@dataclass(frozen=True)
class Plan:
    """A run with all decisions made.

    store       URL of the store, with its password
    identity    identity of the store, by which a replaced store is noticed
    workers     names of stages by worker, inputs before readers; workers with the same stages share
                the sources
    fill        see Shards
    pictures    whether the HTTP port may show the last picture of a source
    episodes    number of episodes in events.db, and their age in seconds
    replicas    number of replicas that must confirm tokens and epochs before they are used
    sinks       names of the sinks
    slot        name of the fleet's slot that this run is; "": it is none
    began_mono  monotonic seconds at which this process of the run began
    """

    run: str
    store: str
    identity: str
    folder: str
    results_keep: int
    results: RetentionLimits
    certificates_age_s: float
    log_level: str
    log_format: LogFormat
    hung_s: float
    stages: tuple[StageSpec, ...]
    workers: dict[str, list[str]]
    episodes: tuple[int, float]
    fill: int = 1
    pictures: bool = True
    trace_ratio: float = 0.0
    replicas: int = 0
    sinks: tuple[str, ...] = ()
    slot: str = ""
    began_mono: float = field(default_factory=time.monotonic)

    def with_options(self, stage: str, options: dict[str, Any]) -> Plan:
        """Return the plan with other options of a stage."""
        stages = []
        for each in self.stages:
            if each.name == stage:
                each = msgspec.structs.replace(each, options=options)
            stages.append(each)
        return replace(self, stages=tuple(stages))

    def spec(
        self,
        name: str,
        hosted: list[str],
        sources: Sequence[SourceSpec],
        deaths: Deaths,
        models: dict[str, str] | None = None,
        filters: dict[str, ObjectFilter] | None = None,
    ) -> WorkerSpec:
        """Return the spec of a worker process that runs these stages.

        deaths: of the worker's earlier processes
        """
        nice = 0
        if hosted == [COLLECT]:
            nice = _FOOTAGE_NICE
        return WorkerSpec(
            name=name,
            run=self.run,
            store=self.store,
            folder=self.folder,
            results_keep=self.results_keep,
            stages=list(self.stages),
            hosted=hosted,
            sources=sources_for(sources, deaths),
            careful=deaths.careful_until,
            asides=[
                Suspect(source, stage, at, "worker_died")
                for (source, stage), at in sorted(deaths.set_aside)
                if stage != "decode"
            ],
            models=models or {},
            filters=filters or {},
            replicas=self.replicas,
            began_mono=self.began_mono,
            nice=nice,
            trace_ratio=self.trace_ratio,
            log_level=self.log_level,
            log_format=self.log_format,
        )


class Shards:
    """The assignment of sources to workers. Workers with the same stages share the sources.

    A source stays with its worker as long as the run has it. A new source at a live pace goes to
    the first worker with fewer than `fill` sources, because a worker with little work wakes up for
    every frame. If there is none, and for a file, which uses all the CPU that it gets, it goes to
    the worker with the fewest sources. Costs do not count: they are unknown for a new source, and
    change with its content. The same sources in the same order are shared in the same way.
    """

    def __init__(self, workers: Mapping[str, Sequence[str]], fill: int = 1) -> None:
        """workers: stages by worker"""
        hosted = list(workers.values())
        self._held: dict[str, set[str]] = {
            worker: set() for worker, stages in workers.items() if hosted.count(stages) > 1
        }
        self._fill = fill
        self._closed: set[str] = set()

    @property
    def spare(self) -> list[str]:
        """Return the workers that start with their first source: all sharing ones but the first."""
        return list(self._held)[1:]

    def of(self, worker: str, sources: Sequence[SourceSpec]) -> list[SourceSpec]:
        """Return the sources that this worker serves. sources: all current ones of the run"""
        if worker not in self._held:
            return list(sources)
        self._share(sources)
        return [source for source in sources if source.name in self._held[worker]]

    def serves(self, worker: str, source: str) -> bool:
        """Return whether this worker serves a source, by the last call of `of`."""
        return worker not in self._held or source in self._held[worker]

    def close(self, worker: str) -> bool:
        """Assign no further source to a worker; it keeps its sources.

        Return False, and change nothing, if no other worker could serve new sources.
        """
        others = self._held.keys() - self._closed - {worker}
        if not others or worker not in self._held:
            return False
        self._closed.add(worker)
        return True

    def _share(self, sources: Sequence[SourceSpec]) -> None:
        current = {source.name for source in sources}
        assigned: set[str] = set()
        for held in self._held.values():
            held &= current
            assigned |= held
        for source in sources:
            if source.name not in assigned:
                self._place_for(source).add(source.name)

    def _place_for(self, source: SourceSpec) -> set[str]:
        candidates = [held for worker, held in self._held.items() if worker not in self._closed]
        if source.live or source.pace == "realtime":
            for held in candidates:
                if len(held) < self._fill:
                    return held
        return min(candidates, key=len)


def sources_for(sources: Sequence[SourceSpec], deaths: Deaths) -> list[SourceSpec]:
    """Return the sources for a worker. A source that killed its decoder has a fault."""
    killed_at = {source: at for (source, stage), at in deaths.set_aside if stage == "decode"}
    specs = []
    for source in sources:
        if source.name in killed_at:
            fault = f"it killed its decoder {LIMIT} times at {killed_at[source.name]}"
            source = msgspec.structs.replace(source, fault=fault)
        specs.append(source)
    return specs


# -- Stages that options of the run or tables of the configuration add


def _publisher(config: Config) -> StageEntry:
    return next(stage for stage in config.stages if stage.publishes)


def with_certificates(config: Config) -> Config:
    """Add the stage that keeps certificates if a stage promises.

    ConfigFaults if the promised output is not the published one.
    """
    promising = [stage for stage in config.stages if stage.makes_promise]
    if not promising:
        return config
    stage = promising[0]
    publisher = _publisher(config)
    before = publisher.input
    for each in config.stages:
        if each.name == WINDOWS == before and is_shipped(each):  # it then decides nothing
            before = each.input
    if stage.name != before:
        raise ConfigFaults(
            [
                f"promise: stages.{publisher.name} publishes the output of "
                f"stages.{publisher.input}, and stages.{stage.name} makes the "
                "promise; no stage may be between them"
            ]
        )
    certify = StageEntry(CERTIFY, BUILTINS["certify"], stage.name, "wait", False, 0, {})
    stages = []
    for each in config.stages:
        if each.name == WINDOWS and is_shipped(each):
            each = replace(each, options={**each.options, "decides": False})
        stages.append(each)
    return replace(
        config,
        stages=(*stages, certify),
        placement=_placed_beside(config, CERTIFY, stage.name),
    )


def _placed_beside(config: Config, name: str, other: str) -> dict[str, tuple[str, ...]]:
    """Return the placement with a stage in the worker of another stage, if that is placed."""
    placement = dict(config.placement)
    for worker, names in placement.items():
        if other in names:
            placement[worker] = (*names, name)
    return placement


def doubts(config: Config, known: Mapping[str, bool]) -> list[str]:
    """Return warnings about settings that are probably mistakes.

    They are names of unknown sources, which may be typing errors or added later, the recording of
    all cameras in a run with files only, and limits of recordings without recordings.

    known  by source, whether it is a camera
    """
    lists = {
        "learn.collect": config.learn.collect,
        "record.sources": config.record.sources,
        "sound.sources": config.sound.sources,
        "privacy.masks": tuple(config.privacy.masks),
        "gate.masks": tuple(gate_masks(config.stages)),
        **{f"sinks.{name}.sources": sink.sources for name, sink in config.sinks.items()},
        **{f"filters.{name}.sources": each.sources for name, each in config.filters.items()},
    }
    named: list[tuple[str, str]] = []
    for key, sources in lists.items():
        if not isinstance(sources, bool):
            named += [(key, source) for source in sources]
    for key in ("areas", "lines", "rules"):
        for name, table in getattr(config.events, key).items():
            if table.source:
                named.append((f"events.{key}.{name}.source", table.source))
    warnings = [
        f"{key}: {source!r} is no source of this run yet{did_you_mean(source, known)}"
        for key, source in named
        if source not in known
    ]
    if config.record.sources is True and known and not any(known.values()):
        files = ", ".join(f'"{name}"' for name in known)
        warnings.append(
            f"record.sources = true: all cameras, and there is none; [{files}] records files"
        )
    limits = [key for key in config.origins if key.startswith("record.")]
    if limits and "record.sources" not in config.origins:
        warnings.append(
            f"{limits[0]}: nothing is recorded; sources = true in [record] records all cameras"
        )
    return warnings


def with_footage(config: Config) -> Config:
    """Add the stage that keeps footage if `[learn] collect` asks for it."""
    learn = config.learn
    if not learn.collect:
        return config
    sources: list[str] = []  # all
    if not isinstance(learn.collect, bool):
        sources = list(learn.collect)
    options = {
        "sources": sources,
        "bytes": learn.bytes,
        "days": learn.days,
        "masks": gate_masks(config.stages),
    }
    stages = []
    for stage in config.stages:
        if stage.promises and is_shipped(stage):
            stage = replace(stage, options={**stage.options, "tells": True})
        stages.append(stage)
    before = _publisher(config).input
    collect = StageEntry(COLLECT, BUILTINS["collect"], before, "drop", False, 1, options)
    return replace(config, stages=(*stages, collect))


def is_shipped(stage: StageEntry) -> bool:
    """Return whether a stage is part of Framegate."""
    return stage.use.startswith("framegate.")


def with_save(config: Config, folder: Path, run: str, overwrite: bool) -> Config:
    """Add the stage that writes videos. Decoders wait for it."""
    options = {
        "folder": str(folder.absolute()),
        "run": run,
        "overwrite": overwrite,
        "codec": config.save.codec,
        "blur_faces": config.privacy.blur_faces,
    }
    before = _publisher(config).input
    save = StageEntry("save", BUILTINS["save"], before, "wait", False, 1, options)
    return replace(config, stages=(*config.stages, save))


def with_sound(config: Config, models: RunModels) -> Config:
    """Add the stages that recognise sounds if `[sound] sources` asks for it.

    Normally a side stage beside decode does it, in the same shard. If rules need sounds, it is a
    main stage before the windows of objects, or right before the publisher, so that visits and
    results contain the sounds; a side stage then writes them to the stream for sounds.
    ConfigFaults for unknown labels.
    """
    sound = config.sound
    if not sound.sources:
        return config
    known = models.sound_labels()
    faults = [
        f"sound.labels: {label!r}: there is no such label{did_you_mean(label, known)}; "
        "docs/sound.md lists all labels"
        for label in sound.labels
        if label not in known
    ]
    if faults:
        raise ConfigFaults(faults)
    options = {
        "block": sound.block,
        "least_score": sound.least_score,
        "labels": list(sound.labels),
        "quiet_db": sound.quiet_db,
        "most_age_s": sound.most_age_s,
    }
    is_sharded = "decode" in config.placement.get(SHARD, ())
    if not sounds_asked(config.events):
        side = StageEntry(SOUND, BUILTINS["sound"], "decode", "files", False, 0, options)
        if is_sharded:
            config = replace(config, placement=_placed_beside(config, SOUND, "decode"))
        return replace(config, stages=(*config.stages, side))
    publisher = _publisher(config)
    after = publisher
    for stage in config.stages:
        if stage.name == WINDOWS and publisher.input == WINDOWS:  # visits have sounds
            after = stage
    main = StageEntry(LISTEN, BUILTINS["sound"], after.input, "wait", False, 0, options)
    side = StageEntry(SOUND, BUILTINS["heard"], LISTEN, "files", False, 0, {})
    stages = []
    for stage in config.stages:
        if stage is after:
            stage = replace(stage, input=LISTEN)
        stages.append(stage)
    config = replace(config, placement=_placed_beside(config, LISTEN, publisher.name))
    if is_sharded:
        config = replace(config, placement=_placed_beside(config, SOUND, LISTEN))
    return replace(config, stages=(*stages, main, side))


def with_events(config: Config, models: RunModels) -> Config:
    """Add the stage that evaluates rules, in the publisher's worker.

    It is also added without rules, so that the first one needs no restart, unless the publisher is
    not ours. ConfigFaults for labels that no result can have, and for sounds that are not
    recognised.
    """
    publisher = _publisher(config)
    is_theirs = not is_shipped(publisher) or EVENTS in {each.name for each in config.stages}
    if is_theirs and not config.events.rules:
        return config
    faults = event_faults(config, models)
    if faults:
        raise ConfigFaults(faults)
    options = msgspec.to_builtins(config.events)
    events = StageEntry(EVENTS, BUILTINS["events"], publisher.name, "wait", False, 0, options)
    stages = []
    for stage in config.stages:
        if config.events.asks_where and stage.uses_models and is_shipped(stage):
            stage = replace(stage, options={**stage.options, "backdrops": True})
        stages.append(stage)
    return replace(
        config,
        stages=(*stages, events),
        placement=_placed_beside(config, EVENTS, publisher.name),
    )


def event_faults(config: Config, models: RunModels) -> list[str]:
    """Return the faults of rules: labels that no result can have, sounds that no stage hears."""
    known = models.labels()
    faults: list[str] = []
    if known is not None:
        faults += label_faults(config.events, known)
    return faults + _sound_faults(config, models)


def with_visits(config: Config) -> Config:
    """Add the stage that writes the stream of visits, in the publisher's worker.

    It is not added if results have no visits.
    """
    names = {stage.name for stage in config.stages}
    publisher = _publisher(config)
    if WINDOWS not in names or not is_shipped(publisher):
        return config
    visits = StageEntry(VISITS, BUILTINS["visits"], publisher.name, "wait", False, 0, {})
    return replace(
        config,
        stages=(*config.stages, visits),
        placement=_placed_beside(config, VISITS, publisher.name),
    )


def check_filters(config: Config, models: RunModels) -> None:
    """ConfigFaults for labels of filters that no result can have, and rules without objects."""
    known = models.labels()
    rules = rules_to_mute(config.events)
    faults: list[str] = []
    for name, each in config.filters.items():
        faults += [
            f"filters.{name}.labels: {label!r} is not detected; remove it, or add it to "
            f"[stages.detect] classes{did_you_mean(label, known)}"
            for label in each.labels
            if known is not None and label not in known
        ]
        if each.rule and each.rule not in rules:
            faults.append(
                f"filters.{name}.rule: {no_rule_to_mute(each.rule)}; such rules are "
                f"{', '.join(rules) or 'none'}{did_you_mean(each.rule, rules)}"
            )
    if faults:
        raise ConfigFaults(faults)


def _sound_faults(config: Config, models: RunModels) -> list[str]:
    """Return the faults of rules about sounds: labels or sources that `[sound]` leaves out."""
    asked = sounds_asked(config.events)
    if not asked:
        return []
    if not config.sound.sources:
        name = next(iter(asked))
        return [
            f"events.rules.{name}.state = 'heard': no sound is on; set sources = true under [sound]"
        ]
    reported = config.sound.labels or models.sound_labels()
    faults = []
    for name, labels in asked.items():
        faults += [
            f"events.rules.{name}.labels: {label!r} is not reported; add it to [sound] labels, or "
            f"use a label of docs/sound.md{did_you_mean(label, reported)}"
            for label in labels
            if label not in reported
        ]
        source = config.events.source_of(config.events.rules[name])
        if source and not config.sound.block_of(source):
            faults.append(
                f"events.rules.{name}.source = {source!r}: its sound is not recognised; add it "
                "to [sound] sources"
            )
    return faults
