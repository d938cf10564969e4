"""Switches of an active run: the profile, and single rules, in the file of its configuration.

Unlike an edit, a switch names no digest: it changes one value, and keeps all others that the file
has by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from framegate.pipeline.config.toml_edit import value_at
from framegate.pipeline.contracts.errors import RequestRefused
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    ConfigChange,
    ConfigRequest,
    EditableConfig,
    GetConfig,
)

_TRIES: Final = 3  # while others change the file

AskConfig = Callable[[ConfigRequest], EditableConfig]
"""Asks the supervisor; may block for some ms. RequestRefused, NoReply."""


def switch_profile(ask: AskConfig, profile: str) -> EditableConfig:
    """Switch the profile; "": by the schedules of the profiles.

    RequestRefused if there is no such profile, or the file cannot be changed; NoReply.
    """
    change = ConfigChange("events.profile", profile or None)
    return _changed(ask, lambda _: change)


def switch_rule(ask: AskConfig, rule: str, is_on: bool) -> EditableConfig:
    """Switch a rule on or off. RequestRefused, also if there is no such rule; NoReply."""

    def change(now: EditableConfig) -> ConfigChange:
        table = value_at(now.tables, ("events", "rules", rule))
        if not isinstance(table, dict):
            raise RequestRefused(f"rule {rule[:40]}: {now.file or 'the run'} has no such rule")
        switched = {key: value for key, value in table.items() if key != "enabled"}
        if not is_on:
            switched["enabled"] = False
        return ConfigChange(f"events.rules.{rule}", switched)

    return _changed(ask, change)


def _changed(ask: AskConfig, change: Callable[[EditableConfig], ConfigChange]) -> EditableConfig:
    """Make a change of one path, again if another editor was faster."""
    for tries in range(1, _TRIES + 1):
        now = ask(GetConfig())
        try:
            return ask(ChangeConfig(now.digest, [change(now)]))
        except RequestRefused:
            if tries == _TRIES or ask(GetConfig()).digest == now.digest:
                raise
    raise AssertionError
