"""pipeline.toml into frozen dataclasses; everything wrong with it is told at once."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

from framegate.pipeline.addresses import HTTP_DEFAULT, http_fault, origin_fault
from framegate.pipeline.config.events import EventsConfig, read_events
from framegate.pipeline.config.graph import (
    SHARD,
    StageEntry,
    Table,
    graph_faults,
    over_shipped,
    read_stages,
    stages_that,
)
from framegate.pipeline.config.options import read_options, unset_variable
from framegate.pipeline.config.privacy import PrivacyConfig, recording_faults
from framegate.pipeline.config.sinks import SinkConfig, read_sinks
from framegate.pipeline.config.sources import frames_of
from framegate.pipeline.config.store import StoreConfig, store_faults
from framegate.pipeline.errors import ConfigFaults, did_you_mean
from framegate.pipeline.keys import EVENTS, NAME_RULE, is_name
from framegate.pipeline.logs import LogFormat
from framegate.pipeline.source import (
    LEAST_STALL_S,
    MOST_STALL_S,
    SOUND_RATE,
    STALL_S,
    Transport,
)
from framegate.pipeline.spec import PaceName, RecordSpec

PACKAGED = "pipeline.toml"


@dataclass(frozen=True)
class SourceConfig:
    """`[sources.NAME]`: a camera or a file.

    url        path or URL; or webcam:N
    url_env    name of an environment variable that holds the URL, instead of `url`
    pace       of a file. fast: as quickly as it goes. realtime: as its time stamps say
    live       whether it is a camera, whose newest frame wins; none: by its URL
    transport  of RTSP
    frames     which frames are wanted: all, keyframes, or a table (below)
    """

    url: str = ""
    url_env: str | None = None
    pace: PaceName = "fast"
    live: bool | None = None
    transport: Transport = "tcp"
    frames: str | dict[str, Any] = "all"


@dataclass(frozen=True)
class LiveConfig:
    """`[live]`: when a camera is lost, and how it is tried again.

    stall_s       seconds without a frame, or 20 frame periods if these are longer, that are a loss
    retry_most_s  seconds between two tries, at most; pauses grow from try to try
    """

    stall_s: float = field(default=STALL_S, metadata={"least": LEAST_STALL_S, "most": MOST_STALL_S})
    retry_most_s: float = field(default=30.0, metadata={"least": 0.1, "most": 3600.0})


@dataclass(frozen=True)
class CreditConfig:
    """`[credit]`: frames that a decoder may be ahead of the slowest reader that needs each frame.

    file  of a file
    live  of a camera; few, so that results are of now
    """

    file: int = field(default=32, metadata={"least": 1, "most": 1024})
    live: int = field(default=4, metadata={"least": 1, "most": 1024})


@dataclass(frozen=True)
class WorkersConfig:
    """`[workers]`: the processes that host stages.

    hung_s  seconds without progress, with something to do, after which a worker is replaced
    shards  workers that host all stages from decode to the published results, each for its share of
            the sources; no more are started than there are sources. What `[placement]` names goes
            there. 0: the shipped placement, whose workers serve all sources
    """

    hung_s: float = field(default=30.0, metadata={"least": 2.0, "most": 86400.0})
    shards: int = field(default=0, metadata={"least": 0, "most": 256})


@dataclass(frozen=True)
class HttpConfig:
    """`[http]`: the port of the live page, metrics and health.

    listen      HOST:PORT, or off; none: 127.0.0.1:8686, or a free port if that one is taken
    token_file  file with the token that who asks must show; none: in FRAMEGATE_HTTP_TOKEN; else one
                is made in the data folder where others than this host's users can ask. off: none
                is asked for
    origins     other web pages that may ask, each as https://HOST; "*": any
    """

    listen: str | None = None
    token_file: str | None = None
    origins: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """What is wrong with it."""
        faults = []
        if (fault := http_fault(self.listen or HTTP_DEFAULT)) is not None:
            faults.append(f"listen = {self.listen!r}: {fault}")
        file = self.token_file
        if file is not None and file != "off" and not os.access(file, os.R_OK):
            faults.append(f"token_file = {self.token_file!r}: this file cannot be read")
        faults += [f"origins: {o!r}: {why}" for o in self.origins if (why := origin_fault(o))]
        return faults


@dataclass(frozen=True)
class LogConfig:
    """`[log]`: what is written to stderr.

    level   least level that is written
    format  text, or json: an object a line with time, level, part, message, exception
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: LogFormat = "text"


@dataclass(frozen=True)
class SaveConfig:
    """`[save]`: the videos that `run --save` writes.

    codec  vp9: browsers play it, too. mpeg4: a third of the time to write, twice the bytes or
           more; for players like VLC and mpv
    """

    codec: Literal["vp9", "mpeg4"] = "vp9"


@dataclass(frozen=True)
class LearnConfig:
    """`[learn]`: footage that is kept to learn from, in the run's data folder.

    collect  true: of all sources. false: of none. Or names of sources
    bytes    of disk that the footage of all sources takes at most; what is least useful goes
    days     for which it is kept
    """

    collect: bool | tuple[str, ...] = False
    bytes: int = field(default=1 << 30, metadata={"least": 1 << 20})
    days: float = field(default=30.0, metadata={"least": 0.01, "most": 3650.0})

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return _not_names("collect", self.collect)


def _not_names(key: str, sources: bool | tuple[str, ...]) -> list[str]:
    return [
        f"{key}: {name!r} cannot name a source; a name is {NAME_RULE}"
        for name in (() if isinstance(sources, bool) else sources)
        if not is_name(name)
    ]


@dataclass(frozen=True)
class RecordConfig:
    """`[record]`: packets of sources as they came, in files that play, in the run's data folder.

    sources      true: all cameras. false: none. Or names of sources, files too
    bytes        of disk that the recordings of all sources take at most; the oldest go
    days         for which they are kept
    clip_days    for which it is kept what an episode has a clip of
    free_bytes   of the disk that are left to others: below it the oldest recordings go
    """

    sources: bool | tuple[str, ...] = False
    bytes: int = field(default=50 << 30, metadata={"least": 64 << 20})
    days: float = field(default=7.0, metadata={"least": 0.01, "most": 3650.0})
    clip_days: float = field(default=30.0, metadata={"least": 0.01, "most": 3650.0})
    free_bytes: int = field(default=1 << 30, metadata={"least": 16 << 20})

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return _not_names("sources", self.sources)

    def of(self, source: str, live: bool) -> RecordSpec | None:
        """Return how a source is recorded; None if it is not."""
        named = live and self.sources if isinstance(self.sources, bool) else source in self.sources
        if not named:
            return None
        return RecordSpec(self.bytes, self.days, self.clip_days, self.free_bytes)


@dataclass(frozen=True)
class SoundConfig:
    """`[sound]`: what is heard, in windows of .975 s, each with labels of AudioSet.

    sources      true: all that have a sound track. false: none. Or names of sources
    hop_s        seconds from a window to the next
    least_score  of a label that is told, 0 to 1
    labels       that are told, as "Smoke detector, smoke alarm"; none: all
    quiet_db     a window that is nowhere louder is not looked at: decibels of full scale, in the
                 loudest tenth of a second
    most_age_s   seconds for which labels hold while nothing sounds otherwise; then the network
                 looks again. 0: it looks at each window
    """

    sources: bool | tuple[str, ...] = False
    hop_s: float = field(default=0.4875, metadata={"least": 0.1, "most": 10.0})
    least_score: float = field(default=0.3, metadata={"least": 0.01, "most": 1.0})
    labels: tuple[str, ...] = ()
    quiet_db: float = field(default=-55.0, metadata={"least": -120.0, "most": 0.0})
    most_age_s: float = field(default=10.0, metadata={"least": 0.0, "most": 3600.0})

    @property
    def block(self) -> int:
        """Samples of a hop."""
        return round(self.hop_s * SOUND_RATE)

    def block_of(self, source: str) -> int:
        """Samples of a hop of this source; 0: it is not heard."""
        named = self.sources if isinstance(self.sources, bool) else source in self.sources
        return self.block if named else 0

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return _not_names("sources", self.sources)


@dataclass(frozen=True)
class Config:
    """A whole checked configuration; `origin` says where it was read."""

    origin: str
    store: StoreConfig
    credit: CreditConfig
    live: LiveConfig
    workers: WorkersConfig
    log: LogConfig
    http: HttpConfig
    save: SaveConfig
    learn: LearnConfig
    record: RecordConfig
    sound: SoundConfig
    privacy: PrivacyConfig
    events: EventsConfig
    sources: dict[str, SourceConfig]
    stages: tuple[StageEntry, ...]
    placement: dict[str, tuple[str, ...]]
    sinks: dict[str, SinkConfig] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict, compare=False)
    """Where each key was said that is not by default, by its dotted path: in a file, or on the
    command line.
    """

    def said_options(self, stage: StageEntry, table: str = "") -> dict[str, Any]:
        """Options of a stage, or of a table that it owns, without what only a variable holds."""
        path = table or f"stages.{stage.name}"
        options = stage.options.get(table, {}) if table else stage.options
        return {key: value for key, value in options.items() if f"{path}.{key}" in self.said}


ENGINE_TABLES: Final[Mapping[str, Any]] = {
    "store": StoreConfig,
    "credit": CreditConfig,
    "live": LiveConfig,
    "workers": WorkersConfig,
    "log": LogConfig,
    "http": HttpConfig,
    "save": SaveConfig,
    "learn": LearnConfig,
    "record": RecordConfig,
    "sound": SoundConfig,
    "privacy": PrivacyConfig,
    "events": EventsConfig,
    "sources.NAME": SourceConfig,
    "sinks.NAME": SinkConfig,
}
"""What reads each table that belongs to no stage."""
_TABLES: Final = (*(path.split(".")[0] for path in ENGINE_TABLES), "stages", "placement")

DEFAULTS = "the defaults"
COMMAND_LINE = "command line"


@functools.cache
def packaged_text() -> str:
    """The packaged pipeline.toml: every key with its default, and the shipped graph."""
    return files("framegate.pipeline.config").joinpath(PACKAGED).read_text()


def shipped_graph() -> Table:
    """Tables `stages` and `placement` of the packaged file."""
    return tomllib.loads(packaged_text())


def find_config(path: Path | None) -> tuple[str, str]:
    """Where a configuration is and its text: `path`, else ./pipeline.toml, else nothing is said."""
    chosen = path if path is not None else Path(PACKAGED)
    if path is None and not chosen.exists():
        return DEFAULTS, ""
    try:
        return str(chosen), chosen.read_text()
    except FileNotFoundError as error:
        names = [each.name for each in _listed(chosen.parent) if each.suffix == ".toml"]
        near = did_you_mean(chosen.name, names)
        raise ConfigFaults([f"configuration {chosen}: there is no such file{near}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigFaults([f"configuration {chosen}: not TOML: it is not UTF-8"]) from error
    except OSError as error:
        raise ConfigFaults([f"configuration {chosen}: {error.strerror}"]) from error


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def read_config(
    origin: str,
    text: str,
    changes: Mapping[str, Table] | None = None,
    detection: Mapping[str, Any] | None = None,
) -> Config:
    """The checked configuration: the defaults, `text` over them, and `changes` over both.

    changes    what the command line says, as tables
    detection  what the command line says of detection: options of the stage that uses models;
               its classes are those of a stage that takes them, too

    ConfigFaults carries all faults, each with where it was said, its key path, the value and what
    is allowed.
    """
    changes = changes or {}
    given = parsed_toml(origin, text)
    tables = {key: table for key, table in given.items() if isinstance(table, dict)}
    faults = [f"{key} = {given[key]!r}: must be a table" for key in given if key not in tables]
    faults += [
        f"sources.{name}: it is in {origin} and on the command line; give one of them another name"
        for name in tables.get("sources", {}).keys() & changes.get("sources", {}).keys()
    ]
    whole = over_shipped(_merged(tables, changes), shipped_graph())
    if detection:
        told = _of_detection(whole["stages"], detection)
        if not told:
            faults.append(f"{', '.join(detection)}: no stage uses models, so this is about none")
        changes = _merged(dict(changes), {"stages": told})
        whole = _merged(whole, {"stages": told})
    whole = _merged(whole, {"stages": _with_classes(whole.get("stages", {}))})
    config = _read_tables(origin, whole, faults)
    if config is None or faults:
        said_there = tuple(f"{path}{mark}" for path in _paths(changes) for mark in " :")
        raise ConfigFaults(
            [f"{COMMAND_LINE if f.startswith(said_there) else origin}: {f}" for f in faults]
        )
    said = dict.fromkeys(_paths(tables), origin) | dict.fromkeys(_paths(changes), COMMAND_LINE)
    return replace(config, said=said)


def parsed_toml(origin: str, text: str) -> Table:
    """What a text says. ConfigFaults, with line and column, if it is no TOML; no line is quoted:
    there may be a password in it.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFaults([f"{origin}: not TOML: {_toml_fault(str(error))}"]) from error
    except RecursionError:
        raise ConfigFaults([f"{origin}: tables or lists within too many others"]) from None


def _toml_fault(message: str) -> str:
    """A parser's message, and what to do about the three that people meet."""
    if twice := re.match(r"Cannot declare \((.*?),?\) twice", message):
        table = ".".join(re.findall(r"'([^']*)'", twice[1]))
        return f"{message}: [{table}] may stand there once; put the keys of both under one"
    if message.startswith("Cannot overwrite a value"):
        return f"{message}: a key may stand in a table once"
    if message.startswith("Invalid value"):
        return f"{message}: a text stands in quotes, a number begins with a digit"
    return message


def _of_detection(stages: Table, detection: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by stage."""
    told = {name: dict(detection) for name in stages_that(stages, "uses_models")}
    if told and "classes" in detection:
        others = stages_that(stages, "takes_classes")
        told |= {name: {"classes": detection["classes"]} for name in others if name not in told}
    return told


def _with_classes(stages: Table) -> dict[str, dict[str, Any]]:
    """The classes of the stage that uses models, for stages that take them and do not say any."""
    users = stages_that(stages, "uses_models")
    said = [stages[name]["classes"] for name in users if "classes" in stages[name]]
    others = stages_that(stages, "takes_classes") if said else []
    missing = [name for name in others if name not in users and "classes" not in stages[name]]
    return {name: {"classes": said[0]} for name in missing}


def _paths(tables: Mapping[str, Any], before: str = "") -> list[str]:
    paths = []
    for key, value in tables.items():
        path = f"{before}{key}"
        paths += [path, *_paths(value, f"{path}.")] if isinstance(value, dict) else [path]
    return paths


def _merged(tables: Table, changes: Mapping[str, Any]) -> Table:
    merged = dict(tables)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _read_tables(origin: str, tables: Table, faults: list[str]) -> Config | None:
    store = read_options(StoreConfig, tables.get("store", {}), "store.", faults)
    if store is not None:
        faults += store_faults(store)
    credit = read_options(CreditConfig, tables.get("credit", {}), "credit.", faults)
    live = read_options(LiveConfig, tables.get("live", {}), "live.", faults)
    workers = read_options(WorkersConfig, tables.get("workers", {}), "workers.", faults)
    log = read_options(LogConfig, tables.get("log", {}), "log.", faults)
    http = read_options(HttpConfig, tables.get("http", {}), "http.", faults)
    save = read_options(SaveConfig, tables.get("save", {}), "save.", faults)
    learn = read_options(LearnConfig, tables.get("learn", {}), "learn.", faults)
    record = read_options(RecordConfig, tables.get("record", {}), "record.", faults)
    sound = read_options(SoundConfig, tables.get("sound", {}), "sound.", faults)
    privacy = read_options(PrivacyConfig, tables.get("privacy", {}), "privacy.", faults)
    if privacy is not None and record is not None:
        faults += recording_faults(privacy, record.sources)
    events = read_events(tables.get("events", {}), faults)
    sources = _read_sources(tables.get("sources", {}), faults)
    stages = read_stages(tables, _TABLES, faults)
    placement = tables.get("placement", {})
    for worker, names in placement.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            faults.append(f"placement.{worker} = {names!r}: allowed is a list of stage names")
            placement = {}
            break
    if events is not None and events.rules and EVENTS in tables.get("stages", {}):
        faults.append(f"stages.{EVENTS}: this name is kept for the table [events], which has rules")
    if workers is not None and workers.shards and SHARD not in placement:
        faults.append(
            f"workers.shards = {workers.shards}: [placement] names all stages, so there is none "
            f"that they could host; leave it out, or give it {SHARD} = [...]"
        )
    if stages is not None:
        faults += graph_faults(stages, placement)
    rules = tables.get("events", {}).get("rules", {})
    known = rules if isinstance(rules, dict) else {}  # what is wrong with them is told elsewhere
    sinks = read_sinks(tables.get("sinks", {}), tables.get("stages", {}), known, faults)
    if (
        store is None
        or credit is None
        or live is None
        or workers is None
        or log is None
        or http is None
        or save is None
        or learn is None
        or record is None
        or sound is None
        or privacy is None
        or events is None
    ):
        return None
    if sources is None or stages is None:
        return None
    placed = {worker: tuple(names) for worker, names in placement.items()}
    return Config(
        origin,
        store,
        credit,
        live,
        workers,
        log,
        http,
        save,
        learn,
        record,
        sound,
        privacy,
        events,
        sources,
        tuple(stages),
        placed,
        sinks,
    )


def _read_sources(table: Table, faults: list[str]) -> dict[str, SourceConfig] | None:
    sources = {}
    for name, entry in table.items():
        path = f"sources.{name}"
        if not is_name(name):
            faults.append(f"{path}: a source's name is {NAME_RULE}")
        if not isinstance(entry, dict):
            faults.append(f"{path} = {entry!r}: must be a table with url or url_env")
            continue
        source = read_options(SourceConfig, entry, f"{path}.", faults)
        if source is not None:
            if bool(source.url) == bool(source.url_env):
                faults.append(f"{path}: must have either url or url_env")
            faults += unset_variable(source.url_env, f"{path}.url_env")
            try:
                frames_of(source.frames)
            except ValueError as error:
                faults.append(f"{path}.frames = {source.frames!r}: {error}")
            sources[name] = source
    return sources
