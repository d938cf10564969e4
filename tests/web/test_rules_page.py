"""A rule is drawn in a real browser, tried over stored results, and written down for a run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framegate.pipeline.config.read_events import read_events
from framegate.pipeline.config.snooze import Snooze
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.control import rules as control_rules
from framegate.pipeline.web.control.live_config import config_routes
from framegate.pipeline.web.control.rules import rule_routes
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.live_config import AnsweringConfig
from tests.support.runs import DEADLINE_S
from tests.support.said import BEGAN, Sayer
from tests.support.web_server import serving


def sources(_: Request) -> Response:
    return JSONResponse([{"source": "door", "objects": {"person": 1.0}}])


def no_picture(_: Request) -> Response:
    return Response(b"", 204)


def recorded(_: Request) -> Response:
    return JSONResponse([{"source": "door"}])


def of_then(request: Request) -> Response:
    """A picture of the first walk; of the second one nothing is left."""
    if float(request.query_params["at"]) > BEGAN + 12:
        return JSONResponse({"error": "nothing was recorded then"}, 404)
    _, picture = cv2.imencode(".png", np.full((48, 64, 3), 90, np.uint8))
    return Response(picture.tobytes(), media_type="image/png")


@pytest.fixture
def sayer(store: EmbeddedStore) -> Iterator[Sayer]:
    """Two people walk from the left border to the right one, ten seconds each, one after another;
    frames have 64x48 pixels.
    """
    made = Sayer(store)
    made.client.flushall()
    made.client.hset(keys.SOURCES, "door", "a run")
    for seq in range(240):
        track, step = divmod(seq, 120)
        objects = ()
        if step < 100:
            left = 0.5 * step
            objects = (Object(track + 1, "person", 0, 0.9, (left, 10, left + 8, 34), "detected"),)
        made.publish("door", seq, objects=objects)
    yield made
    made.client.close()


@pytest.fixture
def url(store: EmbeddedStore, sayer: Sayer) -> Iterator[str]:
    del sayer
    routes = [
        Route("/api/v1/sources", sources),
        Route("/snapshot/{source}.jpg", no_picture),
        Route("/api/v1/recordings", recorded),
        Route("/api/v1/recordings/door/picture.jpg", of_then),
        *rule_routes(store.url, lambda: ["door"]),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}"


LINE = {"middle": {"points": [[0.5, 0.0], [0.5, 1.0]]}}


def rules(**rule: Any) -> dict[str, Any]:
    return {"lines": LINE, "rules": {"passing": {"when": "crosses", "line": "middle", **rule}}}


def tried(url: str, events: dict[str, Any], **more: Any) -> httpx.Response:
    return httpx.post(
        f"{url}/api/v1/rules/trial", json={"events": events, **more}, timeout=DEADLINE_S
    )


def test_a_trial_tells_what_rules_would_have_told_and_keeps_nothing(url: str, sayer: Sayer) -> None:
    told = tried(url, rules()).json()
    assert [(e["rule"], e["direction"], e["tracks"]) for e in told["episodes"]] == [
        ("passing", "out", [1]), ("passing", "out", [2]),
    ]  # fmt: skip
    assert (told["more"], told["tried"][0]["frames"]) == (False, 240)
    assert not told["tried"][0]["whole"], "the store has no hour of it"
    last = tried(url, rules(), source="door", span=12.0).json()
    assert len(last["episodes"]) == 1
    assert (last["tried"][0]["frames"], last["tried"][0]["whole"]) == (121, True)
    assert tried(url, rules(labels=["car"])).json()["episodes"] == []
    assert not sayer.client.exists(keys.out("door", keys.EVENTS))


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"events": rules(labels="person")}, 400, "events.rules.passing.labels"),
        ({"events": {"rules": {"x": {"when": "crosses"}}}}, 400, "events.rules.x.line: missing"),
        ({"events": {}}, 400, "there is no rule to try"),
        ({"events": rules(), "source": "yard"}, 404, "no source yard; there are: door"),
        ({"rules": {}}, 400, "openapi.json lists the allowed values"),
    ],
)
def test_what_cannot_be_tried_says_why(
    url: str, asked: dict[str, Any], status: int, says: str
) -> None:
    answer = httpx.post(f"{url}/api/v1/rules/trial", json=asked, timeout=DEADLINE_S)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_a_trial_that_takes_too_long_ends_also_if_no_rule_fires(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_rules, "TRIAL_S", -1.0)
    answer = tried(url, rules(labels=["car"]))
    assert (answer.status_code, "try a shorter span" in answer.json()["error"]) == (503, True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def click(visit: Visit, *places: tuple[float, float]) -> None:
    """Click on the still at shares of its width and height."""
    for x, y in places:
        box = visit.page.locator("#still").bounding_box()
        visit.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


FILE = """\
# my cameras
[events.areas.porch]  # the steps
points = [[0.1, 0.5], [0.6, 0.5], [0.6, 0.9]]

[events.rules.old]  # rings
when = "inside"
area = "porch"
until_s = 7.0

[events.profiles.away]
rules = ["old"]
"""


@pytest.fixture
def editable(
    store: EmbeddedStore, sayer: Sayer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, Path]]:
    """The page of a run whose file can be changed, and this file; a parameter is its text."""
    del sayer
    file = tmp_path / "pipeline.toml"
    file.write_text(getattr(request, "param", FILE), encoding="utf-8")
    routes = [
        Route("/api/v1/sources", sources),
        Route("/snapshot/{source}.jpg", no_picture),
        *config_routes(AnsweringConfig(file).ask),
        *rule_routes(store.url, lambda: ["door"]),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}", file


def events_of(file: Path) -> dict[str, Any]:
    """The table [events] of the file; its comments are there still."""
    text = file.read_text(encoding="utf-8")
    assert "# my cameras" in text
    events: dict[str, Any] = tomllib.loads(text)["events"]
    return events


def listed(visit: Visit, number: int) -> None:
    visit.until(f"document.querySelectorAll('#rules li').length === {number}")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_rules_are_saved_moved_renamed_switched_and_undone_on_the_page(
    browser: Any, editable: tuple[str, Path], width: int
) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", width)
    listed(visit, 1)
    assert visit.look("document.querySelectorAll('.other').length") == 1, "the porch is shown"
    click(visit, (0.4, 0.2), (0.8, 0.2), (0.8, 0.98))
    visit.page.click("#save")
    listed(visit, 2)
    made = events_of(file)
    assert (
        made["rules"]["visitor"] | {"area": "visitor_area", "when": "inside"}
        == made["rules"]["visitor"]
    )
    assert visit.look("document.querySelectorAll('.other').length") == 2

    visit.page.click("[aria-label='Edit old']")
    visit.page.focus(".corner")
    visit.page.keyboard.press("Shift+ArrowDown")
    visit.page.fill("#name", "steps")
    visit.page.select_option("#severity", "alert")
    visit.page.click("#save")  # a profile names the rule: the page reports it and keeps the form
    visit.until("document.getElementById('faults').checkVisibility()")
    assert "old" in visit.page.inner_text("#faults")
    visit.page.fill("#name", "old")
    visit.page.click("#save")
    visit.until("document.getElementById('new').hidden")
    moved = events_of(file)
    assert moved["areas"]["porch"] == {"points": [[0.1, 0.55], [0.6, 0.5], [0.6, 0.9]]}
    assert moved["rules"]["old"] == {
        "when": "inside", "area": "porch", "until_s": 7.0, "severity": "alert",
    }  # fmt: skip

    visit.page.click(".tag:text('porch')")
    visit.page.fill("#name", "stairs")
    visit.page.click("#save")
    visit.until("[...document.querySelectorAll('.tag')].some(it => it.innerText === 'stairs')")
    renamed = events_of(file)
    assert (set(renamed["areas"]), renamed["rules"]["old"]["area"]) == (
        {"stairs", "visitor_area"}, "stairs",
    )  # fmt: skip

    visit.page.click("[aria-label='Turn off visitor']")
    visit.page.wait_for_selector("[aria-label='Turn on visitor']")
    assert events_of(file)["rules"]["visitor"]["enabled"] is False
    visit.page.click("#back")
    visit.page.wait_for_selector("[aria-label='Turn off visitor']")
    assert "enabled" not in events_of(file)["rules"]["visitor"]
    visit.page.select_option("#profile", "away")
    visit.until("document.getElementById('profile').value === 'away'")
    visit.page.click("[aria-label='Remove visitor']")
    listed(visit, 1)
    assert events_of(file)["profile"] == "away"
    assert set(events_of(file)["rules"]) == {"old"}
    assert visit.look("document.documentElement.scrollWidth") <= width
    visit.close()


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_a_rule_a_source_and_all_rules_are_snoozed_on_the_page(
    browser: Any, editable: tuple[str, Path], width: int
) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", width)
    listed(visit, 1)
    visit.page.select_option("#long", "3600")
    visit.page.click("[aria-label='Snooze old']")
    visit.page.wait_for_selector("[aria-label='End snooze old']")
    snoozed = Snooze.read(events_of(file)["rules"]["old"]["snoozed"])
    assert 3590 < snoozed.until - snoozed.since <= 3600
    assert "snoozed until" in visit.page.inner_text("#rules")
    visit.page.click("#quiet_source")
    visit.until("document.getElementById('quiet_source').innerText.startsWith('End snooze')")
    visit.page.click("#quiet_all")
    visit.until("document.getElementById('quiet_all').innerText.startsWith('End snooze')")
    assert list(events_of(file)["snoozed_sources"]) == ["door"]
    visit.page.click("[aria-label='End snooze old']")
    visit.page.wait_for_selector("[aria-label='Snooze old']")
    assert visit.look("document.documentElement.scrollWidth") <= width
    visit.close()


@needs_chromium
def test_the_slower_of_two_editors_keeps_the_drawing_and_sees_the_newer_file(
    browser: Any, editable: tuple[str, Path]
) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", 1280)
    listed(visit, 1)
    visit.page.select_option("#when", "anywhere")
    text = file.read_text(encoding="utf-8")
    file.write_text(text + '[events.rules.more]\nwhen = "inside"\n', encoding="utf-8")
    visit.page.click("#save")
    visit.until("document.getElementById('faults').checkVisibility()")
    listed(visit, 2)
    assert visit.page.input_value("#name") == "visitor"
    visit.page.click("#save")
    listed(visit, 3)
    assert events_of(file)["rules"]["visitor"]["source"] == "door"
    visit.close()


EVERYWHERE = """\
# my cameras
[events.rules.cars]
when = "inside"
labels = ["car"]
"""


@needs_chromium
@pytest.mark.parametrize("editable", [EVERYWHERE], indirect=True)
def test_a_rule_of_all_sources_stays_one(browser: Any, editable: tuple[str, Path]) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", 1280)
    listed(visit, 1)
    visit.page.click("[aria-label='Edit cars']")
    visit.page.fill("#labels", "car bus")
    visit.page.click("#save")
    visit.until("document.getElementById('new').hidden")
    assert events_of(file)["rules"]["cars"] == {
        "when": "inside", "labels": ["car", "bus"], "severity": "detection",
    }  # fmt: skip
    visit.close()


@needs_chromium
def test_a_new_rule_replaces_no_area_and_no_rule(browser: Any, editable: tuple[str, Path]) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", 1280)
    listed(visit, 1)
    click(visit, (0.4, 0.2), (0.8, 0.2), (0.8, 0.98))
    visit.page.click("#save")
    listed(visit, 2)
    before = events_of(file)["areas"]["visitor_area"]
    visit.page.click("[aria-label='Remove visitor']")
    listed(visit, 1)
    click(visit, (0.1, 0.1), (0.3, 0.1), (0.3, 0.3))
    visit.page.fill("#name", "old")
    assert visit.page.is_disabled("#save")
    assert "There is a rule old of all sources" in visit.page.inner_text("#toml")
    visit.page.fill("#name", "visitor")
    visit.page.click("#save")
    listed(visit, 2)
    after = events_of(file)
    assert after["areas"]["visitor_area"] == before
    assert after["rules"]["visitor"]["area"] == "visitor_area2"
    visit.page.click(".tag:text-is('visitor_area2')")
    visit.page.fill("#name", "porch")
    assert visit.page.is_disabled("#save")
    assert "There is an area porch" in visit.page.inner_text("#toml")
    visit.close()


@needs_chromium
def test_a_moved_area_becomes_no_mask(browser: Any, editable: tuple[str, Path]) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", 1280)
    listed(visit, 1)
    visit.page.select_option("#when", "hide")
    visit.page.click(".tag:text-is('porch')")
    visit.page.focus(".corner")
    visit.page.keyboard.press("Shift+ArrowDown")
    visit.page.click("#save")
    visit.until("document.getElementById('new').hidden")
    assert events_of(file)["areas"]["porch"]["points"][0] == [0.1, 0.55]
    assert "masks" not in file.read_text(encoding="utf-8")
    visit.close()


@needs_chromium
@pytest.mark.parametrize("editable", [EVERYWHERE], indirect=True)
def test_the_page_saves_after_the_edited_rule_is_removed(
    browser: Any, editable: tuple[str, Path]
) -> None:
    url, file = editable
    visit = Visit(browser, f"{url}/rules", 1280)
    listed(visit, 1)
    visit.page.click("[aria-label='Edit cars']")
    visit.page.click("[aria-label='Remove cars']")
    visit.until("document.querySelectorAll('#rules li').length === 0")
    visit.page.click("#save")
    listed(visit, 1)
    assert events_of(file)["rules"]["cars"]["source"] == "door"
    visit.close()


FAULTY = """
[events.areas]
bare = [[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]
empty = {}

[events.rules.faulty]
when = "inside"
area = "empty"
labels = "person"

[privacy.masks]
door = [[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]
"""


@needs_chromium
def test_a_file_with_faults_is_shown(browser: Any, editable: tuple[str, Path]) -> None:
    url, file = editable
    file.write_text(
        FILE.replace("[events.areas.porch]", FAULTY + "[events.areas.porch]"), encoding="utf-8"
    )
    visit = Visit(browser, f"{url}/rules", 1280)
    listed(visit, 5)
    assert "Waits for the next start" in visit.page.inner_text("#waits")
    visit.until("document.querySelectorAll('.tag').length === 1")  # the porch
    visit.page.click("[aria-label='Turn off old']")
    visit.until("document.getElementById('faults').checkVisibility()")
    assert "events.areas.bare" in visit.page.inner_text("#faults")
    assert visit.page.is_hidden("#trouble")
    visit.close()


def written(visit: Visit) -> dict[str, Any]:
    """What the page writes down, as a run reads it; nothing is wrong with it."""
    told = tomllib.loads(visit.page.inner_text("#toml"))
    faults: list[str] = []
    assert read_events(told["events"], faults) is not None, faults
    events: dict[str, Any] = told["events"]
    return events


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_an_area_and_a_line_are_drawn_tried_and_written_down(
    browser: Any, url: str, width: int
) -> None:
    visit = Visit(browser, f"{url}/rules", width)
    visit.until("document.querySelector('#source').value === 'door'")
    assert visit.page.is_disabled("#try")
    click(visit, (0.4, 0.2), (0.8, 0.2), (0.8, 0.98), (0.4, 0.98))
    area = written(visit)
    assert area["areas"]["visitor_area"]["source"] == "door"
    drawn = area["areas"]["visitor_area"]["points"]
    wanted = [[0.4, 0.2], [0.8, 0.2], [0.8, 0.98], [0.4, 0.98]]
    assert drawn == [pytest.approx(point, abs=0.006) for point in wanted]
    visit.page.click("#try")
    visit.until("document.getElementById('told').checkVisibility()")
    assert visit.page.inner_text("#verdict") == "It would have fired twice"
    assert visit.look("document.querySelectorAll('.hit').length") == 2
    visit.until("document.querySelectorAll('.seen').length === 2")
    visit.until("document.querySelector('.seen img')?.naturalWidth === 64")
    visit.page.locator("#hits li").last.scroll_into_view_if_needed()
    visit.until("document.querySelectorAll('.seen:empty').length === 1")
    assert visit.look("document.querySelectorAll('.seen svg rect').length") == 1
    visit.page.fill("#labels", "car")
    assert not visit.page.is_visible("#told"), "it is another rule now"
    visit.page.click("#try")
    visit.until("document.getElementById('verdict').innerText === 'It would never have fired'")
    visit.page.fill("#labels", "person")
    visit.page.click("#line")
    click(visit, (0.5, 0.9), (0.5, 0.1))
    visit.page.select_option("#when", "in")
    visit.page.click("#try")
    visit.until("document.getElementById('verdict').innerText === 'It would have fired twice'")
    visit.page.click("#turn")
    visit.page.click("#try")
    visit.until("document.getElementById('verdict').innerText === 'It would never have fired'")
    visit.page.focus(".corner")
    before = written(visit)["lines"]["visitor_line"]["points"]
    visit.page.keyboard.press("Shift+ArrowRight")
    after = written(visit)["lines"]["visitor_line"]["points"]
    assert after[0][0] == pytest.approx(before[0][0] + 0.05, abs=1e-6)
    visit.page.keyboard.press("Delete")
    assert visit.page.is_disabled("#try")
    visit.page.fill("#name", "Gate!")
    click(visit, (0.2, 0.2))
    assert visit.page.is_disabled("#try")
    assert visit.look("document.documentElement.scrollWidth") <= width
    ours = (url, "blob:", "data:")
    faults = [fault for fault in visit.faults if "404" not in fault]  # pictures that went
    assert (faults, [a for a in visit.asked if not a.startswith(ours)]) == ([], [])
    visit.close()
