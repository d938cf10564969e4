"""Read a fleet.toml: the slots of a fleet with their cores, and its sources with their costs."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from framegate.pipeline.config.read_options import read_named
from framegate.pipeline.config.sources import SourceConfig, frames_of, is_live, is_remote
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.redaction import secrets_of
from framegate.pipeline.fleet.change import FleetContent
from framegate.pipeline.fleet.plan import FleetSource

_PLACES: Final = ("url", "look_at")  # keys whose variant NAME_env keeps a secret on the hosts
DEFAULT_COST = 0.18  # cores of a camera with 1080p: 11 of them fill two cores


@dataclass(frozen=True)
class SlotConfig:
    """`[slots.NAME]`: a process that serves sources, `framegate run --slot NAME`.

    cores  CPU cores that its sources may need together
    """

    cores: float = field(default=2.0, metadata={"least": 0.1, "most": 1024.0})


@dataclass(frozen=True)
class FleetSourceConfig(SourceConfig):
    """`[sources.NAME]` of a fleet: the keys of a source in pipeline.toml, and its cost.

    cost  CPU cores that it needs, as `framegate check` reports. Default: what its slot measured,
          and that of a camera with 1080p until then
    """

    cost: float = field(default=DEFAULT_COST, metadata={"least": 0.0, "most": 1024.0})


def read_fleet(text: str, origin: str) -> FleetContent:
    """Return the content of a fleet.toml. ConfigFaults with all faults.

    The variables of `url_env` are not read: only the hosts of the slots have them.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFaults([f"{origin}: {error}"]) from None
    faults = [
        f"{key}: unknown table; a fleet has [slots.NAME] and [sources.NAME]"
        for key in tables
        if key not in ("slots", "sources")
    ]
    slots = read_named(SlotConfig, _table(tables, "slots", faults), "slots", "a table", faults)
    if not slots and not faults:
        faults.append("slots: there is none; add [slots.NAME] for each framegate run --slot NAME")
    listed = _table(tables, "sources", faults)
    kind = "a table with url or url_env"
    sources = read_named(FleetSourceConfig, listed, "sources", kind, faults)
    for name, source in sources.items():
        faults += _source_faults(f"sources.{name}", source)
    if faults:
        raise ConfigFaults([f"{origin}: {fault}" for fault in faults])
    return FleetContent(
        {name: slot.cores for name, slot in slots.items()},
        {name: _fleet_source(source, listed[name]) for name, source in sources.items()},
    )


def read_fleet_file(path: Path) -> FleetContent:
    """Return the content of a fleet.toml at `path`. ConfigFaults."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "the file is not UTF-8"
        raise ConfigFaults([f"{path}: {reason}; write it as docs/fleet.md shows"]) from None
    return read_fleet(text, str(path))


def plain_cameras(content: FleetContent) -> list[str]:
    """Return the sources whose camera has its path in the plan. A path may have a secret that looks
    like any other word, as in `/live/admin/PASSWORD/1`.
    """
    return [
        name
        for name, source in content.sources.items()
        if any(_is_plain_camera(source.keys.get(key, "")) for key in _PLACES)
    ]


def _is_plain_camera(url: str) -> bool:
    _, _, place = url.partition("://")
    return is_live(url) and bool(place.partition("/")[2])


def _table(tables: dict[str, Any], key: str, faults: list[str]) -> dict[str, Any]:
    table = tables.get(key, {})
    if isinstance(table, dict):
        return table
    faults.append(f"{key} = {table!r}: must be tables, [{key}.NAME]")
    return {}


def _source_faults(path: str, source: FleetSourceConfig) -> list[str]:
    faults = []
    if bool(source.url) == bool(source.url_env):
        faults.append(f"{path}: must have either url or url_env")
    remedies = {key: f"use {key}_env, the name of a variable of each host" for key in _PLACES}
    remedies["events"] = "remove its login, because the login of the stream is used"
    for key, remedy in remedies.items():
        if secrets_of(getattr(source, key) or ""):
            faults.append(
                f"{path}.{key}: has a secret, which the store would show to all of its readers; "
                f"{remedy}"
            )
    if source.url and not is_remote(source.url) and not Path(source.url).is_absolute():
        faults.append(
            f"{path}.url = {source.url!r}: must be an absolute path on storage that all hosts share"
        )
    try:
        frames_of(source.frames)
    except ValueError as error:
        faults.append(f"{path}.frames = {source.frames!r}: {error}")
    return faults


def _fleet_source(source: FleetSourceConfig, table: dict[str, Any]) -> FleetSource:
    names = {each.name for each in dataclasses.fields(SourceConfig)}
    keys = {key: table[key] for key in table if key in names}
    if "cost" in table:
        return FleetSource(keys, source.cost)
    return FleetSource(keys, source.cost, cost_from="default")
