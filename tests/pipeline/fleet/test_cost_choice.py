"""Measured costs in a plan: which ones count, and that they move no source without need."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.pipeline.fleet.change import (
    FleetContent,
    PlanChange,
    apply_content,
    changes,
    is_same,
)
from framegate.pipeline.fleet.fleet_file import read_fleet
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource

FILE = """
[slots.a]
[sources.gate]
url_env = "GATE_URL"
cost = 0.5
[sources.yard]
url_env = "YARD_URL"
"""


def content(text: str) -> FleetContent:
    return read_fleet(text, "fleet.toml")


def first() -> FleetPlan:
    return apply_content(FleetPlan(), content(FILE))


def test_a_declared_cost_counts_and_a_measured_one_replaces_the_default() -> None:
    plan = first()
    assert (plan.sources["yard"].cost, plan.sources["yard"].cost_from) == (0.18, "default")
    after = apply_content(plan, content(FILE), measured={"gate": 0.9, "yard": 0.4})
    assert (after.sources["gate"].cost, after.sources["gate"].cost_from) == (0.5, "declared")
    assert (after.sources["yard"].cost, after.sources["yard"].cost_from) == (0.4, "measured")
    assert changes(plan, after) == [
        PlanChange("source yard", "its cost changes from 0.18 to 0.4 (measured)")
    ]


@pytest.mark.parametrize(("now", "expected"), [(0.49, 0.4), (0.33, 0.4), (0.51, 0.51), (0.3, 0.3)])
def test_a_measured_cost_stays_until_it_differs_by_a_quarter(now: float, expected: float) -> None:
    known = apply_content(first(), content(FILE), measured={"yard": 0.4})
    after = apply_content(known, content(FILE), measured={"yard": now})
    assert after.sources["yard"].cost == expected
    assert is_same(known, after) == (expected == 0.4)


def test_the_last_measured_cost_stays_while_a_slot_is_away_and_a_declared_one_replaces_it() -> None:
    known = apply_content(first(), content(FILE), measured={"yard": 0.4})
    assert is_same(known, apply_content(known, content(FILE)))
    declared = content(FILE + "cost = 0.25\n")
    assert apply_content(known, declared, measured={"yard": 0.4}).sources["yard"].cost == 0.25


def plan_of(sources: int, slots: int) -> tuple[FleetContent, FleetPlan]:
    """All sources, without declared costs, in the first of these slots of 2 cores."""
    names = [f"slot{n}" for n in range(slots)]
    listed = {f"s{n}": FleetSource({}, 0.18, cost_from="default") for n in range(sources)}
    begun = apply_content(FleetPlan(), FleetContent({"slot0": 2.0}, listed))
    wanted = FleetContent(dict.fromkeys(names, 2.0), listed)
    return wanted, apply_content(begun, wanted)


def moved(before: FleetPlan, after: FleetPlan) -> set[str]:
    old, new = before.sources, after.sources
    return {name for name in old if old[name].slot != new[name].slot}


def test_sources_move_only_out_of_a_slot_that_needs_more_than_1_1_times_its_cores() -> None:
    wanted, plan = plan_of(sources=10, slots=2)
    full = apply_content(plan, wanted, measured=dict.fromkeys(plan.sources, 0.22))  # 2.2 of 2
    assert moved(plan, full) == set()
    assert full.load("slot0") <= 2.0
    over = apply_content(plan, wanted, measured=dict.fromkeys(plan.sources, 0.23))  # 2.3 of 2
    assert len(moved(plan, over)) == 2, "8 x 0.23 fit into 2 cores"
    assert over.load("slot0") == pytest.approx(1.84)
    again = apply_content(over, wanted, measured=dict.fromkeys(plan.sources, 0.23))
    assert is_same(over, again)


def test_without_room_elsewhere_an_overloaded_slot_keeps_its_sources() -> None:
    wanted, plan = plan_of(sources=10, slots=1)
    over = apply_content(plan, wanted, measured=dict.fromkeys(plan.sources, 0.5))  # 5 of 2
    assert over.waiting() == []
    assert moved(plan, over) == set()
    assert over.load("slot0") == pytest.approx(2.0, abs=0.01)


def test_a_slot_that_its_declared_cost_fills_to_the_rounding_keeps_a_measured_source() -> None:
    default = FleetSource({}, 0.18, cost_from="default")
    wanted = FleetContent({"a": 0.84375}, {"gate": FleetSource({}, 0.84375), "yard": default})
    idle = apply_content(FleetPlan(), wanted, measured={"yard": 0.0})
    known = apply_content(idle, wanted, measured={"yard": 0.0})
    assert known.waiting() == []
    assert apply_content(known, wanted, measured={"yard": 1.0}).waiting() == []


SOURCES = [f"s{n}" for n in range(12)]
SLOTS = [f"slot{n}" for n in range(4)]
DECLARED = st.dictionaries(st.sampled_from(SOURCES), st.floats(0.0, 2.0), max_size=12)
CORES = st.dictionaries(st.sampled_from(SLOTS), st.floats(0.1, 4.0), min_size=1)
MEASURED = st.dictionaries(st.sampled_from(SOURCES), st.floats(0.0, 8.0))


def fleet_of(declared: dict[str, float], cores: dict[str, float]) -> FleetContent:
    """All SOURCES; those without a declared cost have the default."""
    sources = {}
    for name in SOURCES:
        sources[name] = FleetSource({}, 0.18, cost_from="default")
        if name in declared:
            sources[name] = FleetSource({}, declared[name])
    return FleetContent(cores, sources)


@given(DECLARED, CORES, MEASURED, MEASURED)
@settings(max_examples=200)
def test_no_measurement_takes_a_source_out_of_service(
    declared: dict[str, float],
    cores: dict[str, float],
    measured: dict[str, float],
    later: dict[str, float],
) -> None:
    wanted = fleet_of(declared, cores)
    plan = apply_content(FleetPlan(), wanted)
    for costs in (measured, later):
        after = apply_content(plan, wanted, measured=costs)
        assert set(after.waiting()) <= set(plan.waiting())
        for slot, room in after.slots.items():
            assert after.load(slot) <= round(room.cores * 1000) / 1000
        for name, cost in declared.items():
            assert after.sources[name].cost == cost
        for name in moved(plan, after):
            slot = plan.sources[name].slot
            if slot:
                assert need_of(plan, slot, declared, costs) > 1.1 * cores[slot]
        plan = after


def need_of(
    plan: FleetPlan, slot: str, declared: dict[str, float], measured: dict[str, float]
) -> float:
    """The cores that the sources of a slot need: declared, measured, else those of the plan."""
    need = 0.0
    for name, source in plan.sources_of(slot).items():
        need += declared.get(name, measured.get(name, source.cost)) + 0.001  # rounded
    return need
