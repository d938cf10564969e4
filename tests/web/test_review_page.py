"""The review page in a real browser: what is told is shown, judged by keys, and exported."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts import keys
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.control.filters import filter_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.pipeline.web.review.unseen import unseen_routes
from tests.support import said
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.run_filters import RunFilters
from tests.support.said import Sayer, change
from tests.support.web_server import serving

HOUR = 36_000  # frames
EVIL = '<img src=x onerror="document.title=1">'


def sources(_: Request) -> Response:
    lost = {"source": "yard", "state": "lost"}
    return JSONResponse([{"source": "door", "state": "running"}, lost])


def nothing(_: Request) -> Response:
    return JSONResponse([])


def no_picture(_: Request) -> Response:
    return Response(b"", 204)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def sayer(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sayer]:
    monkeypatch.setattr(said, "BEGAN", time.time() - 20 * 3600)
    made = Sayer(store)
    made.client.flushall()
    made.client.set(keys.IDENTITY, "the first")
    made.client.hset(keys.SOURCES, mapping=dict.fromkeys(("door", "yard"), "a run"))
    yield made
    made.client.close()


@pytest.fixture
def projection(tmp_path: Path) -> Iterator[Projection]:
    made = Projection(tmp_path / FILE)
    yield made
    made.close()


@pytest.fixture
def url(
    store: EmbeddedStore, sayer: Sayer, projection: Projection, tmp_path: Path
) -> Iterator[str]:
    """Three visits of an hour apart, a label that is HTML; the yard was away for ten hours."""
    for n in range(1, 4):
        label = EVIL if n == 3 else "person"
        at = n * HOUR
        sayer.say("door", at, change("start", at, at, label=label))
        sayer.say("door", at + 150, change("end", at, at + 150, label=label, held=100))
    sayer.say("yard", HOUR, unknown=("parked",))
    sayer.say("yard", 2 * HOUR, known=("parked",))
    projection.take(sayer.said())
    began = said.BEGAN
    projection.watch(
        [
            Watched("door", 1, began, began + 72_000),
            Watched("yard", 1, began, began + 18_000),
            Watched("yard", 2, began + 54_000, began + 72_000),
        ]
    )
    routes = [
        Route("/api/v1/sources", sources),
        Route("/api/v1/recordings", nothing),
        Route("/snapshot/{source}.jpg", no_picture),
        *api_routes(store.url, lambda: ["door", "yard"]),
        *filter_routes(tmp_path, store.url, RunFilters("door").ask),
        *episode_routes(tmp_path, store.url),
        *unseen_routes(tmp_path, dict),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}/review"


def text_of(visit: Visit, selector: str) -> str:
    return re.sub(r"\s+", " ", visit.page.inner_text(selector))


@needs_chromium
def test_episodes_are_looked_through_and_judged_by_keys(
    browser: Any, url: str, sayer: Sayer, projection: Projection
) -> None:
    visit = Visit(browser, url)
    visit.until("document.querySelectorAll('#list button').length === 3")
    assert visit.look("document.querySelectorAll('.bar').length") == 3
    for kind, found in (("unknown", "0,1"), ("away", "1,3")):  # before the run, when away, lost
        lanes = f"[...document.querySelectorAll('.lane')].map(l => l.querySelectorAll('.{kind}')"
        assert visit.look(f"{lanes}.length).join()") == found
    assert EVIL in text_of(visit, "#list"), "text, not HTML"
    visit.page.keyboard.press("j")
    visit.page.keyboard.press("j")
    visit.until("document.querySelectorAll('#steps tbody tr').length === 2")
    told = text_of(visit, "#detail")
    for words in ("visitor · door", "lasted 15.0 s", "ended the rule was no longer true",
                  "A network detected it in 151 frames; in 100 it was carried over",
                  "version 0a1b2c3d", "models light-int8@00000000"):  # fmt: skip
        assert words in told, told
    visit.page.keyboard.press("f")
    visit.until("document.querySelector('#list [aria-current=true] .said').innerText === 'false'")
    visit.until("document.querySelectorAll('#rates tbody tr').length === 1")
    rates = text_of(visit, "#rates tbody")
    assert rates.startswith("door visitor 1.20 0.03 – 11 0 1 0 2 0.83"), rates
    with visit.page.expect_download() as download:
        visit.page.click("#export")
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [e["verdict"] for e in exported] == [None, "false", None]
    again = Visit(browser, url + visit.look("location.hash"))
    again.until("document.querySelector('#title').innerText === 'visitor · door'")
    again.close()
    sayer.say("door", 19 * HOUR, change("start", 19 * HOUR, 19 * HOUR, rule="gate"))
    projection.take(sayer.said())
    visit.until("document.querySelectorAll('#list button').length === 4")
    assert "open" in text_of(visit, "#list")
    visit.page.select_option("#rule", "gate")
    visit.until("document.querySelectorAll('#list button').length === 1")
    visit.page.click("#earlier")
    visit.until("document.getElementById('none').checkVisibility()")
    assert text_of(visit, "#none") == "No episodes in this span with these filters"
    ours = (url.removesuffix("review"), "blob:", "data:")
    strange = [asked for asked in visit.asked if not asked.startswith(ours)]
    assert (visit.faults, strange, visit.look("document.title")) == ([], [], "Review · Framegate")
    visit.close()


@needs_chromium
def test_an_open_page_listens_again_after_its_stream_was_refused(
    browser: Any, url: str, sayer: Sayer, projection: Projection
) -> None:
    visit = Visit(browser, "about:blank")
    refused: list[str] = []

    def refuse_first(route: Any) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route.request.url)
        route.fulfill(status=503)

    visit.page.route("**/episodes/live", refuse_first)
    visit.page.goto(url)
    with visit.page.expect_response(lambda answer: answer.url.endswith("live") and answer.ok):
        visit.until("document.querySelectorAll('#list button').length === 3")
    sayer.say("door", 19 * HOUR, change("start", 19 * HOUR, 19 * HOUR, rule="gate"))
    projection.take(sayer.said())
    visit.until("document.querySelectorAll('#list button').length === 4")
    assert len(refused) == 1
    visit.close()


@needs_chromium
def test_the_timeline_has_what_began_before_it_and_columns_of_how_many(
    browser: Any, url: str, sayer: Sayer, projection: Projection
) -> None:
    minute, first = HOUR // 60, 18 * HOUR  # three begin at 18:05, one is over at 18:25
    for n in (5, 6, 7):
        at = first + n * minute
        sayer.say("yard", at, change("start", at, at, "yard", rule="gate", rank=n))
    for n, last in ((6, first + 25 * minute), (7, first + 87 * minute)):
        sayer.say("yard", last, change("end", first + n * minute, last, "yard", "gate", n))
    projection.take(sayer.said())
    until = said.BEGAN + 3600 * 20  # the span begins at 19:00
    visit = Visit(browser, f"{url}#span=3600&until={until}")
    visit.until("document.querySelectorAll('.bar').length === 2")
    assert visit.look("document.querySelectorAll('.columns').length") == 0, "none began then"
    visit.page.select_option("#span", "86400")
    visit.until("document.querySelectorAll('.bar').length === 6")
    columns = visit.page.locator(".columns rect").all()
    assert len(columns) in (4, 5), "three visits an hour apart, and three within three minutes"
    told = sorted(int(re.findall(r": (\d+) ", c.text_content())[0]) for c in columns)
    assert sum(told) == 6
    assert f"began ≤ {told[-1]} an hour" in text_of(visit, "#lanes")
    assert visit.faults == []
    visit.close()


@needs_chromium
def test_what_nobody_watched_is_hatched_from_its_first_second_on(
    browser: Any, url: str, projection: Projection
) -> None:
    now = time.time()
    projection.watch(
        [
            Watched("gate", 1, said.BEGAN, now - 1800),  # cut for 20 s, then connected anew at once
            Watched("gate", 2, now - 1780, now - 900),
            Watched("gate", 3, now - 899.5, now - 30),
        ]
    )
    visit = Visit(browser, f"{url}#span=604800")
    hatched = """[...document.querySelectorAll('.lane')].map(l =>
      [...l.querySelectorAll('.away')].slice(1).map(r => Number(r.getAttribute('width'))))"""
    visit.until("document.querySelectorAll('.lane').length === 3")
    _, gate, _ = visit.look(hatched)
    assert [width >= 2 for width in gate] == [True, False], "of seven days 20 s are seen"
    visit.page.select_option("#span", "3600")
    visit.until("document.querySelector('#clock').children.length === 5")
    visit.until("document.querySelectorAll('.lane')[1].querySelectorAll('.away').length === 2")
    door, gate, yard = visit.look(hatched.replace(".slice(1)", ""))
    assert (door, len(yard)) == ([], 1), "yard is lost now"
    assert [round(width * 3.6, 1) for width in gate if width >= 2] == [20.0], "seconds"
    assert visit.faults == []
    visit.close()


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_any_screen(browser: Any, url: str, width: int) -> None:
    visit = Visit(browser, url, width)
    visit.until("document.querySelectorAll('#list button').length === 3")
    visit.page.click("#list button")
    visit.until("document.querySelectorAll('#steps tbody tr').length === 2")
    assert visit.look("document.documentElement.scrollWidth") <= width
    close = visit.look("document.getElementById('close').checkVisibility()")
    assert close == (width < 900)
    visit.page.keyboard.press("Escape")
    assert visit.look("document.getElementById('detail').checkVisibility()") == (width >= 900)
    visit.page.keyboard.press("t")
    if width >= 900:
        visit.until(
            "document.querySelector('#list [aria-current=true] .said').innerText === 'true'"
        )
    else:
        visit.page.keyboard.press("j")
        visit.until("document.getElementById('detail').checkVisibility()")
        assert not [asked for asked in visit.asked if asked.endswith("/verdict")]
    assert visit.faults == []
    visit.close()
