"""The page of disagreements in a real browser, and the answers that it reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from framegate.pipeline.contracts.episodes import Change, Changes, EventEntry
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import VisitEntry
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.web.review.disagreements import disagreement_routes
from tests.support import said
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.said import change, moment, visit
from tests.support.web_server import serving


def recordings(_: Request) -> Response:
    return JSONResponse([{"source": "door"}])


def no_picture(_: Request) -> Response:
    return Response(status_code=404)


def report(began: int, last: int, event: str) -> tuple[Change, Change]:
    told = {"when": "state", "label": event, "rule": f"camera_{event}", "tracks": ()}
    return change("start", began, began, **told), change("end", began, last, **told)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A camera that reported two people, of which Framegate saw one, and missed a third."""
    monkeypatch.setattr(said, "BEGAN", time.time() - 3 * 3600)
    projection = Projection(tmp_path / FILE)
    before = START
    for began in (100, 40_000):
        at = Position(1, began + 50)
        changes = Changes(report(began, began + 50, "person"))
        projection.take([EventEntry("door", at, before, moment(at.seq).captured, changes)])
        before = at
    visits = (visit(90, 140, 1), visit(3000, 3090, 2))
    projection.take([VisitEntry("door", Position(1, 3100), START, visits)])
    projection.close()
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    routes = [
        Route("/api/v1/recordings", recordings),
        Route("/api/v1/recordings/{source}/picture.jpg", no_picture),
        *disagreement_routes(folder),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}/disagreements"


@needs_chromium
def test_disagreements_are_shown_by_hour_and_with_their_recording(url: str) -> None:
    with chromium() as browser:
        seen = Visit(browser, url)
        seen.until("document.querySelectorAll('#list li').length === 2")
        cards = seen.look("[...document.querySelectorAll('#list b')].map(b => b.innerText)")
        assert cards == ["Only the camera: person", "Only Framegate: person"]
        rows = seen.look(
            "[...document.querySelectorAll('#hours tbody tr')].map(tr => "
            "[...tr.cells].slice(2).map(td => td.innerText))"
        )
        assert ["person", "1", "1", "0", "0"] in rows
        assert [sum(int(row[column]) for row in rows) for column in (1, 2, 3, 4)] == [2, 1, 2, 1]
        link = seen.look("document.querySelector('#list a').getAttribute('href')")
        assert link.startswith("api/v1/recordings/door/clip.mp4?from=")
        for width, height in ((1280, 800), (390, 844)):
            seen.page.set_viewport_size({"width": width, "height": height})
            assert seen.look("document.documentElement.scrollWidth <= innerWidth")
        seen.close()


@needs_chromium
def test_without_a_report_the_page_shows_how_to_get_them(tmp_path: Path) -> None:
    Projection(tmp_path / FILE).close()
    with serving(disagreement_routes(tmp_path)) as port, chromium() as browser:
        seen = Visit(browser, f"http://127.0.0.1:{port}/disagreements")
        seen.until("!document.querySelector('#none').hidden")
        assert 'events = "onvif"' in seen.page.inner_text("#none pre")


@needs_chromium
def test_the_page_tries_again_until_framegate_answers(folder: Path) -> None:
    refusals = [503, 503]
    operation, *others = disagreement_routes(folder)

    async def answer(request: Request) -> Response:
        if refusals:
            return JSONResponse({"error": "the store is away"}, refusals.pop())
        answered: Response = await operation.endpoint(request)
        return answered

    routes = [Route("/api/v1/recordings", recordings), Route(operation.path, answer), *others]
    with serving(routes) as port, chromium() as browser:
        seen = Visit(browser, f"http://127.0.0.1:{port}/disagreements")
        seen.until("document.querySelector('#trouble').innerText.includes('the store is away')")
        seen.until("document.querySelectorAll('#list li').length === 2")
        assert seen.page.is_hidden("#trouble")


@needs_chromium
def test_without_a_database_the_page_shows_how_to_get_reports(tmp_path: Path) -> None:
    with serving(disagreement_routes(tmp_path)) as port, chromium() as browser:
        seen = Visit(browser, f"http://127.0.0.1:{port}/disagreements")
        seen.until("!document.querySelector('#none').hidden")
        assert seen.page.is_hidden("#trouble")


def test_a_span_that_is_too_long_is_refused(folder: Path) -> None:
    client = TestClient(Starlette(routes=disagreement_routes(folder)))
    answer = client.get("/api/v1/disagreements", params={"from": "60d"})
    assert answer.status_code == 400
    assert "at most 31 are compared" in answer.json()["error"]
