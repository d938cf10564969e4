"""/api/v1/episodes, as programs meet it: a database filled as a run does, over a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.review.projector import projected
from framegate.pipeline.review.verdicts import poisson_interval
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.review.episodes import episode_routes
from tests.support.runs import DEADLINE_S
from tests.support.said import BEGAN, Sayer, change, moment
from tests.support.web_server import serving

DAY = 864_000  # frames


@pytest.fixture
def sayer(store: EmbeddedStore) -> Iterator[Sayer]:
    made = Sayer(store)
    made.client.flushall()
    made.client.set(keys.IDENTITY, "the first")
    made.client.hset(keys.SOURCES, mapping=dict.fromkeys(("door", "yard"), "a run"))
    yield made
    made.client.close()


@pytest.fixture
def folder(store: EmbeddedStore, sayer: Sayer, tmp_path: Path) -> Path:
    """Three visits at the door, one of which goes on, and four crossings in the yard."""
    for seq in (10, 20, 30):
        sayer.say("door", seq, change("start", seq, seq))
        if seq < 30:
            sayer.say("door", seq + 5, change("end", seq, seq + 5))
    sayer.say("door", 40, unknown=("visitor",))
    sayer.say("door", 60, known=("visitor",))
    for seq in (100, 200, DAY, DAY + 100):
        way = "in" if seq % 200 else "out"
        told: dict[str, Any] = {"direction": way, "when": "crosses", "label": "car"}
        said = [change(step, seq, seq, "yard", "cars", **told) for step in ("start", "end")]
        sayer.say("yard", seq, *said)
    for seq in range(8, 17):
        seen = Object(10, "person", 0, 0.9, (6.4, 4.8, 12.8, 48.0), "detected")
        other = msgspec.structs.replace(seen, track=11)
        sayer.publish("door", seq, objects=(seen, other))
    fill(store, tmp_path)
    return tmp_path


def fill(store: EmbeddedStore, folder: Path) -> None:
    """Write the database of what the store has."""
    with projected(store.url).database as read:
        read.execute("VACUUM INTO ?", (str(folder / FILE),))
    projection = Projection(folder / FILE)
    projection.watch([Watched("door", 1, BEGAN, BEGAN + 43_200), Watched("yard", 1, BEGAN, BEGAN)])
    projection.close()


@pytest.fixture
def api(store: EmbeddedStore, folder: Path) -> Iterator[httpx.Client]:
    routes = [*api_routes(store.url, lambda: ["door", "yard"]), *episode_routes(folder, store.url)]
    with (
        serving(routes) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=DEADLINE_S) as client,
    ):
        yield client


def got(api: httpx.Client, path: str, **asked: Any) -> Any:
    """What is answered, as the document says that it is."""
    names = {"first": "from", "last": "to"}
    answer = api.get(path, params={names.get(name, name): v for name, v in asked.items()})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    general = "/episodes/{id}" if path.startswith("/episodes/") else path
    whole = api.get("/openapi.json").json()
    said = whole["paths"][f"/api/v1{general}"]["get"]["responses"]["200"]
    schema = said["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, **whole}).validate(told)
    return told


def test_episodes_are_listed_page_by_page(api: httpx.Client) -> None:
    first = got(api, "/episodes", limit=3)
    assert [e["began"]["seq"] for e in first["episodes"]] == [DAY + 100, DAY, 200]
    second = got(api, "/episodes", limit=3, after=first["next"])
    assert [e["began"]["seq"] for e in second["episodes"]] == [100, 30, 20]
    last = got(api, "/episodes", limit=3, after=second["next"])
    assert ([e["began"]["seq"] for e in last["episodes"]], last["next"]) == ([10], None)
    door = got(api, "/episodes", source="door", order="oldest")["episodes"]
    assert [(e["began"]["seq"], e["ended_by"]) for e in door] == [
        (10, "over"), (20, "over"), (30, None),
    ]  # fmt: skip
    assert [e["began"]["seq"] for e in got(api, "/episodes", open=1)["episodes"]] == [30]
    then = got(api, "/episodes", at=moment(32).captured)["episodes"]
    assert [e["began"]["seq"] for e in then] == [30]
    then = got(api, "/episodes", at=moment(15).captured)["episodes"]
    assert [e["began"]["seq"] for e in then] == [10], "it ended at that frame"
    assert len(got(api, "/episodes", label="car", rule="cars,visitor")["episodes"]) == 4
    spanned = got(api, "/episodes", first=moment(20).captured, last=moment(100).captured)
    assert [e["began"]["seq"] for e in spanned["episodes"]] == [100, 30, 20]


def test_one_tells_why_it_is_one(api: httpx.Client) -> None:
    told = got(api, "/episodes/door/visitor/1-10/0")
    assert told["episode"]["tracks"] == [10]
    assert [(s["step"], s["told"]["seq"], s["sightings"]) for s in told["steps"]] == [
        ("start", 10, 1), ("end", 15, 6),
    ]  # fmt: skip
    assert told["whole"]
    assert [p["at"] for p in told["path"]] == [f"1-{n}" for n in range(10, 16)]
    assert {p["track"] for p in told["path"]} == {10}
    assert told["path"][0]["box"] == pytest.approx([0.1, 0.1, 0.2, 1.0])
    later = got(api, "/episodes/door/visitor/1-30/0")
    assert (later["path"], later["whole"]) == ([], False)


def test_counts_by_bucket_and_direction(api: httpx.Client) -> None:
    told = got(api, "/counts", rule="cars", bucket="1d", first=BEGAN - 86400, last=BEGAN + 9e5)
    day = BEGAN // 86400 * 86400
    assert [(c["start"] - day, c["direction"], c["count"]) for c in told] == [
        (0, "in", 1), (0, "out", 1), (86400, "in", 1), (86400, "out", 1),
    ]  # fmt: skip
    assert got(api, "/counts", rule="cars") == [], "the last day"


def test_verdicts_make_a_rate_of_false_alerts(api: httpx.Client) -> None:
    def say(name: str, verdict: str | None) -> httpx.Response:
        return api.post(f"/episodes/{name}/verdict", json={"verdict": verdict})

    assert say("door/visitor/1-10/0", "false").json()["verdict"] == "false"
    assert say("door/visitor/1-20/0", "true").json()["verdict"] == "true"
    assert say("door/visitor/1-30/0", "unsure").status_code == 200
    assert say("door/visitor/1-30/0", "false").status_code == 200
    assert say("door/visitor/1-30/0", None).json()["verdict"] is None
    assert got(api, "/episodes", source="door", limit=1)["episodes"][0]["verdict"] is None
    door, yard = got(api, "/verdicts", first=BEGAN - 1, last=BEGAN + 9e5)
    days = 0.5 - 2.0 / 86400  # two seconds of it, nobody knew
    assert door["days"] == pytest.approx(days)
    assert (door["right"], door["false"], door["unsure"], door["unjudged"]) == (1, 1, 0, 1)
    assert door["per_day"] == pytest.approx(1 / days)
    # Garwood, from tables: 1 event has .0253 to 5.572, 2 events have up to 7.225.
    assert door["low"] * days == pytest.approx(0.0253, abs=1e-4)
    assert door["high"] * days == pytest.approx(7.225, abs=1e-3)
    assert (yard["unjudged"], yard["per_day"], yard["high"]) == (4, None, None)
    assert poisson_interval(0)[0] == 0
    assert poisson_interval(0)[1] == pytest.approx(3.689, abs=1e-3)


def test_what_was_seen_and_what_was_not(api: httpx.Client) -> None:
    told = got(api, "/seen", first=BEGAN, last=BEGAN + 100)
    assert told["watched"][0] == {
        "source": "door", "rule": "", "since": BEGAN, "until": BEGAN + 100,
    }  # fmt: skip
    assert told["unknown"] == [
        {"source": "door", "rule": "visitor", "since": moment(40).captured,
         "until": moment(60).captured}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/episodes?from=1-20", 400, "from must be a time "),
        ("/episodes?to=yesterday", 400, "to must be a time "),
        ("/episodes?limit=0", 400, "limit: '0'; allowed: 1 to 1000"),
        ("/episodes?order=best", 400, "order: 'best'; allowed: newest, oldest"),
        ("/episodes?after=here", 400, "after: 'here' is not a cursor"),
        ("/episodes/door/visitor/1-11/0", 404, "no episode door/visitor/1-11/0; did you mean"),
        ("/counts?bucket=1w", 400, "bucket must be a duration"),
        ("/counts?bucket=1s&from=2000-01-01", 400, "buckets of 1 s; allowed are 2000"),
    ],
)
def test_what_cannot_be_answered_says_why(
    api: httpx.Client, path: str, status: int, says: str
) -> None:
    answer = api.get(path)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_a_verdict_is_taken_from_pages_of_this_server_alone(api: httpx.Client) -> None:
    path, said = "/episodes/door/visitor/1-10/0/verdict", '{"verdict": "false"}'
    json_type = {"Content-Type": "application/json"}
    own = {**json_type, "Origin": f"http://{api.base_url.netloc.decode()}"}
    for headers, body, status in (
        ({**json_type, "Origin": "http://evil.example"}, said, 403),
        ({"Content-Type": "text/plain"}, said, 415),  # what a form of any page may send
        (json_type, '{"verdict": "maybe"}', 400),
        (json_type, '{"verdict": "true", "note": "x"}', 400),
        (json_type, " " * 2000 + said, 413),
        (own, said, 200),
    ):
        answer = api.post(path, headers=headers, content=body)
        assert answer.status_code == status, answer.text
    assert api.post(path.replace("1-10", "1-11"), json={"verdict": "true"}).status_code == 404
    assert api.get(path).status_code == 404, "reading is not judging"


def test_a_run_without_rules_says_so(store: EmbeddedStore, tmp_path: Path) -> None:
    with serving(episode_routes(tmp_path / "other", store.url)) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/episodes")
    assert answer.status_code == 404
    assert "no such file; a run makes it" in answer.json()["error"]


def test_changes_come_live_and_go_on_after_the_last(api: httpx.Client, sayer: Sayer) -> None:
    def read(count: int, last_id: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        headers = {"Last-Event-ID": last_id}
        with api.stream("GET", "/episodes/live", headers=headers) as answer:
            at = ""
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    at = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    told = json.loads(line.removeprefix("data: "))
                    found.append((f"{told['episode']}/{told['step']}", at))
                    at = ""
                    if len(found) == count:
                        return found
        raise AssertionError(found)

    start = f"door=1-20,yard=1-{DAY}"
    found = read(4, start)
    assert {name for name, _ in found} == {
        "door/visitor/1-20/0/end", "door/visitor/1-30/0/start",
        f"yard/cars/1-{DAY + 100}/0/start", f"yard/cars/1-{DAY + 100}/0/end",
    }  # fmt: skip
    ids = dict(found)
    assert ids[f"yard/cars/1-{DAY + 100}/0/start"] == "", "both of a frame, or none"
    sayer.say("door", 70, change("end", 30, 70))
    assert read(1, f"door=1-60,yard=1-{DAY + 100}") == [
        ("door/visitor/1-30/0/end", f"door=1-70,yard=1-{DAY + 100}")
    ]
