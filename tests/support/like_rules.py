"""The rules of a run without a supervisor: what it answers to requests about them."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec

from framegate.pipeline.config.read_events import read_events
from framegate.pipeline.contracts.errors import ConfigFaults, RequestRefused
from framegate.pipeline.engine.control_messages import RuleRequest, RunRules, UseRule
from framegate.pipeline.run.rules import versions_of, with_rule


class LikeRules:
    """Answers as the supervisor of a run that was started with this file does."""

    def __init__(self, config: str) -> None:
        """config: text of the file; without rules, the run has no stage for them."""
        events = read_events(tomllib.loads(config).get("events", {}), [])
        self.options: dict[str, Any] | None = None
        if events is not None and events.rules:
            self.options = msgspec.to_builtins(events)

    def ask(self, request: RuleRequest) -> RunRules:
        """Return all rules after the request. RequestRefused."""
        if isinstance(request, UseRule):
            try:
                self.options = with_rule(self.options, request)
            except ConfigFaults as error:
                raise RequestRefused(str(error)) from None
        return RunRules(versions_of(self.options))
