"""`framegate fleet` without slots: what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import redis

from framegate.cli.fleet.fleet import LEFT, status_of
from framegate.cli.main import main
from framegate.pipeline.contracts import keys
from framegate.pipeline.fleet.fleet_store import FleetStore, SlotSign, SourceOwner
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource, SlotRoom
from tests.support.servers import server

TOML = """
[slots.a]
cores = 1
[slots.b]
cores = 1
[sources.gate]
url_env = "GATE_URL"
cost = 0.6
[sources.yard]
url_env = "YARD_URL"
cost = 0.6
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text(TOML, encoding="utf-8")
    with server(tmp_path / "server") as opened:
        yield opened.url


def test_a_fleet_from_its_file_to_a_move(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    def prints(*words: str, code: int = 0) -> str:
        assert main(["fleet", *words, "--store", store]) == code
        printed = capsys.readouterr()
        return printed.out + printed.err

    assert "no plan of a fleet; framegate fleet apply" in prints("drain", "a", code=2)
    assert "slot a: added, 1 cores" in prints("diff", "fleet.toml")
    assert "version 1 of the plan is written" in prints("apply", "fleet.toml")
    assert prints("apply", "fleet.toml") == "nothing to change; the plan stays at version 1\n"
    assert prints("diff", "fleet.toml") == "nothing would change; the plan is at version 1\n"
    status = json.loads(prints("status", "--json"))
    assert [each["state"] for each in status["slots"]] == ["away", "away"]
    assert sorted(each["sources"] for each in status["slots"]) == [1, 1]
    assert "is away: start framegate run --slot" in status["unserved"]["gate"]
    drained = prints("drain", "a")
    assert "slot a: drained" in drained
    assert "1 source waits for room (0.60 cores): " in drained
    assert "slot a: no longer drained" in prints("undrain", "a")
    assert "has 0.40 cores left" in prints("move", "gate", "yard", "b", code=2)
    table = prints("status")
    assert table.splitlines()[0] == "version 3: 2 sources, 2 slots"
    assert "framegate fleet: error" not in table


def test_a_plan_after_a_deleted_one_is_newer_than_all_that_slots_have_seen(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def prints(*words: str, code: int = 0) -> str:
        assert main(["fleet", *words, "--store", store]) == code
        printed = capsys.readouterr()
        return printed.out + printed.err

    with closing(redis.Redis.from_url(store)) as client:
        for name, since in (("gate", 7), ("left", 9)):
            client.hset("fg:sources", name, "a run")
            client.hset(f"fg:{{{name}}}:own", "since", since)
        assert "the fleet has no such slot" in prints("drain", "a", code=2)
        assert "version 10 of the plan is written" in prints("apply", "fleet.toml")
        client.delete("fg:fleet")
        sign = SlotSign("run-a", "box", 12, 1)
        client.set("fg:fleet:slot:a", msgspec.json.encode(sign))
        assert "version 13 of the plan is written" in prints("apply", "fleet.toml")


def test_a_store_that_is_away_is_an_error_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", "status", "--store", f"unix://{tmp_path}/absent"]) == 3
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--slot", "a"), "--slot needs --store URL"),
        (("--slot", "a"), "--slot needs -d DATA"),
        (("--slot", "A"), "--slot 'A': not the name of a slot"),
        (("--slot", "a", "x=rtsp://h/1"), "a slot has no sources of its own, got x"),
        (("--slot", "a", "--take-over"), "--take-over: not with --slot"),
    ],
)
def test_what_a_slot_cannot_have_is_refused(
    words: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words]) == 2
    assert expected in capsys.readouterr().err


def test_the_status_names_each_source_that_no_process_serves() -> None:
    def source(slot: str) -> FleetSource:
        return FleetSource({"url_env": "X"}, 0.5, slot, 1)

    slots = {"a": SlotRoom(2.0), "b": SlotRoom(2.0, drained=True)}
    names = {"served": "a", "moving": "a", "refused": "a", "dead": "b", "waits": ""}
    plan = FleetPlan(4, slots, {name: source(slot) for name, slot in names.items()})
    signs = {
        "a": SlotSign("run-a", "box", 4, 1, {"refused": "it lacks X"}, fault="the plan is newer"),
        "typo": SlotSign("run-t", "box", 0, 0),
    }
    owners = dict.fromkeys(names, SourceOwner("run-b", "run-b (slot b, host box)", 1))
    owners["served"] = SourceOwner("run-a", "run-a (slot a, host box)", 1)
    owners["ending"] = owners["served"]
    owners["left"] = SourceOwner("", "run-b (slot b, host box)", 1)
    status = status_of(plan, signs, owners, {"a": 7.04, "typo": 0.3})
    assert status.unserved == {
        "moving": "slot a takes it over from run-b (slot b, host box)",
        "refused": "slot a: it lacks X",
        "dead": "slot b is away: start framegate run --slot b on a host, or drain it",
        "waits": "waits for room",
        "left": LEFT,
    }
    assert [(each.slot, each.state, each.load) for each in status.slots] == [
        ("a", "serving", 1.5),
        ("b", "away", 0.5),
        ("typo", "unknown", 0.0),
    ]
    assert [(each.drained, each.silent_s) for each in status.slots] == [
        (False, 7.0),
        (True, 0.0),
        (False, 0.3),
    ]
    assert [each.fault for each in status.slots] == ["the plan is newer", "", ""]


def test_the_status_shows_that_an_away_slot_is_drained_and_since_when_another_is_silent(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a slot that is being upgraded and one that was just killed can be told apart."""
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[slots.box1]\n[slots.box2]\n[sources.gate]\nurl_env = "GATE"\n', encoding="utf-8"
    )
    assert main(["fleet", "apply", str(file), "--store", store]) == 0
    assert main(["fleet", "drain", "box1", "--store", store]) == 0
    with closing(FleetStore(store)) as fleet, closing(redis.Redis.from_url(store)) as client:
        fleet.sign("box2", SlotSign("run-2", "here", 2, 1))
        client.pexpire(keys.fleet_slot("box2"), 4000)  # the slot was killed 6 s ago
        capsys.readouterr()
        assert main(["fleet", "status", "--store", store]) == 0
    _, head, box1, box2, *_ = capsys.readouterr().out.splitlines()
    assert head.startswith("slot  state          load")
    assert box1.split()[:3] == ["box1", "away,", "drained"]
    assert "no sign of life for 6 s" in box2 or "no sign of life for 7 s" in box2
