"""A fleet whose slots Ray keeps alive: what is killed comes back, here or on another host."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support import footage
from tests.support.orphans import all_end
from tests.support.own_servers import PROGRAMS, needs
from tests.support.ray_hosts import HEAD, TOKEN, RayFleet, ray_fleet, strays
from tests.support.runs import wait_until
from tests.support.stream_checker import checked

pytestmark = pytest.mark.whole_run

pytest.importorskip("ray")

BEFORE = 20  # results before something happens
PATIENT_S = 600.0  # Ray gives a process half a minute to start, and begins again
PLANTED = "planted-in-a-variable"
SOURCES = ("one", "two")


def goes_on(at: RayFleet, *slots: str) -> None:
    """Each source gets further results, and the status shows each slot as serving."""
    for source in SOURCES:
        at.until(source, at.published(source) + BEFORE)
    wait_until(
        "all slots serve",
        lambda: (
            {each["slot"]: each["state"] for each in at.status()["slots"]}
            == dict.fromkeys(slots, "serving")
        ),
        PATIENT_S,
    )
    assert at.status()["unserved"] == {}


def begin(at: RayFleet) -> None:
    """Two sources in two slots on two hosts, of which one has a secret that the others do not."""
    clip = at.folder / "clip.mp4"
    footage.write_scene(clip, footage.steady(15000))  # 600 s
    source = {"pace": "realtime", "cost": 0.5}
    at.sources = {"one": {"url": str(clip), **source}, "two": {"url_env": "CLIP", **source}}
    at.variables = {"CLIP": str(clip), "PASSWORD": PLANTED}
    at.apply({"a": 1.0, "b": 1.0}, at.sources)
    at.start_head()
    for name in ("one", "two"):
        at.start_host(name, **at.variables)


def lose_processes(at: RayFleet) -> None:
    """Kill a slot, then what runs the slots of a host; nothing of either is left."""
    killed = at.slots(at.host_of("a"))["a"]
    with all_end(at.below(killed)):
        os.kill(killed, signal.SIGKILL)
    goes_on(at, "a", "b")

    lost = at.host_of("a")
    with all_end(at.below(*at.slots(lost).values())):
        os.kill(at.raylets(lost)[0], signal.SIGKILL)
    goes_on(at, "a", "b")


def lose_a_host(at: RayFleet) -> tuple[str, str]:
    """Cut a host off, heal it, kill it; its name, and that of the other."""
    lost = at.host_of("a")
    [other] = {"one", "two"} - {lost}
    wait_until("the other host is back", lambda: at.raylets(other), PATIENT_S)
    if at.hosts[lost].cable:
        at.hosts[lost].cut()
        wait_until("Ray has moved them", lambda: len(at.slots(other)) == 2, PATIENT_S)
        assert at.slots(lost), "two instances are up"
        goes_on(at, "a", "b")
        at.hosts[lost].heal()
        wait_until("the older ones end", lambda: not at.slots(lost), PATIENT_S)
    at.hosts[lost].kill()
    goes_on(at, "a", "b")
    assert (at.host_of("a"), at.host_of("b")) == (other, other)
    return lost, other


def lose_the_head(at: RayFleet, other: str) -> None:
    """Kill the head; sources go on, commands answer, and no slot ends."""
    before = at.slots(other)
    at.hosts[HEAD].kill()
    for source in SOURCES:
        at.until(source, at.published(source) + BEFORE)
    at.does("drain", "b")
    at.does("undrain", "b")
    at.does("move", "two", "a")
    at.start_head()
    goes_on(at, "a", "b")
    assert at.slots(other) == before, "a lost head ends no slot"


def lose_the_head_and_a_host(at: RayFleet, lost: str, other: str) -> None:
    """Kill both at once; another host and a new head take over."""
    at.hosts[HEAD].kill()
    at.hosts[other].kill()
    at.start_head("--heavy", "1")
    at.start_host(lost, "--gpu", "1", **at.variables)
    goes_on(at, "a", "b")
    heavy = at.folder / lost / "heavy-1.log"
    wait_until(
        "a heavy worker is up",
        lambda: "answering questions" in heavy.read_text(encoding="utf-8"),
        PATIENT_S,
    )


@pytest.mark.parametrize("program", [needs(PROGRAMS[0])])
def test_slots_survive_the_loss_of_processes_hosts_and_the_head(
    tmp_path: Path, program: str
) -> None:
    """Each source has one owner, its ids grow, and no process of a lost slot is left."""
    with ray_fleet(tmp_path, program) as at, strays(at) as sent:
        begin(at)
        with checked(at.url, *SOURCES):
            goes_on(at, "a", "b")

            lose_processes(at)
            lost, other = lose_a_host(at)
            lose_the_head(at, other)
            lose_the_head_and_a_host(at, lost, other)
            at.apply({"a": 1.0}, at.sources)
            wait_until("slot b has ended", lambda: not at.host_of("b"), PATIENT_S)
            goes_on(at, "a")
            seen = at.seen()
            at.does("drain", "a")
            wait_until("no slot has them", lambda: not any(map(at.runs, SOURCES)))
        for secret in (PLANTED, TOKEN, at.server.password, quote(at.server.password, safe="")):
            assert secret not in seen
        assert sent == []


@pytest.mark.long
@pytest.mark.parametrize("program", [needs(PROGRAMS[0])])
def test_no_slot_restarts_when_the_head_is_lost_again_and_again(
    tmp_path: Path, program: str
) -> None:
    """If one did, systemd would have to be the default engine of plain hosts."""
    with ray_fleet(tmp_path, program) as at:
        begin(at)
        goes_on(at, "a", "b")
        before = [at.slots(name) for name in at.names]
        for _ in range(20):
            at.hosts[HEAD].kill()
            for source in SOURCES:
                at.until(source, at.published(source) + BEFORE)
            at.start_head()
            goes_on(at, "a", "b")
            assert [at.slots(name) for name in at.names] == before
