"""Sources over slots: what rendezvous hashing with a bound and stickiness promises."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.pipeline.fleet.assign import SPREAD, assign
from framegate.pipeline.fleet.plan import SlotRoom

MILLI = 1000


def loads(placed: dict[str, str], costs: dict[str, float]) -> Counter[str]:
    """Return the load of each slot in thousandths of a core, added up by hand."""
    found: Counter[str] = Counter()
    for name, slot in placed.items():
        found[slot] += round(costs[name] * MILLI)
    return found


SOURCES = [f"s{n}" for n in range(30)]
SLOTS = [f"slot{n}" for n in range(8)]
COSTS = st.dictionaries(st.sampled_from(SOURCES), st.floats(0.0, 2.0), max_size=30)
ROOMS = st.dictionaries(
    st.sampled_from(SLOTS), st.builds(SlotRoom, st.floats(0.1, 4.0), st.booleans()), max_size=8
)
BEFORE = st.dictionaries(st.sampled_from(SOURCES), st.sampled_from(SLOTS), max_size=30)


@given(COSTS, ROOMS, BEFORE, st.booleans())
def test_no_slot_gets_more_than_its_cores_and_no_source_waits_while_there_is_room(
    costs: dict[str, float], rooms: dict[str, SlotRoom], before: dict[str, str], spread: bool
) -> None:
    placed = assign(costs, rooms, before, spread)
    used = loads(placed, costs)
    assert set(placed) <= set(costs)
    for slot, load in used.items():
        assert not rooms[slot].drained
        assert load <= round(rooms[slot].cores * MILLI)
    for name in set(costs) - set(placed):
        for slot, room in rooms.items():
            is_full = used[slot] + round(costs[name] * MILLI) > round(room.cores * MILLI)
            assert room.drained or is_full


@given(COSTS, ROOMS, BEFORE)
def test_a_source_moves_only_if_its_slot_is_gone_drained_or_too_full(
    costs: dict[str, float], rooms: dict[str, SlotRoom], before: dict[str, str]
) -> None:
    placed = assign(costs, rooms, before)
    kept = {name: slot for name, slot in before.items() if name in costs}
    used = loads(kept, costs)
    for name, slot in kept.items():
        room = rooms.get(slot)
        if room is not None and not room.drained and used[slot] <= round(room.cores * MILLI):
            assert placed[name] == slot


@given(COSTS, ROOMS, BEFORE, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_arguments_does_not_matter(
    costs: dict[str, float],
    rooms: dict[str, SlotRoom],
    before: dict[str, str],
    random: object,
    spread: bool,
) -> None:
    def shuffled(table: dict[str, object]) -> dict[str, object]:
        items = list(table.items())
        random.shuffle(items)  # type: ignore[attr-defined]
        return dict(items)

    again = assign(shuffled(costs), shuffled(rooms), shuffled(before), spread)  # type: ignore[arg-type]
    assert again == assign(costs, rooms, before, spread)


@given(COSTS, ROOMS, BEFORE)
def test_a_second_assignment_moves_no_source(
    costs: dict[str, float], rooms: dict[str, SlotRoom], before: dict[str, str]
) -> None:
    placed = assign(costs, rooms, before)
    again = assign(costs, rooms, placed)
    assert {name: again[name] for name in placed} == placed


@given(st.sampled_from(SLOTS))
@settings(max_examples=8)
def test_a_lost_slot_moves_its_own_sources_and_no_others(lost: str) -> None:
    costs = dict.fromkeys(SOURCES, 0.3)
    rooms = {slot: SlotRoom(4.0) for slot in SLOTS}
    before = assign(costs, rooms, {})
    after = assign(costs, {slot: room for slot, room in rooms.items() if slot != lost}, before)
    moved = {name for name in SOURCES if before[name] != after[name]}
    assert moved == {name for name, slot in before.items() if slot == lost}


def test_slots_get_sources_in_proportion_to_their_cores() -> None:
    costs = {f"s{n}": 0.01 for n in range(4000)}
    placed = assign(costs, {"large": SlotRoom(90.0), "small": SlotRoom(30.0)}, {})
    counted = Counter(placed.values())
    assert counted["large"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_spread_gives_a_new_slot_sources_and_leaves_the_others_nearly_equal() -> None:
    costs = {f"s{n}": 0.1 for n in range(100)}
    rooms = {"a": SlotRoom(10.0), "b": SlotRoom(10.0)}
    before = assign(costs, rooms, {})
    rooms["c"] = SlotRoom(10.0)
    assert assign(costs, rooms, before) == before
    after = assign(costs, rooms, before, spread=True)
    assert max(loads(after, costs).values()) <= SPREAD * 10_000 / 3 + 100
    assert all(after[name] == "c" for name in costs if after[name] != before[name])


def test_ten_thousand_sources_are_assigned_and_a_hundredth_of_the_slots_moves_its_own_only() -> (
    None
):
    costs = {f"cam{n}": (0.08, 0.18, 0.4)[n % 3] for n in range(10_000)}
    rooms = {f"slot{n}": SlotRoom(4.0) for n in range(822)}
    began = time.process_time()
    placed = assign(costs, rooms, {})
    assert len(placed) == 10_000
    took_s = time.process_time() - began
    left = {name: room for name, room in rooms.items() if not name.endswith("00")}
    again = assign(costs, left, placed)
    moved = [name for name in costs if placed[name] != again[name]]
    assert len(again) == 10_000
    assert all(placed[name] not in left for name in moved)
    print(f"{took_s:.2f} s of CPU, {len(rooms) - len(left)} slots gone, {len(moved)} moved")
