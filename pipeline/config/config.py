"""Read pipeline.toml into frozen dataclasses. All faults are reported at once."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

from framegate.pipeline.config.by_source import (
    LearnConfig,
    PrivacyConfig,
    RecordConfig,
    SoundConfig,
    recording_faults,
)
from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.config.graph import SHARD, StageEntry, graph_faults, undecoded_faults
from framegate.pipeline.config.read_events import eventless_faults, read_events
from framegate.pipeline.config.read_options import read_named, read_options, unreadable
from framegate.pipeline.config.read_stages import Table, over_shipped, read_stages, stages_that
from framegate.pipeline.config.sinks import SinkConfig, read_sinks, rule_faults
from framegate.pipeline.config.sources import SourceConfig, read_sources
from framegate.pipeline.config.store import StoreConfig
from framegate.pipeline.config.telemetry import TelemetryConfig
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import EVENTS
from framegate.pipeline.contracts.object_filters import NamedFilter, ObjectFilter
from framegate.pipeline.contracts.source import (
    LEAST_STALL_S,
    MOST_STALL_S,
    STALL_S,
    DecodeMode,
)
from framegate.pipeline.contracts.spec import LogFormat
from framegate.pipeline.system.loading import make_importable
from framegate.pipeline.system.ports import HTTP_DEFAULT, http_fault, network_fault, origin_fault

PACKAGED = "pipeline.toml"

ReadTable = Callable[[Table, list[str]], Any]
"""read(table, faults) returns the content of a table and appends its faults."""


@dataclass(frozen=True)
class LiveConfig:
    """`[live]`: when a camera counts as lost, and how often Framegate tries to connect again.

    stall_s       seconds without a frame after which a camera is lost. If 20 frame periods are
                  longer, that time applies
    retry_most_s  longest pause in seconds between two attempts to connect. The pause grows from
                  0.5 to 2 s, stays there for 10 attempts, and then grows with each of them
    decode        decode of all cameras that have no key of their own: see [sources.NAME]
    """

    stall_s: float = field(default=STALL_S, metadata={"least": LEAST_STALL_S, "most": MOST_STALL_S})
    retry_most_s: float = field(default=30.0, metadata={"least": 0.1, "most": 3600.0})
    decode: DecodeMode = "always"


@dataclass(frozen=True)
class CreditConfig:
    """`[credit]`: how many frames a decoder may be ahead of the slowest reader that needs every
    frame. It limits the length of streams, shared memory (credit + 1 pictures per source)
    and waiting time.

    file  limit for a file
    live  limit for a camera. It is small, so that results describe the present
    """

    file: int = field(default=32, metadata={"least": 1, "most": 1024})
    live: int = field(default=4, metadata={"least": 1, "most": 1024})


@dataclass(frozen=True)
class WorkersConfig:
    """`[workers]`: the processes that run stages.

    hung_s  seconds without progress after which a worker that has work is killed and replaced.
            Raise it for a stage that needs longer for one frame
    shards  maximum number of workers that run all stages of the main path, each for its share of
            the sources. Default: one per core, or none if `[placement]` names a stage of that path.
            0: three workers, ingest, infer and publish, each for all sources
    fill    number of cameras, and of files with pace realtime, that a shard gets before the next
            shard starts. Further sources, and each file at full speed, go to the shard that has the
            fewest
    """

    hung_s: float = field(default=30.0, metadata={"least": 2.0, "most": 86400.0})
    shards: int | None = field(default=None, metadata={"least": 0, "most": 256})
    fill: int = field(default=4, metadata={"least": 1, "most": 1024})


@dataclass(frozen=True)
class HttpConfig:
    """`[http]`: the port of the live page, metrics and health. Without TLS, use it in a
    trusted network or behind a proxy.

    listen      HOST:PORT, or off. Default: 127.0.0.1:8686, or a free port from 8687 on if that port
                is in use. A resumed run uses the same port again
    token_file  file with the token that each request must carry. Default: the token in
                FRAMEGATE_HTTP_TOKEN; otherwise, if other hosts can reach the port, a token that
                Framegate writes to http.token in the data folder. off: no token is needed
    accounts_file  file of accounts, which framegate account writes: each has a role and a list of
                sources. Each request then needs the token of an account, or the token of the run
    tls_certificate  file with the certificate and its chain, PEM. Other hosts must then use https;
                programs of this host may use http too. A changed file is used from the next
                connection on
    tls_key     file with the key of the certificate, PEM. Default: it is in the file of the
                certificate
    proxies     addresses or networks of proxies that log users in, such as 127.0.0.1 or 10.0.0.0/8.
                Their headers are believed; those of all others are ignored
    proxy_user  header in which these proxies name the user
    proxy_groups  header in which these proxies name the user's groups, with commas or | between;
                an account with one of the groups is the user's
    origins     origins of other web pages that may send requests, each as https://HOST. "*": every
                origin
    """

    listen: str | None = None
    token_file: str | None = None
    accounts_file: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    proxies: tuple[str, ...] = ()
    proxy_user: str = "X-Forwarded-User"
    proxy_groups: str = "X-Forwarded-Groups"
    origins: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """Return the faults of the table."""
        faults = []
        fault = http_fault(self.listen or HTTP_DEFAULT)
        if fault is not None:
            faults.append(f"listen = {self.listen!r}: {fault}")
        file = self.token_file
        if file is not None and file != "off" and (reason := unreadable(file)):
            faults.append(f"token_file = {file!r}: {reason}")
        accounts = self.accounts_file
        if accounts is not None and (reason := unreadable(accounts)):
            faults.append(
                f"accounts_file = {accounts!r}: {reason}; framegate account add NAME makes the "
                "file, for its owner only"
            )
        if accounts is not None and file == "off":
            faults.append('token_file = "off": with accounts_file, each request needs a token')
        if self.tls_key is not None and self.tls_certificate is None:
            faults.append("tls_key: it needs tls_certificate")
        if self.proxies and accounts is None:
            faults.append("proxies: they need accounts_file, which gives roles to groups of users")
        for address in self.proxies:
            fault = network_fault(address)
            if fault is not None:
                faults.append(f"proxies: {address!r}: {fault}")
        for origin in self.origins:
            fault = origin_fault(origin)
            if fault is not None:
                faults.append(f"origins: {origin!r}: {fault}")
        return faults


@dataclass(frozen=True)
class LogConfig:
    """`[log]`: log lines on stderr.

    level   lowest level that is written
    format  text, or json: one object per line with time, level, part, message and, if there is one,
            exception
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: LogFormat = "text"


@dataclass(frozen=True)
class SaveConfig:
    """`[save]`: the videos that `framegate run --save` writes.

    codec  vp9 plays in browsers. mpeg4 takes a third of the time and at least twice the bytes; use
           a player such as VLC or mpv
    """

    codec: Literal["vp9", "mpeg4"] = "vp9"


@dataclass(frozen=True)
class Config:
    """A complete, checked configuration.

    origin   file that it was read from
    origins  origin of each key that is set, by dotted path: a file, or the command line
    """

    origin: str
    store: StoreConfig
    credit: CreditConfig
    live: LiveConfig
    workers: WorkersConfig
    log: LogConfig
    http: HttpConfig
    telemetry: TelemetryConfig
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
    filters: dict[str, ObjectFilter] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict, compare=False)

    def set_options(self, stage: StageEntry, table: str = "") -> dict[str, Any]:
        """Return the options of a stage, or of its table, that are set, without secret values."""
        path = f"stages.{stage.name}"
        options = stage.options
        if table:
            path = table
            options = stage.options.get(table, {})
        return {key: value for key, value in options.items() if f"{path}.{key}" in self.origins}


ENGINE_TABLES: Final[Mapping[str, Any]] = {
    "store": StoreConfig,
    "credit": CreditConfig,
    "live": LiveConfig,
    "workers": WorkersConfig,
    "log": LogConfig,
    "http": HttpConfig,
    "telemetry": TelemetryConfig,
    "save": SaveConfig,
    "learn": LearnConfig,
    "record": RecordConfig,
    "sound": SoundConfig,
    "privacy": PrivacyConfig,
    "filters.NAME": ObjectFilter,
    "events": EventsConfig,
    "sources.NAME": SourceConfig,
    "sinks.NAME": SinkConfig,
}
"""The class of each table that belongs to no stage."""


def _reader(name: str, kind: Any) -> ReadTable:
    return lambda table, faults: read_options(kind, table, f"{name}.", faults)


def _read_filters(table: Table, faults: list[str]) -> dict[str, ObjectFilter]:
    return read_named(ObjectFilter, table, "filters", "a table", faults)


def named_filter(name: str, table: Mapping[str, Any]) -> NamedFilter:
    """Return the filter with the keys of a table `[filters.NAME]`. ConfigFaults with all faults."""
    faults: list[str] = []
    new = read_options(ObjectFilter, dict(table), f"filters.{name[:32]}.", faults)
    if new is None:
        raise ConfigFaults(faults)
    values: dict[str, Any] = vars(new)
    return NamedFilter(**values, name=name)


_READERS: Final[Mapping[str, ReadTable]] = {
    **{name: _reader(name, kind) for name, kind in ENGINE_TABLES.items() if "." not in name},
    "events": read_events,
    "sources": read_sources,
    "sinks": read_sinks,
    "filters": _read_filters,
}
"""The function that reads each table; it returns the field of Config, or None after a fault."""

DEFAULTS = "the defaults"
COMMAND_LINE = "command line"


@functools.cache
def packaged_text() -> str:
    """Return the default pipeline.toml: every key with its default, and the shipped graph."""
    return files("framegate.pipeline.config").joinpath(PACKAGED).read_text(encoding="utf-8")


def shipped_graph() -> Table:
    """Return the tables `stages` and `placement` of the default file."""
    return tomllib.loads(packaged_text())


def find_config(path: Path | None) -> tuple[str, str]:
    """Return the place and the text of a configuration: `path`, or ./pipeline.toml, or no text.

    This process and the workers that it starts can then import modules from the folder of the file.

    Raises ConfigFaults if the file cannot be read.
    """
    chosen = path or Path(PACKAGED)
    if path is None and not chosen.exists():
        return DEFAULTS, ""
    try:
        text = chosen.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        names = [each.name for each in _listed(chosen.parent) if each.suffix == ".toml"]
        near = did_you_mean(chosen.name, names)
        raise ConfigFaults([f"configuration {chosen}: this file does not exist{near}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigFaults([f"configuration {chosen}: not TOML: the file is not UTF-8"]) from error
    except OSError as error:
        raise ConfigFaults([f"configuration {chosen}: {error.strerror}"]) from error
    make_importable(chosen.absolute().parent)
    return str(chosen), text


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
    without: Collection[str] = (),
) -> Config:
    """Return the checked configuration: the defaults, overridden by `text` and then by `changes`.

    changes    tables from the command line
    without    tables of `text` that are ignored
    detection  options from the command line for the stage that uses models. Its classes also go to
               each stage that takes classes

    Raises ConfigFaults with all faults, each with its place, key path, value and allowed values.
    """
    changes = changes or {}
    given = parsed_toml(origin, text)
    for name in without:
        given.pop(name, None)
    tables = {key: table for key, table in given.items() if isinstance(table, dict)}
    faults = [f"{key} = {given[key]!r}: must be a table" for key in given if key not in tables]
    faults += [
        f"sources.{name}: this name is in {origin} and on the command line; rename one source"
        for name in tables.get("sources", {}).keys() & changes.get("sources", {}).keys()
    ]
    faults += [
        f"{key} = {value!r}: must be a table"
        for key, value in changes.items()
        if not isinstance(value, dict)
    ]
    whole = over_shipped(_merged(tables, changes), shipped_graph())
    if detection:
        by_stage = _of_detection(whole["stages"], detection)
        if not by_stage:
            faults.append(f"{', '.join(detection)}: no stage of this graph uses models")
        changes = _merged(dict(changes), {"stages": by_stage})
        whole = _merged(whole, {"stages": by_stage})
    whole = _merged(whole, {"stages": _with_classes(whole.get("stages", {}))})
    config = _read_tables(origin, whole, faults)
    if config is None or faults:
        raise ConfigFaults(_with_origins(faults, origin, _paths(changes)))
    origins = dict.fromkeys(_paths(tables), origin) | dict.fromkeys(_paths(changes), COMMAND_LINE)
    return replace(config, origins=origins)


def _with_origins(faults: list[str], origin: str, changed: list[str]) -> list[str]:
    """Put the origin of its key before each fault. changed: keys of the command line"""
    starts = (*(f"{path} " for path in changed), *(f"{path}:" for path in changed))
    placed = []
    for fault in faults:
        if fault.startswith(starts):
            placed.append(f"{COMMAND_LINE}: {fault}")
        else:
            placed.append(f"{origin}: {fault}")
    return placed


def parsed_toml(origin: str, text: str) -> Table:
    """Return the tables of a text.

    Raises ConfigFaults with line and column if it is not TOML. The fault does not quote the line,
    which may contain a password.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFaults([f"{origin}: not TOML: {_toml_fault(str(error))}"]) from error
    except RecursionError:
        raise ConfigFaults([f"{origin}: tables or lists are nested too deeply"]) from None


def _toml_fault(message: str) -> str:
    """Return a message of the parser, with a remedy for three common mistakes."""
    repeated = re.match(r"Cannot declare \((.*?),?\) twice", message)
    if repeated is not None:
        table = ".".join(re.findall(r"'([^']*)'", repeated[1]))
        return f"{message}: a file can have [{table}] once; put all its keys there"
    if message.startswith("Cannot overwrite a value"):
        return f"{message}: a table can have a key once"
    if message.startswith("Invalid value"):
        return f"{message}: a string needs quotes; a number starts with a digit"
    return message


def _of_detection(stages: Table, detection: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of detection by stage."""
    options = {name: dict(detection) for name in stages_that(stages, "uses_models")}
    if options and "classes" in detection:
        for name in stages_that(stages, "takes_classes"):
            options.setdefault(name, {"classes": detection["classes"]})
    return options


def _with_classes(stages: Table) -> dict[str, dict[str, Any]]:
    """Return the classes of the stage with models for stages that take classes and have none."""
    users = stages_that(stages, "uses_models")
    classes = [stages[name]["classes"] for name in users if "classes" in stages[name]]
    if not classes:
        return {}
    others = stages_that(stages, "takes_classes")
    missing = [name for name in others if name not in users and "classes" not in stages[name]]
    return {name: {"classes": classes[0]} for name in missing}


def _paths(tables: Mapping[str, Any], before: str = "") -> list[str]:
    paths = []
    for key, value in tables.items():
        path = f"{before}{key}"
        paths.append(path)
        if isinstance(value, dict):
            paths += _paths(value, f"{path}.")
    return paths


def _merged(tables: Table, changes: Mapping[str, Any]) -> Table:
    merged = dict(tables)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def _read_tables(origin: str, tables: Table, faults: list[str]) -> Config | None:
    read = {name: _READERS[name](tables.get(name, {}), faults) for name in _READERS}
    stages = read_stages(tables, (*_READERS, "stages", "placement"), faults)
    placement = _read_placement(tables.get("placement", {}), faults)
    faults += _faults_together(tables, read, placement)
    if stages is not None:
        of_graph = graph_faults(stages, placement)
        faults += of_graph
        if not of_graph:
            faults += undecoded_faults(stages, _lazy_keys(read))
    if stages is None or None in read.values():
        return None
    return Config(origin=origin, stages=tuple(stages), placement=placement, **read)


def _read_placement(table: Table, faults: list[str]) -> dict[str, tuple[str, ...]]:
    for worker, names in table.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            faults.append(f"placement.{worker} = {names!r}: must be a list of stage names")
            return {}
    return {worker: tuple(names) for worker, names in table.items()}


def _faults_together(
    tables: Table, read: Mapping[str, Any], placement: Mapping[str, Any]
) -> list[str]:
    """Return the faults between tables that have no faults of their own."""
    faults = []
    stages = tables.get("stages", {})
    rules = tables.get("events", {}).get("rules", {})
    if not isinstance(rules, dict):  # reported as a fault of [events]
        rules = {}
    if read["privacy"] is not None and read["record"] is not None:
        faults += recording_faults(read["privacy"], read["record"].sources)
    if read["events"] is not None and rules and EVENTS in stages:
        faults.append(
            f"stages.{EVENTS}: this name is reserved for the rules in [events]; rename the stage"
        )
    workers = read["workers"]
    if workers is not None and workers.shards and SHARD not in placement:
        faults.append(
            f"workers.shards = {workers.shards}: [placement] names all stages, so none is left "
            f"for the shards; remove this key, or add {SHARD} = [...] to [placement]"
        )
    if read["events"] is not None:
        followed = {name: source.events for name, source in (read["sources"] or {}).items()}
        faults += eventless_faults(read["events"], followed)
    return faults + rule_faults(read["sinks"], stages, rules)


def _lazy_keys(read: Mapping[str, Any]) -> list[str]:
    """Return the keys that let sources be decoded lazily."""
    lazy = [name for name, each in (read["sources"] or {}).items() if each.decode == "lazy"]
    keys = [f"sources.{name}.decode" for name in lazy]
    if read["live"] is not None and read["live"].decode == "lazy":
        keys.append("live.decode")
    return keys
