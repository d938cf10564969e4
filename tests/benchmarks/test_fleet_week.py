"""A week of a fleet in simulated time keeps what its page promises: the short version."""

from __future__ import annotations

from benchmarks.fleet_week import CAUSES, NEVER, simulated


def test_in_a_week_of_failures_each_source_has_one_owner_and_a_slot_while_there_is_room() -> None:
    week = simulated(sources=150, days=21.0, seed=3)
    assert {name: getattr(week, name) for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert set(CAUSES) <= set(week.recovered), "each kind of failure happened"
    assert week.slot_moves > 0
    assert week.moves["upgrade"] >= 150


def test_the_same_seed_gives_the_same_week() -> None:
    one, two = (simulated(sources=40, days=3.0, seed=2) for _ in range(2))
    assert one == two
