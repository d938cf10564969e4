"""The plan of a fleet: what each command changes, and what it refuses."""

from __future__ import annotations

import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.fleet.change import (
    PlanChange,
    apply_content,
    changes,
    drain_slots,
    is_same,
    move_sources,
)
from framegate.pipeline.fleet.fleet_file import plain_cameras, read_fleet
from framegate.pipeline.fleet.plan import FleetPlan, SlotRoom

TWO = """
[slots.a]
[slots.b]
cores = 4
[sources.gate]
url_env = "GATE_URL"
cost = 0.5
[sources.yard]
url = "rtsp://camera.example/stream"
transport = "udp"
"""


def first() -> FleetPlan:
    return apply_content(FleetPlan(), read_fleet(TWO, "fleet.toml"))


def test_a_file_becomes_the_first_version() -> None:
    plan = first()
    assert plan.version == 1
    assert plan.slots == {"a": SlotRoom(2.0), "b": SlotRoom(4.0)}
    assert plan.sources["gate"].keys == {"url_env": "GATE_URL"}
    assert plan.sources["yard"].keys == {"url": "rtsp://camera.example/stream", "transport": "udp"}
    assert (plan.sources["gate"].cost, plan.sources["yard"].cost) == (0.5, 0.18)
    assert all(source.slot in ("a", "b") and source.since == 1 for source in plan.sources.values())
    assert plan.waiting() == []


def test_the_same_file_again_changes_nothing() -> None:
    plan = first()
    again = apply_content(plan, read_fleet(TWO, "fleet.toml"))
    assert is_same(plan, again)
    assert changes(plan, again) == []


def test_a_source_with_other_settings_begins_again_where_it_is() -> None:
    plan = first()
    again = apply_content(plan, read_fleet(TWO.replace("udp", "tcp"), "fleet.toml"))
    assert again.sources["yard"].slot == plan.sources["yard"].slot
    assert (again.sources["yard"].since, again.sources["gate"].since) == (2, 1)
    assert changes(plan, again) == [
        PlanChange("source yard", "its settings change, so it begins again")
    ]


def test_a_move_stays_and_a_drain_moves_all_of_a_slot() -> None:
    plan = first()
    here = plan.sources["gate"].slot
    [there] = {"a", "b"} - {here}
    after = move_sources(plan, ["gate"], there)
    assert (after.sources["gate"].slot, after.sources["gate"].since) == (there, 2)
    assert apply_content(after, read_fleet(TWO, "fleet.toml")).sources["gate"].slot == there
    empty = drain_slots(after, [there], is_drained=True)
    assert {source.slot for source in empty.sources.values()} == {here}
    assert apply_content(empty, read_fleet(TWO, "fleet.toml")).slots[there].drained
    filled = drain_slots(empty, [there], is_drained=False)
    assert filled.sources == empty.sources
    assert not filled.slots[there].drained


def test_without_room_a_source_waits_and_is_placed_when_there_is_room() -> None:
    small = TWO.replace("cores = 4", "cores = 0.4").replace("[slots.a]\n", "")
    plan = apply_content(FleetPlan(), read_fleet(small, "fleet.toml"))
    assert plan.waiting() == ["gate"]
    assert apply_content(plan, read_fleet(TWO, "fleet.toml")).waiting() == []


@pytest.mark.parametrize(
    ("names", "slot", "words"),
    [
        (["gat"], "a", "source gat: the fleet has no such source; did you mean gate?"),
        (["gate"], "c", "slot c: the fleet has no such slot"),
        (["gate"], "full", "slot full: it has 0.10 cores left, and gate needs 0.50"),
        (["gate"], "off", "slot off: it is drained; framegate fleet undrain off first"),
    ],
)
def test_a_move_that_cannot_be_is_refused(names: list[str], slot: str, words: str) -> None:
    plan = first()
    slots = {**plan.slots, "full": SlotRoom(0.1), "off": SlotRoom(9.0, drained=True)}
    plan = FleetPlan(1, slots, plan.sources)
    with pytest.raises(ConfigFaults, match=words.replace("?", r"\?")):
        move_sources(plan, names, slot)


def test_cameras_whose_path_the_store_shows_are_named() -> None:
    rows = {
        "door": 'url = "rtsp://h/live/admin/word/1"',
        "bare": 'url = "rtsp://h:554"',
        "hidden": 'url_env = "X"',
        "small": 'url_env = "X"\nlook_at = "rtsp://h/2"',
        "file": 'url = "/mnt/clip.mp4"',
        "remote": 'url = "https://h/clip.mp4"',
    }
    text = "[slots.a]\n" + "\n".join(f"[sources.{name}]\n{row}" for name, row in rows.items())
    assert plain_cameras(read_fleet(text, "fleet.toml")) == ["door", "small"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "slots: there is none; add [slots.NAME]"),
        ("[slots.a]\n[slot.b]", "slot: unknown table; a fleet has [slots.NAME] and [sources.NAME]"),
        ("[slots.a]\ncores = 0", "slots.a.cores = 0: must be a number, 0.1 to 1024"),
        ("[slots.A]", "slots.A: a name is a lower-case letter"),
        ("slots = 3", "slots = 3: must be tables, [slots.NAME]"),
        ("[slots.a]\n[sources.x]", "sources.x: must have either url or url_env"),
        (
            '[slots.a]\n[sources.x]\nurl = "rtsp://u:pass@h/1"',
            "sources.x.url: has a secret, which the store would show to all of its readers",
        ),
        (
            '[slots.a]\n[sources.x]\nurl_env = "X"\nevents = "http://u:pass@h/onvif"',
            "sources.x.events: has a secret, which the store would show to all of its readers; "
            "remove its login",
        ),
        ('[slots.a]\n[sources.x]\nurl = "clip.mp4"', "must be an absolute path on storage"),
        ('[slots.a]\n[sources.x]\nurl_env = "X"\nframes = "no"', "sources.x.frames = 'no': must"),
        ('[slots.a]\n[sources.x]\nurl_env = "X"\ncost = -1', "sources.x.cost = -1: must be"),
        ("[slots.a", "fleet.toml: "),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_remedy(text: str, words: str) -> None:
    with pytest.raises(ConfigFaults) as refused:
        read_fleet(text, "fleet.toml")
    assert words in str(refused.value)
