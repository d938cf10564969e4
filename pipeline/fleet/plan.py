"""The plan of a fleet: which slot serves which source.

A plan has a version. Each change makes the next version; `fleet_store` writes it only if no other
change was written meanwhile. The version also orders the owners of a source: see `claim` in
hop.lua.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

VERSION: Final = 1
MILLI: Final = 1000  # costs are added as whole thousandths of a core, so sums are exact

CostFrom = Literal["declared", "measured", "default"]


def thousandths(cores: float) -> int:
    """Return cores or a cost in whole thousandths of a core: what is compared is rounded alike."""
    return round(cores * MILLI)


class SlotRoom(msgspec.Struct, frozen=True):
    """The room of a slot.

    cores    CPU cores that its sources may need together, above 0
    drained  whether it gets no source and keeps none
    """

    cores: float
    drained: bool = False


class FleetSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A source of a fleet.

    keys       its keys as in `[sources.NAME]`; a secret is only the name of a variable
    cost       CPU cores that it needs
    slot       the slot that serves it; "": it waits for room
    since      version of the plan that gave it to this slot
    cost_from  declared in fleet.toml, measured by its slot, or the default
    """

    keys: dict[str, Any]
    cost: float
    slot: str = ""
    since: int = 0
    cost_from: CostFrom = "declared"


class FleetPlan(msgspec.Struct, frozen=True):
    """All slots and sources of a fleet, as one version.

    version  0: no plan was written so far
    v        version of this record
    """

    version: int = 0
    slots: dict[str, SlotRoom] = {}
    sources: dict[str, FleetSource] = {}
    v: int = VERSION

    def sources_of(self, slot: str) -> dict[str, FleetSource]:
        """Return the sources that a slot serves, by name."""
        return {name: source for name, source in self.sources.items() if source.slot == slot}

    def waiting(self) -> list[str]:
        """Return the sources that wait for room."""
        return [name for name, source in self.sources.items() if not source.slot]

    def load(self, slot: str) -> float:
        """Return the CPU cores that the sources of a slot need."""
        return sum(thousandths(each.cost) for each in self.sources_of(slot).values()) / MILLI
