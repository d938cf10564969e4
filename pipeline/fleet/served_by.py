"""Which slot of a fleet serves a source now, as people see it: the plan, and the signs of life."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.fleet.fleet_store import FleetStore, SlotSign
from framegate.pipeline.fleet.plan import FleetPlan


class ServedBy(msgspec.Struct, frozen=True):
    """The slot of a fleet that serves a source; a run without a fleet has none.

    slot  name of the slot; null: none
    host  its host name; null: it is unknown, because the slot gives no sign of life
    away  why the slot does not serve the source now; null: it does
    """

    slot: str | None = None
    host: str | None = None
    away: str | None = None


@dataclass(frozen=True)
class FleetNow:
    """The plan of a fleet, and the signs of life of its slots that are up."""

    plan: FleetPlan = field(default_factory=FleetPlan)
    signs: Mapping[str, SlotSign] = field(default_factory=dict)

    def served_by(self, source: str) -> ServedBy:
        """Return the slot that serves a source, or the reason why none does."""
        planned = self.plan.sources.get(source)
        if planned is None:
            return ServedBy()
        if not planned.slot:
            return ServedBy(away="no slot has room for it")
        sign = self.signs.get(planned.slot)
        if sign is None:
            return ServedBy(planned.slot, None, f"slot {planned.slot} gives no sign of life")
        return ServedBy(planned.slot, sign.host, sign.refused.get(source))


def read_fleet(store: str, before: FleetNow | None = None) -> FleetNow:
    """Return the fleet in a store. StoreLost, StoreBusy, StoreRefused.

    before  an older look, whose plan is kept if there is no newer one
    """
    known = before or FleetNow()
    with closing(FleetStore(store)) as fleet:
        plan = fleet.plan(known.plan.version) or known.plan
        return FleetNow(plan, fleet.signs(sorted(plan.slots)))
