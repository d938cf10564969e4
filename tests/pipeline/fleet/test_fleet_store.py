"""The plan of a fleet in a store: versions, two writers at once, signs of life, deadlines."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FramegateError, StoreRefused, TakenOver
from framegate.pipeline.contracts.records import DecodeState
from framegate.pipeline.fleet import fleet_store
from framegate.pipeline.fleet.fleet_store import (
    COMMAND_S,
    KEPT,
    FleetStore,
    PlanChanged,
    SlotSign,
    SourceOwner,
)
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource, SlotRoom
from framegate.pipeline.store.admin import StoreAdmin
from tests.support.own_servers import PROGRAMS, needs, own_server
from tests.support.runs import DEADLINE_S
from tests.support.servers import server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("store")) as store:
        yield store.url


@pytest.fixture
def store(url: str) -> Iterator[FleetStore]:
    with redis.Redis.from_url(url) as client:
        client.flushall()
    opened = FleetStore(url)
    yield opened
    opened.close()


def plan(version: int, slot: str = "a") -> FleetPlan:
    source = FleetSource({"url_env": "GATE"}, 0.5, slot, version)
    return FleetPlan(
        version, {"a": SlotRoom(2.0), "b": SlotRoom(2.0, drained=True)}, {"gate": source}
    )


def test_a_plan_is_read_as_it_was_written_and_any_client_can_read_it(
    store: FleetStore, url: str
) -> None:
    assert store.plan() is None
    store.write(plan(1))
    assert store.plan() == plan(1)
    assert store.plan(after=1) is None
    with redis.Redis.from_url(url) as client:
        [(entry, fields)] = client.xrange("fg:fleet")
    assert entry == b"1-0"
    assert json.loads(fields[b"d"])["sources"]["gate"]["slot"] == "a"


def test_of_two_writers_of_a_version_one_is_refused(store: FleetStore) -> None:
    store.write(plan(1))
    store.write(plan(2, "a"))
    with pytest.raises(PlanChanged, match="version 2 of the fleet was written meanwhile"):
        store.write(plan(2, "b"))
    with pytest.raises(PlanChanged):
        store.write(plan(1, "b"))
    assert store.plan() == plan(2, "a")


def test_old_versions_are_dropped(store: FleetStore, url: str) -> None:
    for version in range(1, KEPT + 5):
        store.write(plan(version))
    with redis.Redis.from_url(url) as client:
        assert client.xlen("fg:fleet") == KEPT
    assert store.plan() == plan(KEPT + 4)


def test_a_plan_of_a_newer_framegate_is_refused(store: FleetStore, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.xadd("fg:fleet", {"d": '{"v": 2, "version": 1}'}, id="1-0")
    with pytest.raises(StoreRefused, match="has version 2, and this Framegate reads up to 1"):
        store.plan()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"v": 2, "version": "other than today"}', "this Framegate reads up to 1"),
        ('{"v": 1, "version":', "fg:fleet: "),
        (b"\xff\xfe", "fg:fleet: "),
    ],
)
def test_a_plan_that_cannot_be_read_is_refused(
    store: FleetStore, url: str, record: str | bytes, words: str
) -> None:
    with redis.Redis.from_url(url) as client:
        client.xadd("fg:fleet", {"d": record}, id="1-0")
    with pytest.raises(StoreRefused, match=words):
        store.plan()


def test_a_sign_that_cannot_be_read_hides_no_other_one(store: FleetStore, url: str) -> None:
    sign = SlotSign("run-1", "host", 3, 2)
    store.sign("a", sign)
    with redis.Redis.from_url(url) as client:
        client.set("fg:fleet:slot:b", b"not ours")
        client.set("fg:fleet:slot:c", b"\xff\xfe")
    assert store.signs(["a", "b", "c"]) == {"a": sign}
    assert store.alive() == ["a", "b", "c"]


def test_a_sign_of_life_expires_and_is_removed_by_its_own_run_only(
    store: FleetStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_store, "ALIVE_S", 1000)  # a pause of this test does not expire it
    sign = SlotSign("run-1", "host", 3, 2, {"gate": "it lacks GATE"})
    store.sign("a", sign)
    assert store.signs(["a", "b"]) == {"a": sign}
    with redis.Redis.from_url(url) as client:
        assert 0 < client.ttl("fg:fleet:slot:a") <= 1000
    store.sign_off("a", "run-2")
    assert store.signs(["a"]) == {"a": sign}
    store.sign_off("a", "run-1")
    assert store.signs(["a"]) == {}


def test_of_two_instances_of_a_slot_the_newer_is_current_until_it_ends(
    store: FleetStore, url: str
) -> None:
    admin = StoreAdmin(url)
    admin.prepare()
    admin.close()
    store.claim_slot("a", "one", "host 1")
    store.claim_slot("a", "two", "host 2")
    assert (store.has_slot("a", "one"), store.has_slot("a", "two")) == (False, True)
    with pytest.raises(TakenOver, match=r"slot a: a newer instance of it is up \(host 2\)"):
        store.claim_slot("a", "one", "host 1")
    store.release_slot("a", "one")
    assert store.has_slot("a", "two")
    store.release_slot("a", "two")
    store.claim_slot("a", "one", "host 1")
    assert store.has_slot("a", "one")


def test_an_older_instance_follows_a_newer_one_only_once_that_is_dead(
    store: FleetStore, url: str
) -> None:
    admin = StoreAdmin(url)
    admin.prepare()
    admin.close()
    store.claim_slot("a", "one", "host 1", starts=True)
    store.claim_slot("a", "two", "host 2", starts=True)
    sign = SlotSign("run-2", "host 2", 1, 1)
    store.sign("a", sign)
    ended = threading.Event()

    def live() -> None:
        newer = FleetStore(url)
        while not ended.wait(0.05):
            newer.sign("a", sign)
        newer.close()

    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(TakenOver, match="a newer instance of it is up"):
            store.claim_slot("a", "one", "host 1", starts=True)
    finally:
        ended.set()
        living.join()
    with pytest.raises(TakenOver):  # it was up when it was overtaken, so it does not wait
        store.claim_slot("a", "one", "host 1")
    with redis.Redis.from_url(url) as client:
        client.pexpire("fg:fleet:slot:a", 500)
    store.claim_slot("a", "one", "host 1", starts=True)
    assert store.has_slot("a", "one")


def test_owners_of_sources(store: FleetStore, url: str) -> None:
    own = {"run": "r", "name": "r (slot a, host h)", "since": "4", "epoch": "2"}
    with redis.Redis.from_url(url) as client:
        client.hset("fg:{gate}:own", mapping=own)
    expected = {"gate": SourceOwner("r", "r (slot a, host h)", 4, 2), "yard": SourceOwner()}
    assert store.owners(["gate", "yard"]) == expected
    assert store.owners([]) == {}


def test_the_sources_of_slots_without_their_last_end(store: FleetStore, url: str) -> None:
    open_state = records.encode(DecodeState("r", open=True))
    ended_state = records.encode(DecodeState("r", done=True))
    slot = "r (slot a, host h)"
    with redis.Redis.from_url(url) as client:
        for name, owner, since, state in (
            ("down", slot, 3, open_state),
            ("ended", slot, 3, ended_state),
            ("never_decoded", slot, 3, None),
            ("plain", "r (host h, data d)", 0, open_state),
            ("removed", "", 3, open_state),
        ):
            client.hset("fg:sources", name, owner)
            client.hset(f"fg:{{{name}}}:own", mapping={"run": "", "name": owner, "since": since})
            if state is not None:
                client.hset(keys.at(name, "decode"), "s", state)
    assert store.unended() == ["down"]


def test_a_store_that_accepts_and_never_answers_is_given_up(tmp_path: Path) -> None:
    """Each reply has a deadline, so a command ends although nothing ever comes."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen(16)
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                FleetStore(f"unix://{tmp_path / 'deaf'}").plan()
            except FramegateError as error:
                failures.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        began = time.monotonic()
        asking.start()
        asking.join(DEADLINE_S)
        assert failures, f"no answer after {time.monotonic() - began:.0f} s; {COMMAND_S} s a reply"


@pytest.mark.parametrize("program", [needs(PROGRAMS[0])])
def test_a_user_who_may_not_write_the_keys_of_ray_is_refused(program: str, tmp_path: Path) -> None:
    with own_server(program, tmp_path / "server") as own:
        with closing(FleetStore(own.url("redis"))) as opened:
            with pytest.raises(
                StoreRefused, match=r"ACL SETUSER framegate ~RAY\* ~DUMMY"
            ) as refused:
                opened.check_ray()
            assert own.password not in str(refused.value)
        with own.admin() as client:
            client.execute_command("ACL", "SETUSER", "framegate", "~RAY*", "~DUMMY")
        with closing(FleetStore(own.url("redis"))) as opened:
            opened.check_ray()
