"""A run with everything decided, and the spec that it gives each worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.events import sounds_asked
from framegate.pipeline.config.graph import SHARD, StageEntry
from framegate.pipeline.config.read_events import label_faults
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import CERTIFY, COLLECT, EVENTS, LISTEN, SOUND
from framegate.pipeline.contracts.spec import LogFormat, SourceSpec, StageSpec, Suspect, WorkerSpec
from framegate.pipeline.run.deaths import LIMIT, Deaths
from framegate.pipeline.run.models import ModelFunctions
from framegate.pipeline.store.retention import RetentionLimits
from framegate.pipeline.system.loading import BUILTINS

_BEHIND: Final = 10  # how far who keeps footage steps back behind who serves


@dataclass(frozen=True)
class Plan:
    """A run with everything decided.

    store       its URL, with its password
    identity    of the store: another has another
    workers     stages by worker, inputs before readers; those that host the same share the sources
    fill        see Shards
    pictures    whether somebody may look at what its sources showed last
    episodes    how many events.db keeps, and for how many seconds
    replicas    on which tokens and epochs must be before they are used
    sinks       names of those who are told of episodes
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
    replicas: int = 0
    sinks: tuple[str, ...] = ()
    began_mono: float = field(default_factory=time.monotonic)

    def spec(
        self,
        name: str,
        hosted: list[str],
        sources: Sequence[SourceSpec],
        deaths: Deaths,
        models: dict[str, str] | None = None,
    ) -> WorkerSpec:
        """Return the spec of a worker of this name that hosts these stages.

        deaths: of the workers before it in its place
        """
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
            replicas=self.replicas,
            began_mono=self.began_mono,
            nice=_BEHIND if hosted == [COLLECT] else 0,
            log_level=self.log_level,
            log_format=self.log_format,
        )


class Shards:
    """Which sources each worker serves: all, or its share of them where several host the same.

    A new source stays where it comes to as long as the run has it. One at a live pace goes to the
    first worker that has fewer than `fill`: a worker that has little to do wakes for each frame
    anew. Where none has, and of a file that takes all of the CPU that it can get, it is the worker
    that has fewest. By their number, not by what they cost: that is not known when they come, and
    changes with what is seen. Begun with the same sources in the same order it shares them in the
    same way.
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
        """Workers that are needed only once they have a source: of those that share all but one."""
        return list(self._held)[1:]

    def of(self, worker: str, sources: Sequence[SourceSpec]) -> list[SourceSpec]:
        """Return those that this worker serves of all that the run has now."""
        if worker not in self._held:
            return list(sources)
        self._share(sources)
        return [source for source in sources if source.name in self._held[worker]]

    def serves(self, worker: str, source: str) -> bool:
        """Return whether a source is this worker's, of those that the run had last."""
        return worker not in self._held or source in self._held[worker]

    def close(self, worker: str) -> bool:
        """Give a worker no source any more; False, and nothing changes, if no other could have it.

        Those that it has stay its own.
        """
        if not self._held.keys() - self._closed - {worker} or worker not in self._held:
            return False
        self._closed.add(worker)
        return True

    def _share(self, sources: Sequence[SourceSpec]) -> None:
        there, known = {source.name for source in sources}, set[str]()
        for held in self._held.values():
            held &= there
            known |= held
        for source in sources:
            if source.name not in known:
                self._place_for(source).add(source.name)

    def _place_for(self, source: SourceSpec) -> set[str]:
        open_ = [held for worker, held in self._held.items() if worker not in self._closed]
        if source.live or source.pace == "realtime":
            room = next((held for held in open_ if len(held) < self._fill), None)
            if room is not None:
                return room
        return min(open_, key=len)


def sources_for(sources: Sequence[SourceSpec], deaths: Deaths) -> list[SourceSpec]:
    """Return the sources as a worker is told of them: one that killed its decoder has a fault."""
    aside = deaths.set_aside
    dead = {source: at for (source, stage), at in aside if stage == "decode"}
    return [
        msgspec.structs.replace(
            source, fault=f"it killed its decoder {LIMIT} times at {dead[source.name]}"
        )
        if source.name in dead
        else source
        for source in sources
    ]


# -- A configuration with a promise gets the stage that keeps its certificates.


def with_certificates(config: Config) -> Config:
    """Return the configuration with that stage after the one that promises; as it is, if none does.

    ConfigFaults where what is promised is not what is served.
    """
    promising = [stage for stage in config.stages if promises(stage)]
    if not promising:
        return config
    stage, publisher = promising[0], next(s for s in config.stages if s.publishes)
    if stage.name != publisher.input:
        raise ConfigFaults(
            [
                f"promise: stages.{publisher.name} publishes the output of "
                f"stages.{publisher.input}, and stages.{stage.name} makes the "
                "promise; no stage may be between them"
            ]
        )
    certify = StageEntry(CERTIFY, BUILTINS["certify"], stage.name, "wait", False, 0, {})
    return replace(
        config,
        stages=(*config.stages, certify),
        placement=_placed_beside(config, CERTIFY, stage.name),
    )


def _placed_beside(config: Config, name: str, other: str) -> dict[str, tuple[str, ...]]:
    """The placement with a stage in the worker of another one, if that is placed."""
    return {
        worker: (*names, name) if other in names else names
        for worker, names in config.placement.items()
    }


def doubts(config: Config, known: Mapping[str, bool]) -> list[str]:
    """Return what may not be meant as it is said: a source that `[learn]`, `[record]`, `[sound]`,
    `[privacy]`, `[gate]`, `[events]` or a sink names and that is not known (it may come, or be a
    typo), and cameras that are to be recorded where there are only files.

    known  sources, and whether each is a camera
    """
    lists = {
        "learn.collect": config.learn.collect,
        "record.sources": config.record.sources,
        "sound.sources": config.sound.sources,
        "privacy.masks": tuple(config.privacy.masks),
        "gate.masks": tuple(gate_masks(config.stages)),
        **{f"sinks.{name}.sources": sink.sources for name, sink in config.sinks.items()},
    }
    named = [
        (key, name) for key, names in lists.items() if not isinstance(names, bool) for name in names
    ]
    for key in ("areas", "lines", "rules"):
        each = getattr(config.events, key).items()
        named += [(f"events.{key}.{name}.source", one.source) for name, one in each if one.source]
    told = [
        f"{key}: {name!r} is no source of this run yet{did_you_mean(name, known)}"
        for key, name in named
        if name not in known
    ]
    if config.record.sources is True and known and not any(known.values()):
        names = ", ".join(f'"{name}"' for name in known)
        told.append(
            f"record.sources = true: all cameras, and there is none; [{names}] records files"
        )
    return told


def gate_masks(stages: Iterable[StageEntry]) -> dict[str, Any]:
    """Return `[gate.masks]` of all stages that have a gate: source -> polygons."""
    masks: dict[str, Any] = {}
    for stage in stages:
        masks |= stage.options.get("gate", {}).get("masks", {}) if stage.uses_models else {}
    return masks


def with_footage(config: Config) -> Config:
    """Return the configuration with the stage that keeps footage, beside the one that publishes; as
    it is, if nothing is to be kept.
    """
    learn = config.learn
    if not learn.collect:
        return config
    publisher = next(stage for stage in config.stages if stage.publishes)
    options = {
        "sources": [] if isinstance(learn.collect, bool) else list(learn.collect),
        "bytes": learn.bytes,
        "days": learn.days,
        "masks": gate_masks(config.stages),
    }
    telling = [
        replace(stage, options={**stage.options, "tells": True})
        if stage.promises and stage.use.startswith("framegate.")
        else stage
        for stage in config.stages
    ]
    collect = StageEntry(COLLECT, BUILTINS["collect"], publisher.input, "drop", False, 1, options)
    return replace(config, stages=(*telling, collect))


def with_save(config: Config, folder: Path, run: str, overwrite: bool) -> Config:
    """Return the configuration with a stage that writes videos, and that decoders wait for."""
    publisher = next(stage for stage in config.stages if stage.publishes)
    options = {
        "folder": str(folder.absolute()),
        "run": run,
        "overwrite": overwrite,
        "codec": config.save.codec,
        "blur_faces": config.privacy.blur_faces,
    }
    save = StageEntry("save", BUILTINS["save"], publisher.input, "wait", False, 1, options)
    return replace(config, stages=(*config.stages, save))


def with_sound(config: Config, models: ModelFunctions) -> Config:
    """Return the configuration with the stage that listens, beside decode and in its shard; as it
    is, if no source is to be heard. Where rules ask for sounds it listens right before what is
    published, so that a result has what was heard, and the one beside it says it again.
    ConfigFaults for labels that there are not.
    """
    sound = config.sound
    if not sound.sources:
        return config
    known = models.sound_labels()
    if unknown := [label for label in sound.labels if label not in known]:
        raise ConfigFaults(
            [
                f"sound.labels: {label!r}: there is no such label{did_you_mean(label, known)}; "
                "docs/sound.md has them all"
                for label in unknown
            ]
        )
    options = {
        "block": sound.block,
        "least_score": sound.least_score,
        "labels": list(sound.labels),
        "quiet_db": sound.quiet_db,
        "most_age_s": sound.most_age_s,
    }
    in_shard = "decode" in config.placement.get(SHARD, ())
    if not sounds_asked(config.events):
        listens = StageEntry(SOUND, BUILTINS["sound"], "decode", "files", False, 0, options)
        placement = _placed_beside(config, SOUND, "decode") if in_shard else config.placement
        return replace(config, stages=(*config.stages, listens), placement=placement)
    publisher = next(stage for stage in config.stages if stage.publishes)
    listens = StageEntry(LISTEN, BUILTINS["sound"], publisher.input, "wait", False, 0, options)
    stages = [
        replace(stage, input=LISTEN) if stage is publisher else stage for stage in config.stages
    ]
    tells = StageEntry(SOUND, BUILTINS["heard"], LISTEN, "files", False, 0, {})
    config = replace(config, placement=_placed_beside(config, LISTEN, publisher.name))
    placement = _placed_beside(config, SOUND, LISTEN) if in_shard else config.placement
    return replace(config, stages=(*stages, listens, tells), placement=placement)


def with_events(config: Config, models: ModelFunctions, folder: Path) -> Config:
    """Return the configuration with the stage that judges its rules, in the publisher's worker and
    waited for; as it is, if there are none. ConfigFaults for labels that no result can have, and
    for sounds that nobody listens to.

    folder  the run's, in which its models are settled
    """
    if not config.events.rules:
        return config
    used = [(stage.name, stage.use, stage.options) for stage in config.stages]
    known = models.labels_known(used, folder)
    faults = [] if known is None else label_faults(config.events, known)
    faults += _sound_faults(config, models)
    if faults:
        raise ConfigFaults(faults)
    publisher = next(stage for stage in config.stages if stage.publishes)
    options = msgspec.to_builtins(config.events)
    events = StageEntry(EVENTS, BUILTINS["events"], publisher.name, "wait", False, 0, options)
    stages = [
        replace(stage, options={**stage.options, "backdrops": True})
        if config.events.asks_where and stage.uses_models and stage.use.startswith("framegate.")
        else stage
        for stage in config.stages
    ]
    return replace(
        config,
        stages=(*stages, events),
        placement=_placed_beside(config, EVENTS, publisher.name),
    )


def _sound_faults(config: Config, models: ModelFunctions) -> list[str]:
    """Faults of rules about sounds: what they ask for is not told, or of a source that is deaf."""
    asked = sounds_asked(config.events)
    if not asked:
        return []
    if not config.sound.sources:
        name = next(iter(asked))
        return [
            f"events.rules.{name}.state = 'heard': no sound is on; set sources = true under [sound]"
        ]
    told = config.sound.labels or models.sound_labels()
    faults = [
        f"events.rules.{name}.labels: {label!r} is not reported; add it to [sound] labels, or "
        f"use a label of docs/sound.md{did_you_mean(label, told)}"
        for name, labels in asked.items()
        for label in labels
        if label not in told
    ]
    for name in asked:
        source = config.events.source_of(config.events.rules[name])
        if source and not config.sound.block_of(source):
            faults.append(
                f"events.rules.{name}.source = {source!r}: the source is not heard; add it "
                "to [sound] sources"
            )
    return faults


def promises(stage: StageEntry) -> bool:
    """Return whether a stage was told to promise anything."""
    table = stage.options.get("promise", {"measure": "off"})
    return stage.promises and str(table.get("measure", "counts")) != "off"
