"""Object filters over HTTP and on the pages: drawn, listed, removed, and made by a verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.control.filters import filter_routes, still_place
from framegate.pipeline.web.control.rules import rule_routes
from framegate.pipeline.web.review.episodes import episode_routes
from tests.support import said
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.run_filters import RunFilters
from tests.support.runs import DEADLINE_S
from tests.support.said import Sayer, change
from tests.support.web_server import serving

FRAMES = 40
STATUE, WALKER = "door/visitor/1-10/0", "door/visitor/1-12/0"
PLACE = (0.5, 0.25, 0.75, 0.75)  # of 64 x 48 pixels: 32, 12, 48, 36


@pytest.fixture
def filters() -> RunFilters:
    return RunFilters("door", "yard", sky=ObjectFilter(min_height=0.01))


@pytest.fixture
def url(
    store: EmbeddedStore, tmp_path: Path, filters: RunFilters, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A statue that is taken for a person, and somebody who walks through its place."""
    monkeypatch.setattr(said, "BEGAN", time.time() - 3600)
    sayer = Sayer(store)
    sayer.client.flushall()
    sayer.client.hset(keys.SOURCES, "door", "a run")
    for seq in range(FRAMES):
        left = 4.0 + seq
        statue = Object(10, "person", 0, 0.6, (32, 12, 48, 36 + (seq % 3 == 0)), "carried")
        walker = Object(12, "person", 0, 0.9, (left, 12, left + 16, 36), "detected")
        sayer.publish("door", seq, width=64, height=48, objects=(statue, walker))
    for began in (10, 12):
        sayer.say("door", 29 + began, change("start", began, 29))
    sayer.say("door", 50, *(change("end", began, FRAMES - 1) for began in (10, 12)))
    projection = Projection(tmp_path / FILE)
    projection.take(sayer.said())
    projection.close()
    routes = [
        Route("/api/v1/sources", lambda _: JSONResponse([{"source": "door", "state": "running"}])),
        Route("/api/v1/recordings", lambda _: JSONResponse([])),
        Route("/api/v1/episodes/live", no_picture),
        Route("/snapshot/{source}.jpg", no_picture),
        *filter_routes(tmp_path, store.url, filters.ask),
        *episode_routes(tmp_path, store.url),
        *rule_routes(store.url, lambda: ["door"]),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}"
    sayer.client.close()


def no_picture(_: Request) -> Response:
    return Response(b"", 204)


def post(url: str, path: str, content: Any) -> httpx.Response:
    return httpx.post(f"{url}/api/v1/{path}", json=content, timeout=DEADLINE_S)


def names(url: str) -> list[str]:
    return [each["name"] for each in httpx.get(f"{url}/api/v1/filters").json()]


@pytest.mark.parametrize(
    ("boxes", "place"),
    [
        ([], None),
        ([(0, 0, 10, 10)], (0, 0, 10, 10)),
        ([(0, 0, 10, 10), (0, 0, 10, 10), (1, 0, 11, 10)], (0, 0, 10, 10)),  # IoU 9 / 11
        ([(0, 0, 10, 10), (0, 0, 10, 10), (2, 0, 12, 10)], None),  # 8 / 12
        ([(0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 7)], None),  # 7 / 10
        ([(5, 5, 5, 5)], None),
    ],
)
def test_an_object_stood_still_if_all_boxes_overlap_with_their_median(
    boxes: list[Any], place: Any
) -> None:
    assert still_place(boxes) == place


def test_a_filter_is_added_listed_and_removed(url: str) -> None:
    area = {"sources": ["door"], "labels": ["person"], "area": [[0, 0], [1, 0], [1, 0.3]]}
    added = post(url, "filters/street", {"filter": area})
    assert added.status_code == 200, added.text
    assert [(each["name"], each["by"]) for each in added.json()] == [
        ("sky", "config"),
        ("street", "add"),
    ]
    assert post(url, "filters/street", {"filter": None}).status_code == 200
    assert names(url) == ["sky"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("street", {"filter": {}}, "filters.street.labels: missing"),
        ("street", {"filter": {"min_heigth": 0.1}}, "unknown key"),
        ("street", {"filter": {"area": [[0, 0], [1, 0]]}}, "three or more points"),
        ("street", {"filter": {"min_height": 0.1, "sources": ["dor"]}}, "no source of this run"),
        ("sky", {"filter": {"min_height": 0.1}}, "already has a filter of that name"),
        ("Sky!", {"filter": {"min_height": 0.1}}, "cannot name a filter"),
        ("sky", {"filter": None}, "remove [filters.sky] there"),
        ("street", {"filter": None}, "no filter of that name"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_reason(
    url: str, name: str, content: Any, fault: str
) -> None:
    answer = post(url, f"filters/{name}", content)
    assert answer.status_code == 400
    assert fault in answer.json()["error"]
    assert names(url) == ["sky"]


def test_a_still_object_is_hidden_once_and_a_moving_one_is_refused(
    url: str, filters: RunFilters
) -> None:
    for _ in range(2):
        hidden = post(url, f"episodes/{STATUE}/object/hidden", {"hidden": True})
        assert hidden.json() == {"labels": ["person"], "box": list(PLACE), "filter": "hidden_1"}
    [added] = filters.run.filters
    assert (added.sources, added.labels, added.by) == (("door",), (), "verdict")
    assert (added.box, added.min_iou, added.episode) == (pytest.approx(PLACE), 0.8, STATUE)
    refused = post(url, f"episodes/{WALKER}/object/hidden", {"hidden": True})
    assert (refused.status_code, "its object moved" in refused.text) == (409, True)
    shown = post(url, f"episodes/{STATUE}/object/hidden", {"hidden": False})
    assert shown.json()["filter"] is None
    assert filters.run.filters == ()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_a_false_episode_hides_its_object_and_an_area_is_drawn_to_ignore(
    browser: Any, url: str, filters: RunFilters, width: int
) -> None:
    visit = Visit(browser, f"{url}/review#id={STATUE}", width)
    visit.until("document.querySelectorAll('#list button').length === 2")
    visit.page.click(f"#list button[data-id='{STATUE}']")
    visit.until("document.querySelector('[data-verdict=false]')")
    assert not visit.page.is_visible("#hide")
    visit.page.click("[data-verdict=false]")
    visit.page.click("#hide >> text=Never show this thing here again")
    assert filters.run.filters == (), "it asks first"
    visit.page.click("#hide >> text=Hide it")
    visit.page.wait_for_selector("#hide >> text=The filter hidden_1 hides it")
    assert [each.name for each in filters.run.filters] == ["hidden_1"]
    assert visit.look("document.documentElement.scrollWidth") <= width
    assert [fault for fault in visit.faults if "404" not in fault] == []
    visit.close()
    visit = Visit(browser, f"{url}/rules", width)
    visit.page.wait_for_selector("#filters >> text=hidden_1")
    visit.page.select_option("#when", "ignore")
    visit.page.fill("#name", "street")
    for x, y in ((0.1, 0.1), (0.9, 0.1), (0.9, 0.4)):
        box = visit.page.locator("#still").bounding_box()
        visit.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert "[filters.street]" in visit.page.inner_text("#toml")
    visit.page.click("#ignore")
    visit.page.wait_for_selector("#filters >> text=street")
    added = filters.run.filters[-1]
    assert (added.name, added.labels, added.sources) == ("street", ("person",), ("door",))
    assert added.area[1] == pytest.approx((0.9, 0.1), abs=0.006)
    visit.page.click("[aria-label='Remove the filter hidden_1']")
    visit.page.wait_for_selector("#filters >> text=hidden_1", state="detached")
    assert [each.name for each in filters.run.filters] == ["street"]
    assert visit.look("document.documentElement.scrollWidth") <= width
    assert [fault for fault in visit.faults if "404" not in fault] == []
    visit.close()
