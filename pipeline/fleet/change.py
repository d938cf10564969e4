"""Change the plan of a fleet: pure functions from one version to the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec.structs import replace

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.fleet.assign import assign
from framegate.pipeline.fleet.cost_choice import with_measured
from framegate.pipeline.fleet.plan import MILLI, FleetPlan, FleetSource, SlotRoom, thousandths

_ROUNDS: Final = 4  # attempts to relieve slots that need more than their cores


class FleetContent(msgspec.Struct, frozen=True):
    """The content of a fleet.toml: the cores of each slot, and the sources without slots."""

    slots: dict[str, float]
    sources: dict[str, FleetSource]


def apply_content(
    plan: FleetPlan,
    content: FleetContent,
    spread: bool = False,
    measured: Mapping[str, float] = MappingProxyType({}),
) -> FleetPlan:
    """Return the next plan, with the slots and sources of a fleet.toml. Drained slots stay drained.

    spread    as in `assign`
    measured  cores that sources need; they count for sources without a declared cost
    """
    slots = {}
    for name, cores in content.slots.items():
        was_drained = name in plan.slots and plan.slots[name].drained
        slots[name] = SlotRoom(cores, was_drained)
    sources = {}
    for name, new in content.sources.items():
        known = plan.sources.get(name)
        if known is not None:
            new = replace(new, slot=known.slot, since=known.since)
            if new.cost_from == "default" and known.cost_from == "measured":
                new = replace(new, cost=known.cost, cost_from="measured")
            if new.keys != known.keys:  # its slot begins it again
                new = replace(new, since=plan.version + 1)
        sources[name] = new
    return _assign_measured(replace(plan, slots=slots, sources=sources), spread, measured)


def _assign_measured(plan: FleetPlan, spread: bool, measured: Mapping[str, float]) -> FleetPlan:
    """Return the next plan by the measured costs, by which no source loses its slot for nothing.

    A slot that needs more than its cores, and whose sources have no room elsewhere, keeps them all.
    """
    calm: set[str] = set()
    for number in range(_ROUNDS):
        costed = with_measured(plan.sources, plan.slots, measured, calm)
        assigned = _assign_sources(replace(plan, sources=costed), spread)
        left = {plan.sources[name].slot for name in assigned.waiting()}
        crowded = {slot for slot in left - calm if slot in plan.slots}
        crowded = {slot for slot in crowded if not plan.slots[slot].drained}
        if not crowded:
            break
        calm |= crowded
        if number == _ROUNDS - 2:  # so that the last round ends: it moves no source
            calm |= plan.slots.keys()
    return assigned


def drain_slots(plan: FleetPlan, names: Iterable[str], is_drained: bool) -> FleetPlan:
    """Return the next plan, in which these slots serve no source, or may serve some again.

    ConfigFaults for unknown slots.
    """
    names = list(names)
    _check_known("slot", names, plan.slots)
    slots = dict(plan.slots)
    for name in names:
        slots[name] = replace(slots[name], drained=is_drained)
    return _assign_sources(replace(plan, slots=slots))


def move_sources(plan: FleetPlan, names: Iterable[str], slot: str) -> FleetPlan:
    """Return the next plan, in which a slot serves these sources.

    They stay there until their slot is gone, drained or too full. ConfigFaults for unknown names,
    and if the slot has no room for them.
    """
    names = list(dict.fromkeys(names))
    _check_known("source", names, plan.sources)
    _check_known("slot", [slot], plan.slots)
    room = plan.slots[slot]
    if room.drained:
        raise ConfigFaults([f"slot {slot}: it is drained; framegate fleet undrain {slot} first"])
    new = {name: plan.sources[name] for name in names if plan.sources[name].slot != slot}
    needed = sum(thousandths(source.cost) for source in new.values()) / MILLI
    load = plan.load(slot)
    if thousandths(load + needed) > thousandths(room.cores):
        raise ConfigFaults(
            [
                f"slot {slot}: it has {room.cores - load:.2f} cores left, and {', '.join(names)} "
                f"needs {needed:.2f}; raise its cores in fleet.toml, or move other sources first"
            ]
        )
    sources = dict(plan.sources)
    for name, source in new.items():
        sources[name] = replace(source, slot=slot, since=plan.version + 1)
    return _assign_sources(replace(plan, sources=sources))


def _check_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    faults = [
        f"{kind} {name}: the fleet has no such {kind}{did_you_mean(name, known)}"
        for name in names
        if name not in known
    ]
    if faults:
        raise ConfigFaults(faults)


def _assign_sources(plan: FleetPlan, spread: bool = False) -> FleetPlan:
    """Return the plan as the next version, with each source in its slot."""
    costs = {name: source.cost for name, source in plan.sources.items()}
    before = {name: source.slot for name, source in plan.sources.items() if source.slot}
    placed = assign(costs, plan.slots, before, spread)
    version = plan.version + 1
    sources = {}
    for name, source in plan.sources.items():
        slot = placed.get(name, "")
        if slot != source.slot:
            source = replace(source, slot=slot, since=version)
        sources[name] = source
    return replace(plan, version=version, sources=sources)


class PlanChange(msgspec.Struct, frozen=True):
    """The change of a source or slot between two plans. words: what happens, in a few words"""

    name: str
    words: str


def changes(old: FleetPlan, new: FleetPlan) -> list[PlanChange]:
    """Return what changes from one plan to another: slots first, then sources, each sorted."""
    found = []
    for name in sorted(old.slots.keys() | new.slots.keys()):
        words = _slot_change(old.slots.get(name), new.slots.get(name))
        if words:
            found.append(PlanChange(f"slot {name}", words))
    for name in sorted(old.sources.keys() | new.sources.keys()):
        words = _source_change(old.sources.get(name), new.sources.get(name))
        if words:
            found.append(PlanChange(f"source {name}", words))
    return found


def _slot_change(old: SlotRoom | None, new: SlotRoom | None) -> str:
    if new is None:
        return "removed"
    if old is None:
        return f"added, {new.cores:g} cores"
    parts = []
    if old.cores != new.cores:
        parts.append(f"{old.cores:g} cores become {new.cores:g}")
    if new.drained and not old.drained:
        parts.append("drained")
    if old.drained and not new.drained:
        parts.append("no longer drained")
    return ", ".join(parts)


def _source_change(old: FleetSource | None, new: FleetSource | None) -> str:
    if new is None:
        return "removed"
    if old is None:
        return f"added, {_place(new)}"
    parts = []
    if old.slot != new.slot:
        parts.append(f"moves from {old.slot or 'the sources that wait'} to {_place(new)}")
    if old.keys != new.keys:
        parts.append("its settings change, so it begins again")
    if (old.cost, old.cost_from) != (new.cost, new.cost_from):
        parts.append(f"its cost changes from {old.cost:g} to {new.cost:g} ({new.cost_from})")
    return ", ".join(parts)


def _place(source: FleetSource) -> str:
    return source.slot or "no slot: it waits for room"


def is_same(old: FleetPlan, new: FleetPlan) -> bool:
    """Return whether two plans differ in their version at most."""
    return (old.slots, old.sources) == (new.slots, new.sources)
