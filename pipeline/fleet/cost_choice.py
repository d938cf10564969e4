"""Choose the cost of each source of a plan: declared, measured, or the default.

A declared cost always counts. A measured one decides only how full a slot is. It moves a source
only out of a slot whose sources need more than OVERFULL times its cores, and no source waits
because of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from framegate.pipeline.fleet.plan import MILLI, FleetSource, SlotRoom, thousandths

OVERFULL: Final = 1.1  # measured costs up to this multiple of the cores move no source
STEADY: Final = 1.25  # a measured cost that differs by less than this factor stays as it was


def with_measured(
    sources: Mapping[str, FleetSource],
    slots: Mapping[str, SlotRoom],
    measured: Mapping[str, float],
    calm: Collection[str] = (),
) -> dict[str, FleetSource]:
    """Return the sources with the costs by which they are assigned.

    Of a slot whose sources need more than OVERFULL times its cores, the measured costs count as
    they are, so sources leave it. In all other slots, a measured cost replaces one that differs by
    the factor STEADY, and measured costs that exceed the cores are scaled down to them, so that all
    sources stay.

    sources   with the slot and cost that they had before
    measured  cores of each source that was measured
    calm      slots that keep their sources in any case
    """
    by_slot: dict[str, list[str]] = {}
    for name, source in sources.items():
        by_slot.setdefault(source.slot, []).append(name)
    found = dict(sources)
    for slot, names in by_slot.items():
        here = {name: sources[name] for name in names}
        raw = {name: _measured(source, measured.get(name)) for name, source in here.items()}
        room = slots.get(slot)
        if room is None or room.drained:
            found |= {name: _steady(here[name], raw[name]) for name in names}
        elif slot not in calm and _total(raw) > thousandths(room.cores) * OVERFULL:
            found |= raw
        else:
            steady = {name: _steady(here[name], raw[name]) for name in names}
            found |= _fitted(steady, thousandths(room.cores))
    return {name: found[name] for name in sources}


def _measured(source: FleetSource, cores: float | None) -> FleetSource:
    """Return a source with its measured cost, unless one is declared."""
    if cores is None or source.cost_from == "declared":
        return source
    return replace(source, cost=thousandths(cores) / MILLI, cost_from="measured")


def _steady(before: FleetSource, now: FleetSource) -> FleetSource:
    """Return the source with its cost of before, if that was measured and is about the same."""
    if before.cost_from != "measured" or now.cost_from != "measured":
        return now
    if before.cost / STEADY <= now.cost <= before.cost * STEADY:
        return before
    return now


def _fitted(sources: dict[str, FleetSource], room: int) -> dict[str, FleetSource]:
    """Return the sources of a slot with measured costs that fit into its room, if they can."""
    measured = {name: each for name, each in sources.items() if each.cost_from == "measured"}
    needed = _total(measured)
    left = room - (_total(sources) - needed)
    if needed <= left or left < 0:
        return sources
    scale = left / needed
    return sources | {
        name: replace(each, cost=math.floor(each.cost * scale * MILLI) / MILLI)
        for name, each in measured.items()
    }


def _total(sources: Mapping[str, FleetSource]) -> int:
    """Return the sum of the costs in thousandths of a core."""
    return sum(thousandths(source.cost) for source in sources.values())
