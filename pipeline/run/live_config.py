"""The configuration of an active run: read again, changed in its file, and used without a restart.

Rules with their areas, lines, schedules and profiles, filters, sinks and masks change at once. All
else waits for the next start, and `waits` names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.config.by_source import recording_faults
from framegate.pipeline.config.config import DEFAULTS, Config, parsed_toml
from framegate.pipeline.config.config_file import (
    Check,
    ConfigFile,
    change_file,
    digest_of,
    earlier_text,
    read_config_file,
    read_text,
    versions,
)
from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.config.sinks import hide_services
from framegate.pipeline.config.toml_edit import value_at, with_value
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.keys import COLLECT, EVENTS, LISTEN, NAME_RULE, is_name
from framegate.pipeline.contracts.live_config import (
    ANY,
    ChangeConfig,
    ConfigRequest,
    EditableConfig,
    GetConfig,
    ReloadConfig,
    RestoreConfig,
)
from framegate.pipeline.contracts.redaction import HIDDEN, redacted
from framegate.pipeline.run.models import RunModels
from framegate.pipeline.run.plan import check_filters, event_faults, is_shipped
from framegate.pipeline.run.source_forms import gate_masks

NO_FILE: Final = (
    "this run has no configuration file; start it with one: framegate run -c pipeline.toml"
)
MAX_CHANGES: Final = 64  # in a request
_NAMED: Final = ("rules", "areas", "lines", "profiles")  # tables of [events]
_EVENT_KEYS: Final = ("profile", "snoozed", "timezone", "view", "reconnect_s", "handover")
_TABLES: Final = ("filters", "sinks")
_PLACES: Final = (
    "events.rules.NAME, events.areas.NAME, events.lines.NAME, events.profiles.NAME, "
    "events.profile, events.snoozed, events.snoozed_sources.SOURCE, events.timezone, "
    "events.view, events.reconnect_s, events.handover, "
    "filters.NAME, sinks.NAME, privacy.masks.SOURCE and gate.masks.SOURCE"
)
_FIXED: Final = (
    "store", "credit", "live", "workers", "log", "http", "save", "learn", "record", "sound",
    "sources", "placement",
)  # fmt: skip


class RunConfig:
    """The configuration of an active run. One thread at a time; the methods may block.

    used  the configuration that the run uses
    """

    def __init__(
        self, config: Config, whole: Config, models: RunModels, read: Check | None
    ) -> None:
        """Keep the parts.

        config  the configuration
        whole   the same with the stages that the run adds
        read    returns the configuration of a text with the command line of the run; None: the run
                is inside a program, which has the configuration
        """
        self.used = config
        self._started = config
        self._whole = whole
        self._models = models
        self._stages = [stage.name for stage in whole.stages]
        self._options = {stage.name: stage.options for stage in whole.stages}
        self._read = read
        self._path = ""
        if read is not None and config.origin != DEFAULTS:
            self._path = str(Path(config.origin).absolute())
        self._events = _live_events(config.events, self._stages)[0]

    def new_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the stages that `used` changes, by stage, since the last call."""
        masks = gate_masks(self.used.stages)
        options = {}
        for stage in self._whole.stages:
            if stage.name == EVENTS:
                options[stage.name] = dict(msgspec.to_builtins(self._events))
            elif stage.uses_models and is_shipped(stage):
                options[stage.name] = _with_masks(stage, masks)
                if self._events.asks_where or "backdrops" in stage.options:
                    options[stage.name]["backdrops"] = self._events.asks_where
        changed = {name: each for name, each in options.items() if each != self._options[name]}
        self._options |= changed
        return changed

    def for_sources(self) -> Config:
        """Return the configuration by which sources are served: the first one, with new masks."""
        masks = gate_masks(self.used.stages)
        stages = []
        for stage in self._whole.stages:
            if stage.uses_models:
                stage = replace(stage, options=_with_masks(stage, masks))
            stages.append(stage)
        privacy = replace(self._whole.privacy, masks=self.used.privacy.masks)
        return replace(self._whole, privacy=privacy, stages=tuple(stages))

    def take(self, request: ConfigRequest) -> bool:
        """Do what is asked in the file; return whether the run is to use `used` from now on.

        ConfigFaults with all faults; FileChanged if the user saw another text. Nothing is changed
        then.
        """
        if isinstance(request, GetConfig):
            return False
        path, check = self._place()
        if isinstance(request, ReloadConfig):
            file = read_config_file(path, check)
        elif isinstance(request, RestoreConfig):
            file = _restored_file(path, request, check)
        else:
            file = _changed(path, request, check)
        self.used = file.config
        self._events = _live_events(file.config.events, self._stages)[0]
        return True

    def shown(self, sources: Sequence[str] = ()) -> EditableConfig:
        """Return the configuration for an editor. ConfigFaults if the file cannot be read.

        sources  names of the sources of the run
        """
        known = {name: self._events.digest(name) for name in self._events.rules}
        if not self._path:
            return EditableConfig("", versions=known, sources=sources)
        text = read_text(Path(self._path))
        digest = digest_of(text)
        tables: dict[str, Any] = {}
        with contextlib.suppress(ConfigFaults):  # `waits` has the fault
            tables = parsed_toml(self._path, text)
        return EditableConfig(
            file=self._path,
            digest=digest,
            tables=_shown_tables(tables),
            versions=known,
            profile=self.used.events.profile,
            waits=self._waits(text),
            history=versions(Path(self._path), digest),
            sources=sources,
        )

    def _place(self) -> tuple[Path, Check]:
        if not self._path or self._read is None:
            raise ConfigFaults([NO_FILE])
        read = self._read

        def check(text: str) -> Config:
            config = read(text)
            faults = event_faults(config, self._models)
            recorded = self._started.record.sources
            faults += [
                f"{fault}, then start the run again (--resume): it records them until it ends"
                for fault in recording_faults(config.privacy, recorded)
            ]
            if faults:
                raise ConfigFaults(faults)
            check_filters(config, self._models)
            return config

        return Path(self._path), check

    def _waits(self, text: str) -> list[str]:
        """Return what the file has and the run does not use before its next start."""
        assert self._read is not None
        try:
            config = self._read(text)
        except ConfigFaults as error:
            return [f"the file has faults, so the run uses the configuration before it: {error}"]
        waits = _live_events(config.events, self._stages)[1]
        waits += [
            f"[{name}] differs from the start of the run; it is used from the next start on "
            "(--resume)"
            for name in _FIXED
            if getattr(config, name) != getattr(self._started, name)
        ]
        masks = gate_masks(config.stages)
        if COLLECT in self._stages and masks != gate_masks(self._started.stages):
            waits.append("[gate.masks]: kept footage has them from the next start on (--resume)")
        waits += _waiting_masks(config, masks, gate_masks(self._started.stages))
        if config.privacy.blur_faces != self._started.privacy.blur_faces:
            waits.append("[privacy] blur_faces is used from the next start on (--resume)")
        if _without_masks(config) != _without_masks(self._started):
            waits.append(
                "[stages] differs from the start of the run; it is used from the next start on "
                "(--resume)"
            )
        if _changeable(config) != _changeable(self.used):
            waits.append("the file was edited by hand: framegate rules reload uses it")
        return waits


def _waiting_masks(config: Config, now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return the masks of lazy sources that changed: their key frames are compared by the spec with
    which the decoder began.
    """
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    waits = []
    for name in sorted(changed):
        source = config.sources.get(name)
        own_mode = source.decode if source is not None else None
        if (own_mode or config.live.decode) == "lazy":
            waits.append(
                f"[gate.masks] {name}: the lazy decoder uses them from the next start on "
                "(--resume), the gate already"
            )
    return waits


def _live_events(events: EventsConfig, stages: Sequence[str]) -> tuple[EventsConfig, list[str]]:
    """Return the rules that the stages of a run can evaluate, and why others wait."""
    if LISTEN in stages:
        return events, []
    waiting = {name for name, rule in events.rules.items() if rule.state == "heard"}
    waits = [
        f"rule {name}: the run began without a rule about sounds, so no sound is labelled; stop it "
        "and start it again: framegate run --resume -d DATA"
        for name in sorted(waiting)
    ]
    is_growing = True
    while is_growing:
        after = {
            name
            for name, rule in events.rules.items()
            if rule.after is not None and rule.after.rule in waiting
        }
        is_growing = not after <= waiting
        waiting |= after
    rules = {name: rule for name, rule in events.rules.items() if name not in waiting}
    return replace(events, rules=rules), waits


def _restored_file(path: Path, request: RestoreConfig, check: Check) -> ConfigFile:
    version = request.version
    paths: Sequence[str] = [ANY]
    kept = versions(path, request.digest)
    if kept and not version:
        paths = kept[0].changes

    def change(now: ConfigFile) -> str:
        return earlier_text(path, now.digest, version)

    return change_file(path, request.digest, change, paths, check)


def _changed(path: Path, request: ChangeConfig, check: Check) -> ConfigFile:
    if not request.changes or len(request.changes) > MAX_CHANGES:
        raise ConfigFaults([f"changes: must be 1 to {MAX_CHANGES}, got {len(request.changes)}"])
    paths = [checked_path(each.path) for each in request.changes]

    def change(now: ConfigFile) -> str:
        tables = parsed_toml(str(path), now.text)
        text = now.text
        for keys, each in zip(paths, request.changes, strict=True):
            value = _restored(each.path, each.value, value_at(tables, keys))
            text = with_value(text, keys, value)
        return text

    kept = [each.path for each in request.changes]
    if kept == ["events.profile"]:  # a switch of the profile is no edit, and would fill the history
        kept = []
    return change_file(path, request.digest, change, kept, check)


def checked_path(path: str) -> tuple[str, ...]:
    """Return the keys of a path that can change in an active run. ConfigFaults."""
    keys = tuple(path.split("."))
    match keys:
        case ("events", table, name) if table in _NAMED and is_name(name):
            return keys
        case ("events", key) if key in _EVENT_KEYS:
            return keys
        case ("events", "snoozed_sources", name) if is_name(name):
            return keys
        case (table, name) if table in _TABLES and is_name(name):
            return keys
        case ("privacy" | "gate", "masks", name) if is_name(name):
            return keys
    raise ConfigFaults(
        [
            f"path = {path[:80]!r}: it cannot change during a run; allowed are {_PLACES}. "
            f"A name is {NAME_RULE}"
        ]
    )


# -- What editors see.


def _shown_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables that can change, without secret parts of values."""
    shown = {name: _table_at(tables, name) for name in ("events", *_TABLES)}
    for name in ("privacy", "gate"):
        shown[name] = {"masks": _table_at(tables, name, "masks")}
    for sink in shown["sinks"]:
        url = value_at(shown, ("sinks", sink, "url"))
        if isinstance(url, str):  # perhaps of an edit by hand that no run has read
            hide_services(value_at(shown, ("sinks", sink, "kind")), url)
    hidden: dict[str, Any] = _hidden(shown)
    return hidden


def _table_at(tables: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return the table at a path; an empty one if there is none, or another value."""
    table = value_at(tables, path)
    if isinstance(table, Mapping):
        return table
    return {}


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: _hidden(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    return value


def _restored(path: str, value: Any, old: Any) -> Any:
    """Return a value; each part that is as it was shown is as the file has it.

    ConfigFaults for a hidden part that the file does not have at this place, as in a copy.
    """
    if value == _hidden(old):
        return old
    if isinstance(value, Mapping):
        return {
            key: _restored(path, each, value_at({"": old}, ("", key)))
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_restored(path, each, None) for each in value]
    if isinstance(value, str) and HIDDEN in value:
        raise ConfigFaults(
            [f"{path}: {value[:80]!r} has a hidden part ({HIDDEN}); give the whole value"]
        )
    return value


def _with_masks(stage: StageEntry, masks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a stage with these masks of the gate."""
    if not masks and "gate" not in stage.options:
        return dict(stage.options)
    return {**stage.options, "gate": {**stage.options.get("gate", {}), "masks": masks}}


def _changeable(config: Config) -> tuple[Any, ...]:
    masks = config.privacy.masks, gate_masks(config.stages)
    return config.events, config.filters, config.sinks, masks


def _without_masks(config: Config) -> list[Any]:
    stages = []
    for stage in config.stages:
        options = dict(stage.options)
        if "gate" in options:
            options["gate"] = {k: v for k, v in options["gate"].items() if k != "masks"}
        stages.append(replace(stage, options=options))
    return stages
