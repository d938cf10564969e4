"""Switches of an active run in the file of its configuration: the profile, rules, and snoozes.

Unlike an edit, a switch names no digest: it changes one value, and keeps all others that the file
has by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from framegate.pipeline.config.snooze import MOST_S, Snooze
from framegate.pipeline.config.toml_edit import value_at
from framegate.pipeline.contracts.errors import RequestRefused, RunRefused, did_you_mean
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    ConfigChange,
    ConfigRequest,
    EditableConfig,
    GetConfig,
)

_TRIES: Final = 3  # while others change the file
# Seconds after a command at which its snooze begins or ends: by then the run has the change, so it
# judges each frame as a replay of the frame does.
_LEAD_S: Final = 1.0

AskConfig = Callable[[ConfigRequest], EditableConfig]
"""Asks the supervisor; may block for some ms. RequestRefused or RunRefused; NoReply or NoRun."""


def switch_profile(ask: AskConfig, profile: str) -> EditableConfig:
    """Switch the profile; "": by the schedules of the profiles.

    RequestRefused if there is no such profile, or the file cannot be changed; NoReply.
    """
    change = ConfigChange("events.profile", profile or None)
    return _changed(ask, lambda _: [change])


def switch_rules(ask: AskConfig, rules: Sequence[str], is_on: bool) -> EditableConfig:
    """Switch rules on or off, all or none. RequestRefused, also for an unknown rule; NoReply."""

    def switch(now: EditableConfig) -> list[ConfigChange]:
        changes = []
        for rule in rules:
            table = {key: value for key, value in _rule(now, rule).items() if key != "enabled"}
            if not is_on:
                table["enabled"] = False
            changes.append(ConfigChange(f"events.rules.{rule}", table))
        return changes

    return _changed(ask, switch)


@dataclass(frozen=True)
class Snoozed:
    """The rules that a snooze concerns: all of them if both names are empty.

    rule    name of the only rule
    source  name of the only source
    """

    rule: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.rule and self.source:
            raise RequestRefused(
                f"rule {self.rule[:40]} and source {self.source[:40]}: a snooze is of a rule, of a "
                "source, or of all rules; name one of them"
            )

    def __str__(self) -> str:
        if self.rule:
            return f"rule {self.rule}"
        if self.source:
            return f"source {self.source}"
        return "all rules"

    @property
    def path(self) -> str:
        """The key of the snooze in the file."""
        if self.rule:
            return f"events.rules.{self.rule}.snoozed"
        if self.source:
            return f"events.snoozed_sources.{self.source}"
        return "events.snoozed"


def snooze(ask: AskConfig, what: Snoozed, until: float, now: float) -> EditableConfig:
    """Let rules start no episode until a time; a snooze that has begun is made longer or shorter.

    until, now  UNIX seconds

    RequestRefused, also if there is no such rule or source; NoReply.
    """
    begin = math.ceil(now + _LEAD_S)
    if not begin < until <= begin + MOST_S:
        at = f"{until:.15g}"
        if abs(until) < 1e11:
            at = datetime.fromtimestamp(until).isoformat(" ", "seconds")
        raise RequestRefused(f"the snooze would end at {at}; it must end 3 s to 366 days from now")

    def change(config: EditableConfig) -> list[ConfigChange]:
        before = _snooze_of(config, what)
        since = float(begin)
        if before is not None and before.has(begin):
            since = before.since
        return [_with_snooze(config, what, Snooze(since, until).text)]

    return _changed(ask, change)


def unsnooze(ask: AskConfig, what: Snoozed, now: float) -> EditableConfig:
    """End a snooze early; without one, nothing changes. RequestRefused; NoReply.

    The file keeps the period that was snoozed, so a replay of its frames finds it.
    """
    end = math.ceil(now + _LEAD_S)

    def change(config: EditableConfig) -> list[ConfigChange]:
        before = _snooze_of(config, what)
        if before is None or before.until <= end:
            return []
        if before.since >= end:
            return [_with_snooze(config, what, "")]
        return [_with_snooze(config, what, Snooze(before.since, end).text)]

    return _changed(ask, change)


def snoozes(config: EditableConfig, now: float) -> list[tuple[Snoozed, float]]:
    """Return what is snoozed or soon will be, each with the end of its snooze in UNIX seconds."""
    known = [Snoozed()]
    by_source = value_at(config.tables, ("events", "snoozed_sources"))
    if isinstance(by_source, dict):
        known += [Snoozed(source=name) for name in by_source]
    rules = value_at(config.tables, ("events", "rules"))
    if isinstance(rules, dict):
        known += [Snoozed(rule=name) for name in rules]
    found = [(what, _snooze_at(config, what)) for what in known]
    return [(what, each.until) for what, each in found if each is not None and now < each.until]


def _snooze_of(config: EditableConfig, what: Snoozed) -> Snooze | None:
    """Return a snooze that the file has. RequestRefused if there is no such rule or source."""
    if what.rule:
        _rule(config, what.rule)
    if what.source and what.source not in config.sources:
        near = did_you_mean(what.source, config.sources)
        known = ", ".join(config.sources) or "none"
        raise RequestRefused(
            f"source {what.source[:40]}: the run has no such source; it has {known}{near}"
        )
    return _snooze_at(config, what)


def _snooze_at(config: EditableConfig, what: Snoozed) -> Snooze | None:
    text = value_at(config.tables, tuple(what.path.split(".")))
    try:
        return Snooze.read(text)
    except (AttributeError, ValueError):  # none, or an edit by hand with a fault
        return None


def _with_snooze(config: EditableConfig, what: Snoozed, text: str) -> ConfigChange:
    if not what.rule:
        return ConfigChange(what.path, text or None)
    table = {key: value for key, value in _rule(config, what.rule).items() if key != "snoozed"}
    if text:
        table["snoozed"] = text
    return ConfigChange(f"events.rules.{what.rule}", table)


def _rule(now: EditableConfig, rule: str) -> dict[str, Any]:
    """Return the table of a rule. RequestRefused if there is none."""
    rules = value_at(now.tables, ("events", "rules"))
    if not isinstance(rules, dict) or not isinstance(rules.get(rule), dict):
        near = did_you_mean(rule, rules or ())
        if rule in now.sources:
            near = "; it is a source"
        raise RequestRefused(f"rule {rule[:40]}: {now.file or 'the run'} has no such rule{near}")
    table: dict[str, Any] = rules[rule]
    return table


def _changed(
    ask: AskConfig, change: Callable[[EditableConfig], Sequence[ConfigChange]]
) -> EditableConfig:
    """Make a change, again if another editor was faster."""
    for tries in range(1, _TRIES + 1):
        now = ask(GetConfig())
        changes = change(now)
        if not changes:
            return now
        try:
            return ask(ChangeConfig(now.digest, changes))
        except (RequestRefused, RunRefused):
            if tries == _TRIES or ask(GetConfig()).digest == now.digest:
                raise
    raise AssertionError
