"""The rules of an active run that can change: those about marked visits.

Other rules need parts of the run that start with it: sounds, thumbnails, the labels of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from framegate.pipeline.config.events import EventsConfig, RuleConfig
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.engine.control_messages import UseRule

RuleOptions = Mapping[str, Any]  # of the stage that evaluates rules


def versions_of(options: RuleOptions | None) -> dict[str, str]:
    """Return the digest of each rule by name. options: None if the run evaluates no rules"""
    if options is None:
        return {}
    events = msgspec.convert(options, EventsConfig)
    return {name: events.digest(name) for name in events.rules}


def with_rule(options: RuleOptions | None, request: UseRule) -> dict[str, Any]:
    """Return the options with another rule about marked visits, or without it.

    ConfigFaults if the run evaluates no rules, or if the rule, or the one that it replaces, is
    another kind of rule, or if it is removed and another rule follows it.
    """
    if options is None:
        raise ConfigFaults(["the run began without rules, and evaluates them after its next start"])
    events = msgspec.convert(options, EventsConfig)
    rules = dict(events.rules)
    before = rules.pop(request.rule, None)
    followers = [
        name
        for name, each in rules.items()
        if each.after is not None and each.after.rule == request.rule
    ]
    if request.table is not None:
        rules[request.rule] = msgspec.convert(request.table, RuleConfig)
    elif followers:
        raise ConfigFaults([f"rule {request.rule}: rule {followers[0]} starts after it"])
    kinds = [each.when for each in (before, rules.get(request.rule)) if each is not None]
    if any(kind != "like" for kind in kinds):
        raise ConfigFaults([f'rule {request.rule}: only rules with when = "like" can change now'])
    return dict(msgspec.to_builtins(replace(events, rules=rules)))
