"""The filters of a run: those of its configuration, and those that were added to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.object_filters import NamedFilter, ObjectFilter
from framegate.pipeline.run.folder import RunFile, read_run

Configured = Mapping[str, ObjectFilter]


def filters_of(run: RunFile, configured: Configured) -> tuple[NamedFilter, ...]:
    """Return all filters of a run. A configured filter replaces an added one of the same name."""
    first = [_named(name, each) for name, each in configured.items()]
    return (*first, *(each for each in run.filters if each.name not in configured))


def stored_filters(folder: Path | None, configured: Configured) -> dict[str, ObjectFilter]:
    """Return all filters of the run that a data folder has, by name, without their origins.

    folder      None: only those of the configuration
    configured  filters of the configuration, by name
    """
    run = None
    if folder is not None:
        run = read_run(folder)
    if run is None:
        return dict(configured)
    return {each.name: each.plain() for each in filters_of(run, configured)}


def _named(name: str, each: ObjectFilter) -> NamedFilter:
    keys: dict[str, Any] = vars(each)
    return NamedFilter(**keys, name=name, by="config")


def with_filter(
    run: RunFile,
    configured: Configured,
    new: NamedFilter,
    labels: Collection[str] | None = None,
    rules: Mapping[str, str] | None = None,
    replaces: str = "",
) -> RunFile:
    """Return the run with another filter, at the end. ConfigFaults if the filter is refused.

    labels  all labels that results can have; None: unknown
    rules   versions of the rules whose episodes a filter can mute, by name; None: unknown
    replaces  name of the added filter that is removed for it; "": none
    """
    if replaces:
        run = without_filter(run, configured, replaces)
    known = filters_of(run, configured)
    names = {each.name for each in known}
    if not new.name:
        kind = "hidden"
        if new.rule:
            kind = "muted"
        new = replace(new, name=_free_name(names, kind))
    faults = new.faults()
    if not is_name(new.name):
        faults.append(f"{new.name!r} cannot name a filter; a name is {NAME_RULE}")
    if new.name in names:
        faults.append("the run already has a filter of that name; remove it, or use another name")
    sources = [source.name for source in run.sources]
    faults += [
        f"sources: {source!r} is no source of this run; sources are {', '.join(sources)}"
        f"{did_you_mean(source, sources)}"
        for source in new.sources
        if source not in sources
    ]
    faults += [
        f"labels: {label!r} is not detected{did_you_mean(label, labels)}"
        for label in new.labels
        if labels is not None and label not in labels
    ]
    if new.rule and rules is not None and new.rule not in rules:
        near = did_you_mean(new.rule, rules)
        faults.append(f"rule: {no_rule_to_mute(new.rule)}{near}")
    elif rules is not None:
        faults += _version_faults(new, rules)
    faults += [
        f"the filter {each.name} hides the object of {new.episode} already"
        for each in known
        if new.episode and each.episode == new.episode
    ]
    faults += [
        f"the filter {each.name} mutes episodes of rule {new.rule} at {new.sources[0]} already; "
        "remove it first"
        for each in known
        if new.rule and (each.rule, each.sources) == (new.rule, new.sources)
    ]
    if faults:
        raise ConfigFaults([f"filter {new.name}: {fault}" for fault in faults])
    return structs.replace(run, filters=(*run.filters, new))


def no_rule_to_mute(rule: str) -> str:
    """Return the fault of a filter with a rule that it cannot mute."""
    return (
        f"{rule!r} is no rule of this run whose episodes a filter can mute; those of rules with "
        "when = count, state or like have no traits by which it could judge them"
    )


def _version_faults(each: ObjectFilter, rules: Mapping[str, str]) -> list[str]:
    if not each.rule or each.is_learned_for(rules[each.rule]):
        return []
    return [
        f"rule_version = {each.rule_version!r}: it was learned for another version of rule "
        f"{each.rule}, so it would mute nothing; this run has {rules[each.rule]}. Judge episodes "
        f"of that version, and learn again: framegate filters learn {each.rule} --source "
        f"{' '.join(each.sources)}"
    ]


def idle_filters(filters: Sequence[NamedFilter], rules: Mapping[str, str]) -> list[str]:
    """Return a warning for each filter that mutes nothing because its rule changed or is gone.

    rules  versions of the rules whose episodes a filter can mute, by name
    """
    warnings = []
    for each in filters:
        reasons = []
        if each.rule and each.rule not in rules:
            reasons = [f"{no_rule_to_mute(each.rule)}, so it mutes nothing"]
        elif each.rule:
            reasons = _version_faults(each, rules)
        warnings += [f"filter {each.name}: {reason}" for reason in reasons]
    return warnings


def _free_name(taken: set[str], kind: str) -> str:
    number = 1
    while f"{kind}_{number}" in taken:
        number += 1
    return f"{kind}_{number}"


def without_filter(run: RunFile, configured: Configured, name: str) -> RunFile:
    """Return the run without an added filter. ConfigFaults if there is none of that name."""
    if name in configured:
        raise ConfigFaults(
            [
                f"filter {name}: it is in the configuration; remove [filters.{name}] there "
                f"(framegate rules remove filters.{name})"
            ]
        )
    known = [each.name for each in run.filters]
    if name not in known:
        near = did_you_mean(name, known)
        raise ConfigFaults([f"filter {name}: the run has no filter of that name{near}"])
    return structs.replace(run, filters=tuple(each for each in run.filters if each.name != name))
