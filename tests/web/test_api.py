"""/api/v1, as programs and browsers meet it: results of a store, published by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator, ValidationError
from starlette.responses import HTMLResponse
from starlette.routing import Route

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import VERSION, Form, Record, SideOutput
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web import api as web_api
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.control.rules import rule_routes
from framegate.pipeline.web.limits import LIMITS, WebLimits
from framegate.pipeline.web.openapi import MAX_LIMIT, document
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.pipeline.web.server import routes
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.published import Publisher
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.web_server import serving

KNOWN = ["door", "yard"]


@pytest.fixture
def publisher(store: EmbeddedStore) -> Iterator[Publisher]:
    made = Publisher(store)
    made.client.flushall()
    made.client.set(keys.IDENTITY, "the first")
    made.client.hset(keys.SOURCES, mapping=dict.fromkeys(KNOWN, "a run"))
    yield made
    made.client.close()


@pytest.fixture
def api(store: EmbeddedStore, publisher: Publisher) -> Iterator[httpx.Client]:
    del publisher
    with (
        serving(api_routes(store.url, lambda: KNOWN)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=DEADLINE_S) as client,
    ):
        yield client


def page(api: httpx.Client, **asked: Any) -> dict[str, Any]:
    names = {"first": "from", "last": "to"}
    answer = api.get("/results", params={names.get(name, name): v for name, v in asked.items()})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def places(told: dict[str, Any]) -> list[str]:
    return [f"{each['source']}={each['epoch']}-{each['seq']}" for each in told["results"]]


def test_the_last_results_and_what_comes_after_them(
    api: httpx.Client, publisher: Publisher
) -> None:
    nothing = {"results": [], "next": "door=0-0,yard=0-0", "more": False}
    assert page(api) == nothing == page(api, after=nothing["next"])
    publisher.results("door", 1, range(5))
    publisher.results("yard", 2, range(3))
    assert len(places(page(api, after=nothing["next"]))) == 8
    told = page(api, limit=2)
    assert places(told) == ["door=1-3", "door=1-4", "yard=2-1", "yard=2-2"]
    assert told["results"][0]["outcome"] == "detected"
    assert told["next"] == "door=1-4,yard=2-2"
    assert places(page(api, after=told["next"])) == []
    publisher.results("door", 1, range(5, 7))
    assert places(page(api, after=told["next"], source="door")) == ["door=1-5", "door=1-6"]


def test_all_are_read_page_by_page(api: httpx.Client, publisher: Publisher) -> None:
    publisher.results("door", 1, range(50))
    publisher.end("door", 1, 50, last=False)
    publisher.results("door", 2, range(7))
    found, told = [], page(api, source="door", after="", limit=20)
    while True:
        found += places(told)
        if not told["more"]:
            break
        told = page(api, source="door", after=told["next"], limit=20)
    assert found == [f"door=1-{n}" for n in range(50)] + [f"door=2-{n}" for n in range(7)]


def test_a_response_has_a_bounded_number_of_results_of_all_sources(
    api: httpx.Client, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_api, "MAX_RESULTS", 5)
    publisher.results("door", 1, range(9))
    publisher.results("yard", 1, range(2))
    assert places(page(api, limit=9)) == ["door=1-7", "door=1-8", "yard=1-0", "yard=1-1"]
    told = page(api, after="", limit=9)
    assert (len(told["results"]), told["next"], told["more"]) == (4, "door=1-1,yard=1-1", True)
    assert len(page(api, source="door", limit=9)["results"]) == 5


def test_a_span_of_positions_or_times(api: httpx.Client, publisher: Publisher) -> None:
    publisher.results("door", 1, range(9))
    assert places(page(api, source="door", first="1-3", last="1-5")) == [
        "door=1-3", "door=1-4", "door=1-5",
    ]  # fmt: skip
    assert places(page(api, source="door", first="1h")) == [], "captured in 1970"
    assert len(places(page(api, source="door", last="2000-01-01"))) == 9


def test_what_a_stage_gave(api: httpx.Client, publisher: Publisher) -> None:
    record = Record(VERSION, 0.12, 99.5, 1.0, 3, Form(320, 180))
    side = SideOutput(VERSION, "0-0", msgspec.Raw(records.encode({"people": 2})), record)
    entry = {"k": "frame", "d": records.encode(side)}
    publisher.client.xadd(keys.out("door", "zone"), entry, id="1-3")
    (told,) = page(api, source="door", stage="zone")["results"]
    assert told == {
        "source": "door", "stage": "zone", "epoch": 1, "seq": 3, "pts": 0.12, "captured": 99.5,
        "captured_from": "arrival", "width": 320, "height": 180, "output": {"people": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("source=gate", 404, "no source gate; there are: door, yard"),
        ("limit=0", 400, f"limit: '0'; allowed: 1 to {MAX_LIMIT}"),
        ("limit=many", 400, "limit: 'many'"),
        (f"limit=0000000001{'0' * 20}", 400, f"allowed: 1 to {MAX_LIMIT}"),
        ("after=door:1-2", 400, "allowed: SOURCE=EPOCH-SEQ"),
        (f"after=door={10**20}-1", 400, "allowed: SOURCE=EPOCH-SEQ"),
        ("after=door=1--1", 400, "allowed: SOURCE=EPOCH-SEQ"),
        ("from=yesterday", 400, "from must be a time "),
        ("stage=../x", 400, "stage: '../x'; a lower-case letter"),
    ],
)
def test_what_cannot_be_answered_says_why(
    api: httpx.Client, asked: str, status: int, says: str
) -> None:
    for path in ("/results", "/results/stream"):
        if not (asked.startswith("limit") and "stream" in path):
            answer = api.get(f"{path}?{asked}")
            assert answer.status_code == status
            assert says in answer.json()["error"]


def test_an_unknown_stage_is_refused(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.client.xadd(keys.out("door", "former"), {"k": "frame", "d": b""}, id="1-3")
    with serving(api_routes(store.url, lambda: KNOWN, stages=["detect", "zone"])) as port:
        for path in ("results", "results/stream"):
            base = f"http://127.0.0.1:{port}/api/v1/{path}"
            refused = httpx.get(f"{base}?stage=zones")
            assert refused.status_code == 404
            assert "there are: detect, zone; did you mean zone?" in refused.json()["error"]
        known = httpx.get(f"http://127.0.0.1:{port}/api/v1/results?stage=zone")
        assert known.json()["results"] == []
        before = f"http://127.0.0.1:{port}/api/v1/results?stage=former&after=door=1-9"
        assert httpx.get(before).status_code == 200, "the run had it before it was resumed"


# -- Events.


class Events:
    """A stream that is read."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._lines = answer.iter_lines()

    def next(self) -> dict[str, str]:
        """The next event's fields, those of comments and pauses left out."""
        found: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name and name != "retry":
                found[name] = value
            elif found and not line:
                return found
        raise AssertionError(f"the stream ended: {found}")


@contextmanager
def stream(api: httpx.Client, last_id: str = "", **asked: str) -> Iterator[Events]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with api.stream("GET", "/results/stream", params=asked, headers=headers) as answer:
        yield Events(answer)


def test_events_are_results_and_go_on_where_a_reader_was(
    api: httpx.Client, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    with stream(api) as events:
        wait_until("it waits", publisher.waiting_readers)
        publisher.results("door", 1, range(3, 5))
        first = events.next()
        assert (first["id"], json.loads(first["data"])["seq"]) == ("door=1-3,yard=0-0", 3)
    publisher.results("yard", 1, range(2))
    with stream(api, first["id"]) as events:
        found = [events.next() for _ in range(3)]
    assert sorted(json.loads(e["data"])["source"] + e["id"] for e in found) == [
        "doordoor=1-4,yard=0-0", "yarddoor=1-4,yard=1-0", "yarddoor=1-4,yard=1-1",
    ]  # fmt: skip
    with stream(api, start="earliest", source="yard") as events:
        assert [events.next()["id"] for _ in range(2)] == ["yard=1-0", "yard=1-1"]


@pytest.mark.parametrize("asked", [{}, {"start": "earliest"}, {"after": "door=1-0"}])
def test_stored_results_of_a_source_outside_the_run_are_not_sent(
    api: httpx.Client, publisher: Publisher, asked: dict[str, str]
) -> None:
    publisher.results("hall", 3, range(5))  # removed from the run, or of another one
    with stream(api, **asked) as events:
        wait_until("it waits", publisher.waiting_readers)
        publisher.results("hall", 4, range(1))  # added again
        assert json.loads(events.next()["data"])["epoch"] == 4


def test_what_was_removed_and_what_ended_are_events(
    api: httpx.Client, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(10))
    publisher.trim("door", 4)
    publisher.end("door", 1, 10)
    with stream(api, "door=1-2", source="door") as events:
        trimmed = events.next()
        assert trimmed["event"] == "trimmed"
        assert json.loads(trimmed["data"]) == {"source": "door", "after": "1-2", "before": "1-6"}
        found = [events.next() for _ in range(5)]
    (ended,) = (event for event in found if event.get("event") == "end")
    assert json.loads(ended["data"]) == {"source": "door", "frames": 10, "fault": None}
    assert [e["id"] for e in found if "event" not in e] == [f"door=1-{n}" for n in range(6, 10)]


def test_streams_are_so_many_at_most_and_one_that_left_makes_room(
    api: httpx.Client, publisher: Publisher
) -> None:
    del publisher
    base = api.base_url
    lines = []
    for _ in range(LIMITS.streams):
        line = socket.create_connection((base.host, base.port or 80))
        line.sendall(f"GET {base.path}results/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert line.recv(12) == b"HTTP/1.1 200"
        lines.append(line)
    refused = api.get("/results/stream")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    lines.pop().close()

    def has_room() -> bool:
        with api.stream("GET", "/results/stream") as answer:
            return answer.status_code == 200

    wait_until("there is room", has_room)
    for line in lines:
        line.close()


def test_a_reader_that_takes_nothing_is_let_go_of(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(20_000))
    before = len(publisher.client.client_list())
    with (
        serving(api_routes(store.url, lambda: KNOWN), WebLimits(take_s=0.2)) as port,
        socket.socket() as line,
    ):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", port))
        line.sendall(
            b"GET /api/v1/results/stream?start=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        taken = b""
        while b"data: " not in taken:
            taken += line.recv(1024)
        wait_until("nobody reads", lambda: len(publisher.client.client_list()) == before)
        with contextlib.suppress(ConnectionResetError):
            while some := line.recv(1 << 16):
                taken += some
    assert taken.count(b"data: ") < 20_000


def test_a_server_that_is_to_end_gives_what_is_there_and_ends_its_streams(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(200))
    leaving = asyncio.Event()
    with (
        serving(api_routes(store.url, lambda: KNOWN, leaving)) as port,
        httpx.Client(timeout=DEADLINE_S) as client,
    ):
        leaving.set()  # nobody waits for it yet, so that any thread may
        address = f"http://127.0.0.1:{port}/api/v1/results/stream?start=earliest"
        assert client.get(address).text.count("data: ") == 200


# -- The document.


def test_the_document_is_openapi_and_results_are_what_it_says(
    api: httpx.Client, publisher: Publisher
) -> None:
    told = api.get("/openapi.json").json()
    schemas = told["components"]["schemas"]
    for name in ("Result", "Object", "Output", "Source", "Page"):
        fields = schemas[name]["properties"]
        assert [f for f, said in fields.items() if not said.get("description")] == [] or (
            name == "Source"
        )
    publisher.results("door", 1, range(3))
    validator = _validator(told, "Page")
    validator.validate(page(api))
    with pytest.raises(ValidationError, match="is not valid under any of the given schemas"):
        validator.validate({"results": [{"source": "door"}], "next": "", "more": False})


def whole_api(folder: Path) -> list[Route]:
    """Its routes, as the HTTP process serves them; none of them is asked."""
    return [
        *routes(cast(Any, None)),
        *api_routes("", list),
        *episode_routes(folder, ""),
        *rule_routes("", list),
        *recording_routes(folder, lambda *_: None),
    ]


def test_the_document_describes_whatever_is_under_api(tmp_path: Path) -> None:
    served = {route.path for route in whole_api(tmp_path) if route.path.startswith("/api/")}
    told = document(whole_api(tmp_path))["paths"]
    assert {re.sub(r":\w+}", "}", path) for path in served} == set(told)
    for path, methods in told.items():
        for operation in methods.values():
            named = {said["name"] for said in operation.get("parameters", [])}
            assert set(re.findall(r"{(\w+)}", path)) <= named
            assert set(re.findall(r"`\?(\w+)=", operation["description"])) <= named


def test_an_independent_validator_takes_the_document(tmp_path: Path) -> None:
    """What `pip install openapi-spec-validator` brings."""
    validators = pytest.importorskip("openapi_spec_validator")
    told = msgspec.json.decode(msgspec.json.encode(document(whole_api(tmp_path))))
    validators.OpenAPIV31SpecValidator(told).validate()
    told["paths"]["/api/v1/results"]["get"]["responses"] = {"200": {}}
    with pytest.raises(ValidationError, match="'description' is a required property"):
        validators.OpenAPIV31SpecValidator(told).validate()


def _validator(told: dict[str, Any], name: str) -> Any:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **told})


# -- A browser.


PAGE = """<!doctype html><link rel="icon" href="data:,"><script>
window.seen = [];
const events = new EventSource("/api/v1/results/stream?source=door&start=earliest");
events.onmessage = e => seen.push(e.lastEventId + " " + JSON.parse(e.data).seq);
events.addEventListener("end", e => seen.push("end " + JSON.parse(e.data).frames));
</script>"""


@needs_chromium
def test_a_browsers_event_source_reads_them(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(2))
    page = Route("/page", HTMLResponse(PAGE))
    routes = [page, *api_routes(store.url, lambda: KNOWN)]
    with serving(routes) as port, chromium() as browser:
        visit = Visit(browser, f"http://127.0.0.1:{port}/page")
        visit.until("seen.length === 2")
        publisher.results("door", 1, range(2, 3))
        publisher.end("door", 1, 3)
        visit.until("seen.length === 4")
        assert visit.look("seen.join('; ')") == "door=1-0 0; door=1-1 1; door=1-2 2; end 3"
        assert visit.faults == []
        visit.close()
