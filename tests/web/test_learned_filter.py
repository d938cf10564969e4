"""A filter that verdicts teach, over HTTP and on the page: judge, learn, try, switch on, undo."""

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
from framegate.pipeline.contracts.errors import RequestRefused
from framegate.pipeline.contracts.traits import Traits
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.review.teach import FilterOffer, switch_on
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.control.filters import filter_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.pipeline.web.review.unseen import unseen_routes
from tests.support import said
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.run_filters import RunFilters
from tests.support.runs import DEADLINE_S
from tests.support.said import Sayer, change
from tests.support.web_server import serving

ALL, APART = 40, 300  # episodes, by turns of a person and of a bush; frames between them
MUTED = f"door/visitor/1-{ALL * APART}/0"  # one more, which a filter has muted


def traits(n: int) -> Traits:
    if n % 2:
        return Traits(0.4 + n % 7 / 50, 0.15, 1.5, n / ALL, 0.4, 0.0, 1.0, 1.0, 0.6)
    return Traits(0.6 + n % 5 / 20, 0.3, 2.5, n / ALL, 0.8, 0.6, 1.0, 0.0, 0.2)


@pytest.fixture
def filters() -> RunFilters:
    return RunFilters("door")


@pytest.fixture
def url(
    store: EmbeddedStore, tmp_path: Path, filters: RunFilters, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setattr(said, "BEGAN", time.time() - 3600)
    sayer = Sayer(store)
    sayer.client.flushall()
    sayer.client.hset(keys.SOURCES, "door", "a run")
    for n in range(1, ALL + 1):
        began = n * APART
        muted = None
        if n == ALL:
            muted = "old/0a1b2c3d"
        more: dict[str, Any] = {"muted": muted, "box": (0.2, 0.3, 0.3, 0.7)}
        sayer.say("door", began, change("start", began, began, traits=traits(n), **more))
        sayer.say("door", began + 20, change("end", began, began + 20, **more))
    projection = Projection(tmp_path / FILE)
    projection.take(sayer.said())
    projection.watch([Watched("door", 1, said.BEGAN, said.BEGAN + 3600)])
    projection.close()
    routes = [
        Route("/api/v1/sources", lambda _: JSONResponse([{"source": "door", "state": "running"}])),
        Route("/api/v1/recordings", lambda _: JSONResponse([])),
        Route("/api/v1/episodes/live", _nothing),
        Route("/snapshot/{source}.jpg", _nothing),
        *filter_routes(tmp_path, store.url, filters.ask),
        *episode_routes(tmp_path, store.url),
        *unseen_routes(tmp_path, dict),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}"
    sayer.client.close()


def _nothing(_: Request) -> Response:
    return Response(b"", 204)


def judge(url: str, n: int, verdict: str) -> None:
    content = {"verdict": verdict}
    path = f"{url}/api/v1/episodes/door/visitor/1-{n * APART}/0/verdict"
    assert httpx.post(path, json=content, timeout=DEADLINE_S).status_code == 200


def offer(url: str) -> Any:
    asked = {"source": "door", "rule": "visitor"}
    return httpx.get(f"{url}/api/v1/verdicts/filter", params=asked, timeout=DEADLINE_S).json()


def switch(url: str, digest: str | None) -> httpx.Response:
    content = {"source": "door", "rule": "visitor", "digest": digest}
    return httpx.post(f"{url}/api/v1/verdicts/filter/on", json=content, timeout=DEADLINE_S)


def ids(url: str, muted: str) -> set[str]:
    asked = {"muted": muted, "limit": 100}
    answer = httpx.get(f"{url}/api/v1/episodes", params=asked, timeout=DEADLINE_S)
    return {each["id"] for each in answer.json()["episodes"]}


def test_a_filter_is_switched_on_as_it_was_seen_and_off(url: str, filters: RunFilters) -> None:
    for n in range(1, 20):
        judge(url, n, ("true", "false")[n % 2])
    assert "judge 1 more true" in offer(url)["refused"]
    judge(url, 20, "true")
    seen = offer(url)
    assert (seen["right"], seen["false"], seen["refused"]) == (10, 10, None)
    assert seen["miss"] == pytest.approx(0.2589, abs=1e-4)
    assert seen["trial"]["episodes"] == ALL
    assert filters.run.filters == (), "a trial changes nothing"
    judge(url, 22, "true")
    assert switch(url, seen["digest"]).status_code == 409, "the verdicts have changed since"
    now = offer(url)
    assert now["filter_digest"] is None
    assert switch(url, now["digest"]).json()["filter"] == "muted_1"
    assert offer(url)["filter_digest"] == now["digest"]
    [added] = filters.run.filters
    assert (added.rule, added.sources, added.by) == ("visitor", ("door",), "verdict")
    assert list(added.weights) == now["weights"]
    assert switch(url, now["digest"]).status_code == 200
    assert len(filters.run.filters) == 1, "it replaces the former one"
    assert switch(url, None).json()["filter"] is None
    assert filters.run.filters == ()
    path = f"{url}/api/v1/verdicts/filter"
    assert httpx.get(path, params={"rule": "visitor"}, timeout=DEADLINE_S).status_code == 400


def test_a_filter_that_is_refused_leaves_the_former_one_on() -> None:
    run = RunFilters("door")
    offered = FilterOffer("door", "visitor", 10, 10, None, weights=(0.0,) * 10)
    assert switch_on(run.ask, offered) == "muted_1"
    former = run.run.filters
    run.rules = {}
    with pytest.raises(RequestRefused, match="'visitor' is no rule"):
        switch_on(run.ask, offered)
    assert run.run.filters == former


def test_a_filter_is_switched_off_without_a_database(
    url: str, filters: RunFilters, tmp_path: Path
) -> None:
    switch_on(filters.ask, FilterOffer("door", "visitor", 10, 10, None, weights=(0.0,) * 10))
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    answer = switch(url, None)
    assert (answer.status_code, answer.json()["filter"]) == (200, None)
    assert answer.json()["refused"]
    assert filters.run.filters == ()


def test_the_verdict_true_brings_a_muted_episode_back(url: str) -> None:
    assert ids(url, "1") == {MUTED}
    assert MUTED not in ids(url, "0")
    assert ids(url, "all") == ids(url, "0") | ids(url, "1")
    judge(url, ALL, "true")
    assert ids(url, "1") == set()
    assert MUTED in ids(url, "0")
    wrong = httpx.get(f"{url}/api/v1/episodes", params={"muted": "some"}, timeout=DEADLINE_S)
    assert (wrong.status_code, "allowed: 0, 1, all" in wrong.text) == (400, True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_judge_learn_try_switch_on_and_undo(
    browser: Any, url: str, filters: RunFilters, width: int
) -> None:
    for n in range(2, 21):
        judge(url, n, ("true", "false")[n % 2])
    visit = Visit(browser, f"{url}/review#id=door/visitor/1-{APART}/0", width)
    visit.until(f"document.querySelectorAll('#list button').length === {ALL - 1}")
    visit.page.click("#rates >> text=Learn a filter")
    visit.page.wait_for_selector("#learned >> text=judge 1 more false")
    visit.page.click("#learned_close")
    visit.page.click(f"#list button[data-id='door/visitor/1-{APART}/0']")
    visit.page.click("[data-verdict=false]")
    visit.page.wait_for_selector("[data-verdict=false][aria-pressed=true]")
    if width < 900:
        visit.page.click("#close")
    visit.page.click("#rates >> text=Learn a filter")
    visit.page.wait_for_selector("#learned >> text=Learned from 10 true and 10 false verdicts")
    assert "up to 26 %" in visit.page.inner_text("#learned_text")
    assert visit.look("document.querySelectorAll('.trial').length") == 2
    visit.page.wait_for_selector("#learned >> text=Would have been muted")
    assert filters.run.filters == (), "a trial changes nothing"
    visit.page.click("#switch >> text=Switch on")
    visit.page.wait_for_selector("#switch >> text=The filter muted_1 is on")
    assert visit.page.locator("#switch button").all_inner_texts() == ["Switch it off"]
    assert [each.rule for each in filters.run.filters] == ["visitor"]
    visit.page.click("#switch >> text=Switch it off")
    visit.page.wait_for_selector("#switch >> text=is on", state="detached")
    assert filters.run.filters == ()
    visit.page.click("#muted")
    visit.until("document.querySelectorAll('#list button').length === 1")
    visit.page.click("#list button")
    visit.page.click("#muted_by >> text=Bring it back")
    visit.page.wait_for_selector("#muted_by >> text=your verdict brought it back")
    assert ids(url, "1") == set()
    assert visit.look("document.documentElement.scrollWidth") <= width
    assert visit.faults == []
    visit.close()
