"""The recordings page in a real browser: a day at a glance, playing over gaps, export."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.recording.changed_parts import PART_BYTES
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.pipeline.web.recordings.thumbnails import Thumbnails, thumbnail_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.pipeline.web.review.unseen import unseen_routes
from framegate.pipeline.web.review.visits import visit_routes
from framegate.stages.draw.pictures import recorded_jpeg, thumbnail_jpeg
from tests.support import said
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.recorded import feed, set_begins, write_both
from tests.support.said import Sayer, change
from tests.support.web_server import serving

DAY_S = 86400.0
PAUSE_S = 60.0  # from the end of the first recording to the begin of the second one


def noon() -> float:
    """UNIX seconds of noon of yesterday, in the zone of this host and of its browser."""
    yesterday = time.localtime(time.time() - DAY_S)
    return time.mktime((*yesterday[:3], 12, 0, 0, 0, 0, -1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of ten seconds with a full disk between; the sound is none that a browser
    plays. The yard has pictures only.
    """
    folder = tmp_path_factory.mktemp("recorded")
    film = write_both(folder / "gate.mov", 10.0, sound="pcm_mulaw")
    for epoch in (1, 2):
        feed(folder / "data", film, "gate", epoch=epoch)
    feed(folder / "data", write_both(folder / "yard.mp4", 2.0, sound=None), "yard")
    begin = noon()
    set_begins(folder / "data", "gate", {1: begin, 2: begin + 10.0 + PAUSE_S})
    set_begins(folder / "data", "yard", {1: begin})
    index = Index(folder / "data")
    gap = RecordingGap("gate", begin + 10.0, begin + 10.0 + PAUSE_S, "disk_full")
    index.recorders.note_gap(gap)
    index.close()
    return folder / "data"


def no_sources(_: Request) -> Response:
    return JSONResponse([])


@pytest.fixture
def url(data: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(said, "BEGAN", noon())
    sayer = Sayer(store)
    sayer.client.flushall()
    sayer.say("gate", 750, change("start", 750, 750, "gate"))
    sayer.say("gate", 770, change("end", 750, 770, "gate"))
    (data / FILE).unlink(missing_ok=True)
    writer = ChangedPartsWriter(data, 1 << 30)
    for seq in range(100):
        writer.keep("gate", Position(1, seq), noon() + seq / 10, (640, 360), b"\xff" * PART_BYTES)
    writer.close()
    projection = Projection(data / FILE)
    projection.take(sayer.said())
    refused = "permission: rtsp://gate/: the login was refused"
    projection.watch([Watched("gate", 1, noon(), noon() + 7200, refused)])
    projection.close()
    sayer.client.close()
    thumbnails = Thumbnails(data, thumbnail_jpeg)
    routes: list[Route] = [
        Route("/api/v1/sources", no_sources),
        *episode_routes(data, "redis://unused"),
        *recording_routes(data, load_builtin("write_clip"), RecordedPictures(data, recorded_jpeg)),
        *thumbnail_routes(thumbnails),
        *visit_routes(data),
        *unseen_routes(data, lambda: {"gate": {"burst": 3}}),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}/recordings"
    thumbnails.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def of_noon() -> str:
    return "#day=" + time.strftime("%Y-%m-%d", time.localtime(noon()))


@pytest.mark.whole_run
@needs_chromium
def test_a_day_is_looked_through_played_and_exported(
    browser: Any, url: str, tmp_path: Path
) -> None:
    visit = Visit(browser, f"{url}{of_noon()}&source=gate&at={noon() + 6.0}")
    visit.until("document.querySelectorAll('#lanes .lane').length === 2")
    kinds = "[...document.querySelectorAll('#lanes .lane')[0].querySelectorAll('rect')]"
    shown = visit.look(f"{kinds}.map(r => r.getAttribute('class'))")
    assert shown == ["kept", "kept", "away", "away", "gone", "bar alert"]
    activity = visit.page.locator("#lanes .activity").first.get_attribute("d")
    assert activity == "M500 34V1.0H502.0833333333333V34Z", "of noon, one of 480 steps"
    visit.until("document.querySelector('video').readyState >= 2")
    assert visit.look("document.querySelector('video').currentTime") == pytest.approx(43206)
    visit.until("document.querySelectorAll('#film img').length === 1")
    visit.until("document.querySelector('#film img').naturalWidth === 96")
    visit.page.select_option("#speed", "4")
    visit.page.click("#toggle")
    # It jumps over the time of the full disk, and ends after the second recording.
    visit.until("document.querySelector('video').currentTime > 43271")
    visit.until("document.getElementById('message').textContent.startsWith('Nothing later')")
    visit.page.locator("#episodes button").click()
    visit.until("document.getElementById('now').textContent.startsWith('12:01:1')")
    visit.page.fill("#from", "12:00:02")
    visit.page.fill("#to", "12:00:05")
    with visit.page.expect_download() as download:
        visit.page.click("#save")
    clip = tmp_path / "clip.mp4"
    download.value.save_as(clip)
    with av.open(str(clip)) as held:
        assert float(held.duration or 0) / 1e6 == pytest.approx(3.0, abs=0.3)
    assert download.value.suggested_filename.endswith("T120002.mp4")
    visit.page.fill("#to", "11:00:00")
    visit.page.click("#save")
    visit.until(
        "document.getElementById('saved').textContent === 'The end must be after the start.'"
    )
    ours = (url.removesuffix("recordings"), "blob:", "data:")
    strange = [asked for asked in visit.asked if not asked.startswith(ours)]
    assert (visit.faults, strange) == ([], [])
    visit.close()


@needs_chromium
def test_a_marked_time_is_exact_in_an_hour_that_a_change_of_the_clocks_repeats(
    browser: Any, url: str
) -> None:
    context = browser.new_context(timezone_id="Europe/Berlin")
    page = context.new_page()
    page.goto(url)
    # 02:30 of summer time and, an hour later, 02:30 of winter time
    summer = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    page.evaluate(f"mark('from', {summer}), mark('to', {summer + 3600 + 0.5})")
    assert [page.input_value(f"#{each}") for each in ("from", "to")] == ["02:30:00"] * 2
    assert page.evaluate("[time_in('from'), time_in('to')]") == [summer, summer + 3600]
    context.close()


@needs_chromium
def test_keys_move_along_the_day_and_say_what_there_is(browser: Any, url: str) -> None:
    visit = Visit(browser, f"{url}{of_noon()}")
    visit.until("document.querySelectorAll('#lanes .lane').length === 2")
    visit.page.locator("#lanes .lane").first.focus()
    said_at = "document.activeElement.getAttribute('aria-valuetext')"
    visit.page.keyboard.press("Home")
    assert visit.look(said_at) == "00:00:00, not watched: no frames of this camera"
    visit.page.keyboard.press("End")
    refused = "not watched: the camera refused the login (rtsp://gate/: the login was refused)"
    assert visit.look(said_at) == f"23:59:59, {refused}"
    visit.page.keyboard.press("Home")
    for _ in range(12):
        visit.page.keyboard.press("PageUp")
    assert visit.look(said_at) == "12:00:00, recorded"
    visit.until("document.querySelector('#peek img').naturalWidth === 96")
    assert "12:00:00 · recorded" in visit.page.inner_text("#peek")
    visit.page.keyboard.press("Enter")
    visit.until("document.querySelector('video').readyState >= 2")
    assert visit.page.inner_text("#play_head") == "gate"
    assert visit.faults == []
    visit.close()


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_any_screen(browser: Any, url: str, width: int) -> None:
    visit = Visit(browser, f"{url}{of_noon()}&source=gate&at={noon() + 75}", width)
    visit.until("document.querySelectorAll('#film img').length > 0")
    visit.until("document.querySelectorAll('#episodes button').length === 1")
    away, gap = visit.page.locator("#unseen button").all_inner_texts()
    assert away.startswith("14:00:00 ")
    assert away.endswith(
        "not watched: the camera refused the login (rtsp://gate/: the login was refused)"
    )
    assert gap == "12:00:10 60.0 s · not recorded: the disk was full"
    assert visit.look("document.documentElement.scrollWidth") <= width
    assert visit.faults == []
    visit.close()


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_what_was_not_seen_is_listed_with_links_to_its_time(
    browser: Any, url: str, width: int
) -> None:
    visit = Visit(browser, url.replace("recordings", "unseen#span=604800"), width)
    visit.until("document.querySelectorAll('#sums tbody tr').length === 2")
    rows = [row.inner_text() for row in visit.page.locator("#sums tbody tr").all()]
    away, gap = (" ".join(row.split()) for row in rows)
    assert away.startswith("gate not watched: the camera refused the login")
    assert gap == "gate not recorded: the disk was full 60.0 s 1"
    assert visit.look("document.documentElement.scrollWidth") <= width
    visit.page.locator("#times a").last.click()
    visit.until("document.querySelectorAll('#lanes .lane').length === 2")
    assert visit.faults == []
    visit.close()
