"""Slots on one store: their sources move, and what was published stays each frame once, in order.

The hosts are processes of this host with folders of their own, joined by the loopback.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.cameras.one_session import OneSessionCamera
from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.commands import framegate
from tests.support.earlier import earlier_package
from tests.support.fleets import Fleet, fleet
from tests.support.links import Link
from tests.support.runs import wait_until
from tests.support.shaping import Shape
from tests.support.stream_checker import checked
from tests.support.webhooks import SINK, receiving

pytestmark = pytest.mark.whole_run

FRAMES = 300  # 12 s
BEFORE = 20  # results before something happens
TAKEN_OVER = 75
PASSWORD = "planted-in-a-url"
SLOTS = {"a": 2.0, "b": 2.0}
PATIENT = "[live]\nstall_s = 60\n"  # a stall of this machine begins no epoch of a camera


def files(at: Fleet, *names: str, frames: int = FRAMES) -> dict[str, dict[str, object]]:
    """Files on storage that all slots share, at the pace of their time stamps."""
    clip = at.folder / "clip.mp4"
    if not clip.exists():
        footage.write_scene(clip, footage.steady(frames))
    return {name: {"url": str(clip), "pace": "realtime", "cost": 0.5} for name in names}


def whole(at: Fleet, *names: str, frames: int = FRAMES) -> None:
    """Each file is published to its end, each frame once, in its first epoch, with its content."""
    for name in names:
        wait_until(f"{name} has ended", lambda name=name: at.ended(name))
        results = at.reader.whole(name, frames)
        assert [len(result["objects"]) - 1 for result in results] == [n % 3 for n in range(frames)]
        assert {result["outcome"] for result in results} == {"detected"}


def test_the_sources_of_a_killed_slot_continue_on_the_other_one(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    with fleet(tmp_path) as at:
        at.apply(SLOTS, files(at, *names))
        with checked(at.url, *names):
            slots = {name: at.start(name, f"host_{name}") for name in SLOTS}
            for name in names:
                at.until(name, BEFORE)
            lost = at.slot_of("one")
            at.kill(slots[lost])
            drained = at.does("drain", lost)
            assert f"source one: moves from {lost} to " in drained.out
            whole(at, *names)
            assert {at.slot_of(name) for name in names} == {"a", "b"} - {lost}
            status = at.status()
        assert status["unserved"] == {}
        [away] = [slot for slot in status["slots"] if slot["slot"] == lost]
        assert away["sources"] == 0


def test_a_new_instance_of_a_killed_slot_continues_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine does it: the same slot on another host, without any change of the plan."""
    with fleet(tmp_path) as at:
        sources = files(at, "one", "two")
        monkeypatch.setenv("CLIP", str(sources["two"].pop("url")))
        at.apply({"a": 2.0}, {**sources, "two": {**sources["two"], "url_env": "CLIP"}})
        with checked(at.url, "one", "two"):
            first = at.start("a", "host_1")
            at.until("one", BEFORE)
            at.kill(first)
            at.start("a", "host_2")
            whole(at, "one", "two")
            assert at.reader.client.hget("fg:{one}:own", "generation") == b"2"


def test_of_two_instances_of_a_slot_the_older_ends_and_no_late_result_gets_through(
    tmp_path: Path,
) -> None:
    """As after a partition that the engine took for a death: both are up, and reach the store.

    When the newer one dies, the older one continues.
    """
    frames = 7500  # 300 s, so that each instance comes in the middle of the file
    with fleet(tmp_path) as at:
        at.apply({"a": 2.0}, files(at, "one", "two", frames=frames))
        with checked(at.url, "one", "two"):
            older = at.start("a", "host_1")
            at.until("one", BEFORE)
            newer = at.start("a", "host_2")
            ended = older.wait()
            assert ended.code == TAKEN_OVER, ended.err
            assert "slot a: a newer instance of it is up" in ended.err
            again = at.start("a", "host_1")
            assert again.wait().code == TAKEN_OVER, "nor does it take them back when restarted"
            at.until("one", at.published("one") + BEFORE)
            assert at.reader.client.hget("fg:{one}:own", "generation") == b"2"
            at.kill(newer)
            killed = at.published("one")
            last = at.start("a", "host_1")
            at.until("one", killed + BEFORE)
            last.interrupt()
            assert last.wait().code == 0
            assert at.reader.client.hget("fg:{one}:own", "generation") == b"3"
        for name in ("one", "two"):
            results = at.reader.results(name)
            assert [(each["epoch"], each["seq"]) for each in results] == [
                (1, seq) for seq in range(len(results))
            ]


def test_a_planned_move_and_a_drain_lose_no_frame_and_end_no_slot(tmp_path: Path) -> None:
    """Also back to the slot that had the source before."""
    frames = 7500  # 300 s, so that each command comes in the middle of the file
    with fleet(tmp_path) as at:
        at.apply({"a": 2.0}, files(at, "one", "two", frames=frames))
        with checked(at.url, "one", "two"):
            a = at.start("a", "host_a")
            at.until("one", BEFORE)
            at.apply(SLOTS, files(at, "one", "two", frames=frames))
            b = at.start("b", "host_b")
            b.says("slot b: version 2 of the fleet gives it no source")
            at.does("move", "one", "b")
            wait_until("b has it", lambda: "(slot b," in at.owner("one"))
            moved = at.published("one")
            at.until("one", moved + BEFORE)
            at.does("drain", "b")
            wait_until("a has it again", lambda: "(slot a," in at.owner("one"))
            back = at.published("one")
            at.until("one", back + BEFORE)
            for slot in (a, b):
                slot.interrupt()
                assert slot.wait().code == 0
        for name in ("one", "two"):
            results = at.reader.results(name)
            assert [(each["epoch"], each["seq"]) for each in results] == [
                (1, seq) for seq in range(len(results))
            ]
            assert {each["outcome"] for each in results} == {"detected"}
            assert len(results) < frames, "each command came in the middle of the file"
        assert at.owner("one")
        assert not at.reader.client.hget("fg:{one}:own", "run")


def test_a_slot_states_why_it_cannot_serve_a_source(tmp_path: Path) -> None:
    """The other sources are served; a source of a run that is no slot stays with that run."""
    with fleet(tmp_path) as at:
        sources = files(at, "one", "theirs")
        sources["secret"] = {"url_env": "NO_SUCH_VARIABLE"}
        sources["absent"] = {"url": str(tmp_path / "absent.mp4")}
        own = {"run": "r", "name": "r (host box, data d)"}
        at.reader.client.hset("fg:{theirs}:own", mapping=own)
        at.apply({"a": 2.0}, sources)
        at.start("a", "host_a")
        at.until("one", 1)
        wait_until(
            "three are not served",
            lambda: set(at.status()["unserved"]) == {"secret", "absent", "theirs"},
        )
        unserved = at.status()["unserved"]
        assert "'NO_SUCH_VARIABLE': this environment variable is not set" in unserved["secret"]
        assert "there is no such file" in unserved["absent"]
        assert "which is no slot, owns it; stop that run" in unserved["theirs"]
        at.reader.client.hset("fg:{theirs}:own", "run", "")
        at.until("theirs", 1)
        del sources["one"]
        at.apply({"a": 2.0}, sources)
        released = "the source that left the fleet is released"
        wait_until(released, lambda: not at.reader.client.hget("fg:{one}:own", "run"))
        assert at.ended("one"), "with its last end, which closes its episodes"


def test_a_slot_takes_its_sources_from_the_plan_only(tmp_path: Path) -> None:
    """What a user would lose otherwise is refused, with the command that works."""
    with fleet(tmp_path) as at:
        at.apply({"a": 2.0}, files(at, "one", frames=7500))
        slot = at.start("a", "host_a")
        at.until("one", BEFORE)
        here = at.folder / "commands"
        data = str(at.folder / "host_a" / "data")
        added = framegate(here, "add", f"two={at.folder / 'clip.mp4'}", "-d", data)
        removed = framegate(here, "remove", "one", "-d", data)
        for refused in (added, removed):
            assert refused.code == 2
            assert "slot a: the plan of its fleet names its sources" in refused.err
        at.until("one", at.published("one") + BEFORE)
        slot.interrupt()
        ended = slot.wait()
        hint = " ".join(ended.err.split()).replace("- ", "-")
        assert "continue with: framegate run --slot a -d data --store " in hint
        resumed = framegate(here, "run", "--resume", "-d", data, "--store", at.url)
        assert resumed.code == 2
        assert f"data folder {data} is that of slot a" in resumed.err


def test_a_slot_without_a_plan_that_it_can_read_keeps_its_sources_and_states_why(
    tmp_path: Path,
) -> None:
    """Before the first plan, and after one that a newer Framegate wrote."""
    with (
        fleet(tmp_path, PATIENT) as at,
        ScriptedCamera(lambda: paced(100_000, 10)) as camera,
        checked(at.url, "gate"),
    ):
        slot = at.start("a", "host_a")
        slot.says("has no plan of a fleet")
        wait_until(
            "the status lists it",
            lambda: [each["state"] for each in at.status()["slots"]] == ["unknown"],
        )
        at.apply({"a": 2.0}, {"gate": {"url": camera.url}})
        at.until("gate", BEFORE)
        at.reader.client.xadd("fg:fleet", {"d": '{"v": 2}'}, id="2-0")
        slot.says("slot a: it keeps its sources and follows no plan: ")
        frames_of_12_s = 120  # a slot without its store closes its cameras after 10 s
        at.until("gate", at.published("gate") + frames_of_12_s)
        assert (camera.accepted, camera.open) == (1, 1)
        wait_until("its sign states it", lambda: "reads up to 1" in at.sign("a"))
        assert slot.err.count("follows no plan") == 1
        slot.interrupt()
        assert slot.wait().code == 0


def test_a_slot_without_its_store_closes_its_cameras_until_the_store_is_back(
    tmp_path: Path,
) -> None:
    with (
        fleet(tmp_path, PATIENT) as at,
        ScriptedCamera(lambda: paced(100_000, 10)) as camera,
        checked(at.url, "gate"),
    ):
        at.apply({"a": 2.0}, {"gate": {"url": camera.url}})
        slot = at.start("a", "host_a")
        at.until("gate", BEFORE)
        at.store.kill()
        wait_until("the camera is closed", lambda: camera.open == 0)
        accepted = camera.accepted
        slot.says("cameras are closed until it is back: gate")
        at.store.start()
        slot.says("the store is back; other hosts serve none of its cameras")
        published = at.published("gate")
        at.until("gate", published + BEFORE)
        assert (camera.accepted, camera.open) == (accepted + 1, 1)
        slot.interrupt()
        assert slot.wait().code == 0
        assert {result["epoch"] for result in at.reader.results("gate")} == {1, 2}


VISITS = '[stages.events]\nuse = "user_stages:Visits"\ninput = "cache"\non_lag = "wait"\n'


def test_episodes_and_sinks_continue_where_their_source_does(tmp_path: Path) -> None:
    """A visit begins at each fourth frame and ends two frames later: each is told once, in order.

    Its sink may repeat a message, with the same id and words.
    """
    expected = []
    for seq in range(0, FRAMES, 4):
        expected += [f"gate/visitor/1-{seq}/0/start", f"gate/visitor/1-{seq}/0/end"]
    with receiving() as receiver, fleet(tmp_path, SINK + VISITS) as at:
        at.apply({"a": 2.0}, files(at, "gate"))
        with checked(at.url, "gate"):
            first = at.start("a", "host_1")
            wait_until("something is told", lambda: len(receiver.taken) > 4)
            at.kill(first)
            at.start("a", "host_2")
            whole(at, "gate")
            wait_until("all is told", lambda: expected[-1] in receiver.ids())
    words: dict[str, object] = {}
    for posted in receiver.taken:
        assert words.setdefault(posted.id, posted.event) == posted.event
    assert list(words) == expected


def test_a_camera_moves_with_one_session_and_each_frame_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By plan, then by the death of its slot: each time a new epoch, and never two sessions.

    Its password stays in the environment of the slots.
    """
    with (
        fleet(tmp_path, PATIENT) as at,
        ScriptedCamera(lambda: paced(100_000, 10)) as camera,
        checked(at.url, "gate"),
    ):
        monkeypatch.setenv("GATE_URL", camera.url.replace("//", f"//viewer:{PASSWORD}@"))
        at.apply(SLOTS, {"gate": {"url_env": "GATE_URL"}})
        slots = {name: at.start(name, f"host_{name}") for name in SLOTS}
        at.until("gate", BEFORE)
        here = at.slot_of("gate")
        [there] = SLOTS.keys() - {here}
        at.does("move", "gate", there)
        wait_until("it has moved", lambda: f"(slot {there}," in at.owner("gate"))
        moved = at.published("gate")
        at.until("gate", moved + BEFORE)
        assert camera.open == 1
        assert PASSWORD not in at.everything()
        at.kill(slots[there])
        killed = at.published("gate")
        again = at.start(there, "host_c")
        at.until("gate", killed + BEFORE)
        for slot in (slots[here], again):
            slot.interrupt()
            assert slot.wait().code == 0
        assert camera.accepted == 3
        assert PASSWORD not in at.everything()
        results = at.reader.results("gate")
        assert {result["epoch"] for result in results} == {1, 2, 3}
        assert {result["outcome"] for result in results if result["epoch"] < 3} == {"detected"}


def test_cameras_with_one_session_follow_their_slot_while_its_old_host_is_cut_off(
    tmp_path: Path,
) -> None:
    """The old host still reaches the cameras, so it must let them go. After the heal it writes
    nothing late, and connects to none of them.
    """
    names = ("gate", "hall", "lane", "yard")
    with (
        fleet(tmp_path, PATIENT) as at,
        closing(Link("loopback, cut by a proxy in user space")) as between,
        ExitStack() as stack,
        checked(at.url, *names, "file"),
    ):
        cameras = {name: stack.enter_context(OneSessionCamera()) for name in names}
        sources = {name: {"url": camera.url} for name, camera in cameras.items()}
        at.apply({"a": 2.0}, {**sources, **files(at, "file")})
        url = f"redis://{between.expose('near', str(at.store.socket))}"
        older = at.start("a", "host_1", url)
        for name in names:
            at.until(name, BEFORE)
        between.cut()
        newer = at.start("a", "host_2")
        older.says("cameras are closed until it is back: gate, hall, lane, yard")
        for name in names:
            wait_until(f"{name} has moved", lambda name=name: cameras[name].sessions == 2)
            at.until(name, at.published(name) + BEFORE)
        between.take(Shape())
        assert older.wait().code == TAKEN_OVER
        whole(at, "file")
        for camera in cameras.values():
            assert (camera.open, camera.sessions) == (1, 2)
        newer.interrupt()
        assert newer.wait().code == 0
        for name in names:
            assert at.reader.client.hget(f"fg:{{{name}}}:own", "generation") == b"2"


def test_a_drain_of_cameras_leaves_no_gap_but_between_epochs(tmp_path: Path) -> None:
    """Each decoded frame is published or counted as dropped, with its pixels."""
    names = ("gate", "hall")
    with (
        fleet(tmp_path, PATIENT) as at,
        ExitStack() as stack,
        checked(at.url, *names),
    ):
        cameras = {name: stack.enter_context(OneSessionCamera()) for name in names}
        at.apply({"a": 2.0}, {name: {"url": camera.url} for name, camera in cameras.items()})
        slots = [at.start("a", "host_a")]
        for name in names:
            at.until(name, BEFORE)
        at.apply(SLOTS, {name: {"url": camera.url} for name, camera in cameras.items()})
        slots.append(at.start("b", "host_b"))
        slots[1].says("slot b: version 2 of the fleet gives it no source")
        at.does("drain", "a")
        for name in names:
            wait_until("b has it", lambda name=name: "(slot b," in at.owner(name))
            at.until(name, at.published(name) + BEFORE)
        for slot in slots:
            slot.interrupt()
            assert slot.wait().code == 0
        for name in names:
            results = at.reader.results(name)
            last = {result["epoch"]: result["seq"] for result in results}
            assert len(last) == 2
            counters = at.reader.counters(name)
            dropped = sum(n for reason, n in counters.items() if reason.startswith("dropped:"))
            assert sum(last.values()) + len(last) - len(results) == dropped
            assert "dropped:frame_lost" not in counters
            assert {result["outcome"] for result in results} == {"detected"}


def test_versions_of_framegate_share_a_fleet_during_an_upgrade(tmp_path: Path) -> None:
    """A source moves from the earlier version to this one and back; then its host is upgraded."""
    frames = 7500  # 300 s, so that each command comes in the middle of the file
    earlier = earlier_package(tmp_path / "earlier")
    with fleet(tmp_path) as at, checked(at.url, "one", "two"):
        at.apply(SLOTS, files(at, "one", "two", frames=frames))
        slots = {
            "a": at.start("a", "host_a", package=earlier),
            "b": at.start("b", "host_b"),
        }
        here = at.slot_of("one")
        [there] = SLOTS.keys() - {here}
        for target in (there, here, "a"):
            at.until("one", at.published("one") + BEFORE)
            at.does("move", "one", target)
            slot = f"(slot {target},"
            wait_until("it has moved", lambda slot=slot: slot in at.owner("one"))
        at.until("one", at.published("one") + BEFORE)
        slots["a"].interrupt()
        assert slots["a"].wait().code == 0
        slots["a"] = at.start("a", "host_a")
        for name in ("one", "two"):
            at.until(name, at.published(name) + BEFORE)
        assert len(at.reader.client.function_list()) == 2, "each version has a library of its own"
        for slot in slots.values():
            slot.interrupt()
            assert slot.wait().code == 0
        for name in ("one", "two"):
            results = at.reader.results(name)
            assert [(each["epoch"], each["seq"]) for each in results] == [
                (1, seq) for seq in range(len(results))
            ]
            assert {each["outcome"] for each in results} == {"detected"}
            assert len(results) < frames, "each command came in the middle of the file"
