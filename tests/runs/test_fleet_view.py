"""One view of a fleet: two slots in two processes, and readers that know the store or one port."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from framegate.cli.setup.store_size import StoreLoad
from framegate.pipeline.system.machine import cores
from framegate.pipeline.system.ports import own_address
from framegate.pipeline.web.port import bound, outside_address
from tests.support.commands import framegate, user_folder
from tests.support.fleets import Fleet, fleet
from tests.support.own_servers import free_port
from tests.support.recorded import write_both
from tests.support.runs import wait_until

FRAMES = 100
RECORDS = '[record]\nsources = ["north", "south"]\n'
VISITS = '[stages.events]\nuse = "user_stages:Visits"\ninput = "cache"\non_lag = "wait"\n'


@dataclass(frozen=True)
class TwoHosts:
    """Two slots that are up after each has published its source, and the ports of both.

    places  by source: the slot that serves it
    """

    fleet: Fleet
    ports: dict[str, int]
    places: dict[str, str]

    def shown(self, *words: str) -> str:
        """What a command prints that knows only the store."""
        folder = user_folder(self.fleet.folder / "reader")
        ended = framegate(folder, *words, "--store", self.fleet.url)
        assert ended.code == 0, ended.err
        return ended.out

    def get(self, slot: str, path: str, *, token: bool = True) -> tuple[int, Any]:
        """Status and JSON of a path at the port of a slot."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[slot]}{path}")
        if token:
            secret = (self.fleet.folder / f"host_{slot}" / "data" / "http.token").read_text("utf-8")
            request.add_header("Authorization", f"Bearer {secret.strip()}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            body = error.read()
            return error.code, json.loads(body) if body.startswith(b"{") else body.decode()
        except OSError as error:  # its process does not answer so far
            return 0, str(error)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    folder = tmp_path_factory.mktemp("fleet")
    clip = write_both(folder / "clip.mp4", FRAMES / 25)
    source = {"url": str(clip), "cost": 0.5}
    ports = {"a": free_port(), "b": free_port()}
    with fleet(folder, RECORDS + VISITS) as at:
        at.apply({"a": 0.5, "b": 0.5}, {"north": source, "south": source})
        for slot, port in ports.items():
            at.start(slot, f"host_{slot}", http=f"0.0.0.0:{port}")
        places = {name: at.slot_of(name) for name in ("north", "south")}
        assert set(places.values()) == {"a", "b"}
        for name in places:
            wait_until(f"{name} has ended", lambda name=name: at.ended(name))
        yield TwoHosts(at, ports, places)


def test_any_slot_lists_all_of_them_for_prometheus(hosts: TwoHosts) -> None:
    name = socket.gethostname()
    targets = [
        {"targets": [f"{name}:{port}"], "labels": {"slot": slot, "host": name}}
        for slot, port in hosts.ports.items()
    ]
    path = "/api/v1/fleet/targets"
    for slot in hosts.ports:
        wait_until(f"{slot} lists both", lambda slot=slot: hosts.get(slot, path) == (200, targets))
        wait_until(
            f"{slot} demands the token",
            lambda slot=slot: hosts.get(slot, path, token=False)[0] == 401,
        )
    places = {slot: f"{name}:{port}" for slot, port in hosts.ports.items()}
    wait_until("the status shows both", lambda: http_of(hosts.fleet.status()) == places)


def http_of(status: Any) -> dict[str, str]:
    """The HTTP port of each slot in a status."""
    return {slot["slot"]: slot["http"] for slot in status["slots"]}


def test_commands_with_the_store_show_the_sources_of_all_hosts_once(hosts: TwoHosts) -> None:
    results = [json.loads(line) for line in hosts.shown("results", "--json").splitlines()]
    shown = sorted((result["source"], result["seq"]) for result in results)
    assert shown == [(name, seq) for name in ("north", "south") for seq in range(FRAMES)]
    [views] = [json.loads(line) for line in hosts.shown("watch", "--json", "--once").splitlines()]
    assert [(view["source"], view["published"]) for view in views] == [
        ("north", FRAMES),
        ("south", FRAMES),
    ]
    episodes = [json.loads(line) for line in hosts.shown("events", "--json").splitlines()]
    assert sorted(episode["id"] for episode in episodes) == sorted(
        f"{name}/visitor/1-{seq}/0" for name in hosts.places for seq in range(0, FRAMES, 4)
    )


def test_each_host_names_the_one_that_has_a_recording(hosts: TwoHosts) -> None:
    name = socket.gethostname()

    def places() -> dict[str, dict[str, Any]]:
        lines = hosts.shown("recordings", "--json").splitlines()
        return {place["source"]: place for place in map(json.loads, lines)}

    def are_noted() -> bool:
        recorded = [hosts.get(slot, "/api/v1/recordings")[1] for slot in hosts.ports]
        noted = places()
        return all(
            each["source"] in noted and noted[each["source"]]["until"] == each["until"]
            for [each] in recorded
        )

    wait_until("both are noted whole", are_noted, 60.0)
    for source, place in places().items():
        slot = hosts.places[source]
        [other] = hosts.ports.keys() - {slot}
        folder = str(hosts.fleet.folder / f"host_{slot}" / "data")
        http = f"{name}:{hosts.ports[slot]}"
        assert {**place, "since": 0, "until": 0} == {
            "source": source,
            "slot": slot,
            "host": name,
            "folder": folder,
            "http": http,
            "since": 0,
            "until": 0,
        }
        path = f"/api/v1/recordings/{source}"
        span = f"from={place['since']}&to={place['until']}"
        code, here = hosts.get(slot, f"{path}?{span}")
        assert (code, here["elsewhere"]) == (200, [])
        for asked in (f"?{span}", f"/clip.mp4?{span}", f"/picture.jpg?at={place['until'] - 0.1}"):
            code, fault = hosts.get(other, path + asked)
            assert (code, fault["places"]) == (404, [place])
            assert f"slot {slot} on host {name} (http://{http})" in fault["error"]
        code, fault = hosts.get(other, f"{path}?from={place['until'] + 9}&to={place['until'] + 99}")
        assert (code, "places" in fault) == (404, False)
    table = hosts.shown("recordings")
    assert "north" in table
    assert "south" in table


def test_the_slots_have_no_more_connections_than_check_states(hosts: TwoHosts) -> None:
    load = StoreLoad("", sources=2, fps=0.0, runs=2, workers=cores(), hops=1)
    of_this_test = 1
    connections = len(hosts.fleet.reader.client.client_list()) - of_this_test
    assert connections <= load.connections(1, is_cluster=False)


def test_a_slot_states_only_an_address_that_other_hosts_reach() -> None:
    with bound("127.0.0.1:0") as loopback, bound("0.0.0.0:0") as everywhere:
        assert everywhere is not None
        port = everywhere.getsockname()[1]
        assert outside_address(None, "box") == ""
        assert outside_address(loopback, "box") == ""
        assert outside_address(everywhere, "box") == f"box:{port}"
        assert outside_address(everywhere, "2001:db8::7") == f"[2001:db8::7]:{port}"
    for store in (None, "127.0.0.1", "::1", "no-such-host.invalid"):
        assert own_address(store) == socket.gethostname()
