"""One view of a fleet: two slots in two processes, and readers that know the store or one port."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.requests import Request

from framegate.cli.setup.store_size import StoreLoad
from framegate.pipeline.system.machine import cores
from framegate.pipeline.system.ports import own_address
from framegate.pipeline.web.accounts.accounts import digest_of
from framegate.pipeline.web.fleet import forward
from framegate.pipeline.web.fleet.forward import Forwarder, OtherHost
from framegate.pipeline.web.limits import Refusal
from framegate.pipeline.web.port import bound, outside_address
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.commands import Command, framegate, user_folder
from tests.support.fleets import Fleet, fleet
from tests.support.own_servers import free_port
from tests.support.recorded import write_both
from tests.support.runs import DEADLINE_S, wait_until

pytestmark = pytest.mark.whole_run

FRAMES = 100
PLAYLIST = "application/vnd.apple.mpegurl"
RECORDS = '[record]\nsources = ["north", "south"]\n'
TOKEN = "one-token-for-all-slots"
GUARD = "the-token-of-an-account-that-sees-north"
VISITS = '[stages.events]\nuse = "user_stages:Visits"\ninput = "cache"\non_lag = "wait"\n'


@dataclass(frozen=True)
class TwoHosts:
    """Two slots that are up after each has published its source, and the ports of both.

    places  by source: the slot that serves it
    """

    fleet: Fleet
    ports: dict[str, int]
    places: dict[str, str]
    slots: dict[str, Command]

    def shown(self, *words: str) -> str:
        """What a command prints that knows only the store."""
        folder = user_folder(self.fleet.folder / "reader")
        ended = framegate(folder, *words, "--store", self.fleet.url)
        assert ended.code == 0, ended.err
        return ended.out

    def get(self, slot: str, path: str, *, token: bool = True) -> tuple[int, Any]:
        """Status and JSON of a path at the port of a slot."""
        code, body, _ = self.fetch(slot, path, token=TOKEN if token else "")
        return code, json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

    def fetch(
        self, slot: str, path: str, *, token: str = TOKEN, body: Any = None, more: Any = None
    ) -> tuple[int, bytes, Any]:
        """Status, body and headers of a path at the port of a slot.

        body  what is posted, as JSON
        more  further headers
        """
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[slot]}{path}")
        for name, value in (more or {}).items():
            request.add_header(name, value)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers
        except OSError as error:  # its process does not answer so far
            return 0, str(error).encode(), {}

    def are_known(self) -> bool:
        """Whether each slot lists all episodes, and the store has the times of both recordings."""
        ids = {f"{name}/visitor/1-{seq}/0" for name in self.places for seq in range(0, FRAMES, 4)}
        for slot in self.ports:
            code, page = self.get(slot, "/api/v1/episodes?limit=1000")
            if code != 200 or {each["id"] for each in page["episodes"]} != ids:
                return False
            [recorded] = self.get(slot, "/api/v1/recordings")[1]
            noted = self.get(slot, "/api/v1/fleet/recordings")[1]
            if recorded["until"] not in [place["until"] for place in noted]:
                return False
        return True

    def other(self, source: str) -> str:
        """The slot that does not serve a source."""
        [other] = self.ports.keys() - {self.places[source]}
        return other


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    folder = tmp_path_factory.mktemp("fleet")
    clip = write_both(folder / "clip.mp4", FRAMES / 25)
    source = {"url": str(clip), "cost": 0.5}
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    (folder / "accounts.toml").write_text(
        f'[guard]\nrole = "viewer"\nsources = ["north"]\ntoken = "{digest_of(GUARD.encode())}"\n',
        encoding="utf-8",
    )
    access = (
        f'[http]\ntoken_file = "{folder / "token"}"\naccounts_file = "{folder / "accounts.toml"}"\n'
    )
    ports = {"a": free_port(), "b": free_port()}
    with fleet(folder, RECORDS + access + VISITS) as at:
        at.apply({"a": 0.5, "b": 0.5}, {"north": source, "south": source})
        slots = {
            slot: at.start(slot, f"host_{slot}", http=f"0.0.0.0:{port}")
            for slot, port in ports.items()
        }
        places = {name: at.slot_of(name) for name in ("north", "south")}
        assert set(places.values()) == {"a", "b"}
        for name in places:
            wait_until(f"{name} has ended", lambda name=name: at.ended(name))
        both = TwoHosts(at, ports, places, slots)
        wait_until("each slot knows what the other has", both.are_known)
        yield both


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
        assert hosts.fetch(other, f"{path}?{span}")[:2] == hosts.fetch(slot, f"{path}?{span}")[:2]
        code, fault = hosts.get(other, f"{path}?from={place['until'] + 9}&to={place['until'] + 99}")
        assert (code, "places" in fault) == (404, False)
    table = hosts.shown("recordings")
    assert "north" in table
    assert "south" in table


def test_each_slot_lists_all_sources_and_who_serves_them(hosts: TwoHosts) -> None:
    name = socket.gethostname()
    for slot in hosts.ports:
        listed = {each["source"]: each for each in hosts.get(slot, "/api/v1/sources")[1]}
        assert {
            source: (each["slot"], each["host"], each["away"], each["state"], each["published"])
            for source, each in listed.items()
        } == {
            source: (place, name, None, "finished", FRAMES)
            for source, place in hosts.places.items()
        }
        results = hosts.get(slot, "/api/v1/results?limit=2")[1]["results"]
        assert {(each["source"], each["seq"]) for each in results} == {
            ("north", FRAMES - 1),
            ("south", FRAMES - 1),
        }


def test_each_slot_lists_the_episodes_of_all_and_a_verdict_reaches_the_slot_of_its_source(
    hosts: TwoHosts,
) -> None:
    def listed(slot: str) -> list[dict[str, Any]]:
        episodes: list[dict[str, Any]] = hosts.get(slot, "/api/v1/episodes?limit=1000")[1][
            "episodes"
        ]
        return episodes

    judged = "north/visitor/1-4/0"
    other = hosts.other("north")
    path = f"/api/v1/episodes/{judged}/verdict"
    code, answer, _ = hosts.fetch(other, path, body={"verdict": "false"})
    assert (code, json.loads(answer)["verdict"]) == (200, "false")
    for slot in hosts.ports:
        verdicts = {each["id"]: each["verdict"] for each in listed(slot)}
        assert verdicts[judged] == "false"
    assert hosts.fetch(other, path, body={"verdict": "false"}, token="")[0] == 401


def test_any_slot_gives_pictures_and_clips_of_all(hosts: TwoHosts) -> None:
    noted = hosts.get("a", "/api/v1/fleet/recordings")[1]
    assert {place["source"]: place["slot"] for place in noted} == hosts.places
    for source, slot in hosts.places.items():
        other = hosts.other(source)
        since = next(place["since"] for place in noted if place["source"] == source)
        base = f"/api/v1/recordings/{source}"
        for path in (
            f"/snapshot/{source}.jpg?plain=1",
            f"{base}/picture.jpg?at={since + 1}",
            f"{base}/clip.mp4?from={since}&to={since + 2}",
            f"{base}/playlist.m3u8",
        ):
            code, body, headers = hosts.fetch(other, path)
            there, same, _ = hosts.fetch(slot, path)
            assert (code, there, body) == (200, 200, same), path
            assert headers["Content-Type"] in ("image/jpeg", "video/mp4", PLAYLIST)
        playlist = hosts.fetch(other, f"{base}/playlist.m3u8")[1].decode()
        segment = next(line for line in playlist.splitlines() if line.endswith(".m4s"))
        assert hosts.fetch(other, f"{base}/{segment}")[0] == 200
        part = hosts.fetch(
            other, f"{base}/clip.mp4?from={since}&to={since + 2}", more={"Range": "bytes=0-99"}
        )
        assert (part[0], len(part[1])) == (206, 100)


def test_an_account_sees_its_sources_on_all_hosts_and_no_others(hosts: TwoHosts) -> None:
    at = hosts.get("a", "/api/v1/fleet/recordings")[1][0]["since"] + 1
    for slot in hosts.ports:
        for path in ("/api/v1/sources", "/api/v1/fleet/recordings"):
            code, body, _ = hosts.fetch(slot, path, token=GUARD)
            assert (code, {each["source"] for each in json.loads(body)}) == (200, {"north"}), path
        for source, status in (("north", 200), ("south", 404)):
            for path in (
                f"/snapshot/{source}.jpg",
                f"/api/v1/recordings/{source}/picture.jpg?at={at}",
            ):
                assert hosts.fetch(slot, path, token=GUARD)[0] == status, (slot, path)
        verdict = "/api/v1/episodes/north/visitor/1-8/0/verdict"
        assert hosts.fetch(slot, verdict, token=GUARD, body={"verdict": "true"})[0] == 403


def test_one_response_has_the_live_pictures_of_both_hosts(hosts: TwoHosts) -> None:
    for slot, port in hosts.ports.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("GET", "/live?sources=north,south", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, slot
        shown = set()
        while shown != {"north", "south"}:
            head = json.loads(answer.readline())
            assert answer.read(head["bytes"]).startswith(b"\xff\xd8")
            shown.add(head["source"])
        connection.close()


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


def test_the_forwarded_token_decides_and_a_silent_host_costs_no_more_than_the_deadline(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarder = Forwarder(1)

    def asked(http: str, path: str, token: str = TOKEN, reads: bool = True) -> Any:
        """Status of the response of this address, or the reason why there is none."""

        async def ask() -> Any:
            headers = [(b"authorization", f"Bearer {token}".encode())]
            scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
            request = Request({**scope, "query_string": b"", "server": ("here", 80)})
            response = await forwarder.answer(request, OtherHost("b", "there", http))
            try:
                if not reads:
                    with pytest.raises(Refusal, match="1 requests to other hosts are in progress"):
                        await forwarder.answer(request, OtherHost("b", "there", http))
                return response.status_code
            finally:
                response.close()

        try:
            return asyncio.run(ask())
        except Refusal as refusal:
            return refusal.status, str(refusal)

    there = f"127.0.0.1:{hosts.ports['b']}"
    assert asked(there, "/api/v1/sources") == 200
    assert asked(there, "/api/v1/sources", reads=False) == 200
    assert asked(there, "/no-such-path") == 404
    status, reason = asked(there, "/api/v1/sources", token="a-wrong-token-of-this-test")
    assert (status, "does not accept the token" in reason) == (502, True)
    monkeypatch.setattr(forward, "HEAD_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        reason = f"slot b on host there (http://{address}) does not answer: no answer in time"
        assert asked(address, "/healthz") == (503, f"{reason}; try later")
    status, reason = asked("127.0.0.1:1", "/healthz")
    assert (status, "does not answer" in reason) == (503, True)
    assert asked("no address", "/healthz")[0] == 503


@needs_chromium
def test_the_pages_of_a_slot_show_the_sources_and_clips_of_the_other(hosts: TwoHosts) -> None:
    source = "south"
    slot, other = hosts.places[source], hosts.other(source)
    with chromium() as browser:
        visit = Visit(browser, "about:blank")
        visit.page.set_extra_http_headers({"Authorization": f"Bearer {TOKEN}"})
        visit.page.goto(f"http://127.0.0.1:{hosts.ports[other]}/")
        card = f'document.querySelector("[data-source={source}]")'
        visit.until(f"{card}?.querySelector('img').naturalWidth > 0")
        words = visit.look(f"{card}.querySelector('.url').textContent")
        assert words.startswith(f"slot {slot} on {socket.gethostname()} · ")
        visit.page.fill("#filter", f"{slot} finished")
        visit.until("[...document.querySelectorAll('article')].filter(e => !e.hidden).length === 1")
        visit.page.goto(f"http://127.0.0.1:{hosts.ports[other]}/review#source={source}")
        visit.until("document.querySelector('#list button') !== null")
        visit.page.click("#list button")
        visit.until("document.querySelector('video')?.readyState > 0")
        # Pictures of the page that was left may still be on their way.
        assert [fault for fault in visit.faults if "ABORTED" not in fault] == []
        visit.close()


def test_a_host_that_is_away_is_named_and_its_episodes_stay_listed(hosts: TwoHosts) -> None:
    """The last test: it kills a slot."""
    source = "south"
    slot, other = hosts.places[source], hosts.other(source)
    [place] = [
        each for each in hosts.get(other, "/api/v1/fleet/recordings")[1] if each["slot"] == slot
    ]
    before = hosts.get(other, f"/api/v1/episodes?source={source}")[1]
    assert len(before["episodes"]) == FRAMES / 4
    hosts.slots[slot].process.kill()
    hosts.slots[slot].process.wait()

    def listed() -> dict[str, Any]:
        sources = hosts.get(other, "/api/v1/sources")[1]
        return next(each for each in sources if each["source"] == source)

    away = f"slot {slot} gives no sign of life"
    wait_until("its sources are shown as away", lambda: listed()["away"] == away)
    assert (listed()["slot"], listed()["host"], listed()["published"]) == (slot, None, FRAMES)
    assert hosts.get(other, f"/api/v1/episodes?source={source}")[1] == before
    code, reason, _ = hosts.fetch(other, f"/snapshot/{source}.jpg")
    assert (code, reason.decode()) == (503, f"source {source}: {away}; try later\n")
    path = f"/api/v1/recordings/{source}/clip.mp4?from={place['since']}&to={place['until']}"
    code, fault = hosts.get(other, path)
    assert (code, fault["places"]) == (503, [place])
    assert (
        f"slot {slot} on host {place['host']} (http://{place['http']}) does not" in fault["error"]
    )
    [views] = [json.loads(line) for line in hosts.shown("watch", "--json", "--once").splitlines()]
    assert {view["source"]: (view["slot"], view["away"]) for view in views} == {
        "north": (hosts.places["north"], None),
        "south": (slot, away),
    }
    verdict = f"/api/v1/episodes/{before['episodes'][0]['id']}/verdict"
    assert hosts.fetch(other, verdict, body={"verdict": "true"})[0] == 503
