"""The page of visits in a real browser: words, marks, others like them, a rule, and a region."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.likeness import Likeness
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import PathPoint, VisitEntry
from framegate.pipeline.recording.changed_parts import PART_BYTES
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.web.control.like_rules import like_routes
from framegate.pipeline.web.review.visits import visit_routes
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.live_config import AnsweringConfig
from tests.support.said import moment, visit
from tests.support.web_server import serving

CONFIG = """\
# the door of the yard
[events.rules.dark]
when = "state"
state = "lost"
"""


class Sources:
    """The list of sources; `away`: how many requests get no answer before that."""

    def __init__(self) -> None:
        self.away = 0

    def __call__(self, _: Request) -> Response:
        if self.away:
            self.away -= 1
            return JSONResponse({"error": "the supervisor is silent"}, 503)
        return JSONResponse([{"source": "door"}])


def no_picture(_: Request) -> Response:
    return Response(b"", 204)


@pytest.fixture
def sources() -> Sources:
    return Sources()


@pytest.fixture
def url(tmp_path: Path, sources: Sources) -> Iterator[str]:
    """Thirty visits, every third a car to the left; the upper left corner changed twice."""
    visits = []
    for n in range(30):
        y = 0.55 + 0.01 * n
        path = (PathPoint(0.0, 0.1, y), PathPoint(2.0, 0.5, y), PathPoint(4.0, 0.9, y))
        label = "person"
        if n % 3 == 0:
            label = "car"
            path = tuple(PathPoint(each.seconds, 1 - each.x, y) for each in path)
        there = visit(n * 100, n * 100 + 100, n + 1)
        visits.append(msgspec.structs.replace(there, label=label, path=path))
    projection = Projection(tmp_path / FILE)
    at = Position(1, 3200)
    projection.take([VisitEntry("door", at, START, tuple(visits))])
    projection.close()
    writer = ChangedPartsWriter(tmp_path, 1 << 30)
    corner = bytes([0x80, *bytes(PART_BYTES - 1)])
    for seq in range(100):
        parts = corner if seq in (10, 90) else None
        writer.keep("door", Position(1, seq), moment(seq).captured, (640, 360), parts)
    writer.close()
    file = tmp_path / "pipeline.toml"
    file.write_text(CONFIG, encoding="utf-8")
    routes = [
        Route("/api/v1/sources", sources.__call__),
        Route("/snapshot/{source}.jpg", no_picture),
        *visit_routes(tmp_path),
        *like_routes(str(file), AnsweringConfig(file).ask),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}/visits"


@pytest.mark.whole_run
@needs_chromium
def test_marks_become_a_rule_and_a_region_tells_its_changes(url: str, tmp_path: Path) -> None:
    with chromium() as browser:
        seen = Visit(browser, url)
        seen.until("document.querySelectorAll('#found li').length === 30")
        seen.page.fill("#words", "car, left")
        seen.page.keyboard.press("Enter")
        seen.until("document.querySelectorAll('#found li').length === 10")
        seen.page.fill("#words", "cart")
        seen.page.keyboard.press("Enter")
        seen.until("document.querySelector('#fault').innerText.includes('did you mean car?')")
        seen.page.fill("#words", "")
        seen.page.keyboard.press("Enter")
        seen.until("document.querySelectorAll('#found li').length === 30")
        for n in (0, 3, 6, 9):
            seen.page.click(f"#found li[data-id='door/1-{n * 100}/{n + 1}'] .yes")
        seen.until("document.querySelector('#count').innerText.startsWith('4 alike')")
        assert "1 more alike are needed" in seen.page.inner_text("#count")
        assert seen.page.is_disabled("#trained")
        seen.page.click("#found li[data-id='door/1-1200/13'] .yes")
        seen.until("!document.querySelector('#trained').disabled")
        seen.page.click("#found li[data-id='door/1-100/2'] .no")
        seen.until("document.querySelector('#count').innerText === '5 alike, 1 not'")
        seen.page.click("#trained")
        seen.until("document.querySelector('#said').innerText.includes('most like the marked')")
        labels = seen.look("[...document.querySelectorAll('#found b')].map(b => b.innerText)")
        assert labels[:5] == ["car"] * 5
        seen.page.click("#rule")
        seen.until("!document.querySelector('#ruled').hidden")
        assert "5 of the 5 that you marked as alike" in seen.page.inner_text("#trial")
        reported = "[...document.querySelectorAll('#would b')].map(b => b.innerText)"
        assert set(seen.look(reported)) == {"car"}
        below = seen.look("[...document.querySelectorAll('#below li')].map(li => li.dataset.id)")
        assert "door/1-100/2" in below
        rule = tomllib.loads(seen.page.text_content("#toml"))["events"]["rules"]["this"]
        assert Likeness.read(rule["like"]).marks == (5, 1)
        _switch_on_and_off(seen, tmp_path / "pipeline.toml", rule)
        seen.page.select_option("#span", "")
        still = seen.page.locator("#still")
        still.scroll_into_view_if_needed()
        box = still.bounding_box()
        seen.page.mouse.move(box["x"] + 1, box["y"] + 1)
        seen.page.mouse.down()
        seen.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2)
        seen.page.mouse.up()
        seen.until("document.querySelectorAll('#periods li').length === 2")
        assert "100 compared frames in " in seen.page.inner_text("#asked")
        seen.page.click("#found li[data-id='door/1-0/1'] .yes")  # undo: four are left
        seen.until("document.querySelector('#count').innerText.startsWith('4 alike')")
        assert seen.page.is_disabled("#rule")
        seen.close()


def _switch_on_and_off(seen: Visit, file: Path, rule: dict[str, Any]) -> None:
    """Switch the rule that was tried on, replace it after an editor has saved, switch it off."""
    assert seen.page.inner_text("#state").startswith("It is off. If you switch it on")
    seen.page.click("#on")
    seen.until("document.querySelector('#state').innerText.startsWith('It is on')")
    assert "The run reports such visits from now on" in seen.page.inner_text("#state")
    text = file.read_text(encoding="utf-8")
    assert text.startswith(CONFIG)
    assert tomllib.loads(text)["events"]["rules"]["this"] == rule
    assert not seen.page.is_visible("#on")
    seen.page.click("#found li[data-id='door/1-1500/16'] .yes")
    seen.until("document.querySelector('#count').innerText === '6 alike, 1 not'")
    seen.page.click("#rule")
    seen.until("!document.querySelector('#on').hidden")
    assert seen.page.inner_text("#on") == "Replace it by this one"
    file.write_text(text + "# another editor\n", encoding="utf-8")
    seen.page.click("#on")
    seen.until("document.querySelector('#fault').innerText.includes('changed meanwhile')")
    assert file.read_text(encoding="utf-8") == text + "# another editor\n"
    seen.until("!document.querySelector('#off').disabled")  # it has read the file again
    seen.page.click("#off")
    seen.until("document.querySelector('#state').innerText.startsWith('It is off')")
    assert file.read_text(encoding="utf-8") == CONFIG + "\n# another editor\n"
    silent = {"file": str(file), "digest": "", "like": rule["like"], "fault": None}
    silent |= {"is_running": None, "waits": "no reply"}
    seen.page.route("**/visits/rule/on*", lambda route: route.fulfill(json=silent))
    seen.page.click("#on")
    seen.until("document.querySelector('#state').innerText.includes('not known whether the run')")
    assert "next start" not in seen.page.inner_text("#state")
    seen.page.click("#found li[data-id='door/1-1500/16'] .yes")  # undo
    seen.until("document.querySelector('#count').innerText === '5 alike, 1 not'")


@needs_chromium
def test_the_page_tries_again_until_framegate_answers(url: str, sources: Sources) -> None:
    sources.away = 1
    with chromium() as browser:
        seen = Visit(browser, url)
        seen.until("document.querySelector('#trouble').innerText.includes('silent; trying again')")
        seen.until("document.querySelectorAll('#found li').length === 30")
        assert seen.page.is_hidden("#trouble")
        assert seen.page.input_value("#source") == "door"
