"""The live page in a real browser: pictures arrive, numbers are right, nothing else is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.drops import BURST, DROPPED, REPLACED
from framegate.pipeline.contracts.results import Reason
from framegate.pipeline.web.pages.pages import html_of
from framegate.stages.draw.pictures import Pictures
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.servers import server
from tests.support.studio import Studio
from tests.support.web_server import serving

PAGE = html_of("pictures/page.html")
EVIL = '<img src="http://example.com/x" onerror="document.title=1"><b>unreachable</b>'


def door(**changes: Any) -> dict[str, Any]:
    """What /api/v1/sources says of a camera."""
    usual = {
        "source": "door",
        "url": "rtsp://camera.example/main",
        "live": True,
        "state": "running",
        "since": 1_000_000_000.0,
        "fault": None,
        "fps": 24.96,
        "p50_s": 0.0123,
        "p95_s": 0.2,
        "p99_s": 12.2,
        "objects": {"car": 1.26, "person": 0.5, "dog": 0.01},
        "decoded": 1500,
        "published": 1452,
        "failed": 1,
        "dropped": {"replaced": 40, "frame_lost": 7},
        "reconnects": 3,
        "looks": {"part": {"changed": 60, "age": 2}, "no": {"unchanged": 938}},
        "recording": None,
        "sound": None,
        "sinks": [],
    }
    return {**usual, **changes}


@dataclass
class Site:
    """A page whose sources a test sets; only `door` has pictures."""

    studio: Studio
    url: str = ""
    sources: list[dict[str, Any]] = field(default_factory=list)
    away: bool = False

    def routes(self) -> list[Route]:
        pictures = Pictures(self.studio.frame_store, self.studio.url, self._known)
        return [Route("/api/v1/sources", self._told), *pictures.routes()]

    def _known(self) -> dict[str, str]:
        return {said["source"]: "" for said in self.sources}

    async def _told(self, _: Request) -> Response:
        return JSONResponse(self.sources, 503 if self.away else 200)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with server(tmp_path / "store") as store:
        made = Site(Studio(store))
        with serving(made.routes()) as port:
            made.url = f"http://127.0.0.1:{port}/"
            yield made
        made.studio.close()


def text_of(visit: Visit, selector: str) -> str:
    return visit.look(f"document.querySelector({selector!r}).innerText").replace("\n", " ")


@needs_chromium
def test_pictures_and_numbers_arrive_and_go_on(browser: Any, site: Site) -> None:
    site.sources = [door()]
    site.studio.show(0)
    visit = Visit(browser, site.url)
    visit.until("document.images[0]?.naturalWidth === 320")
    before = visit.look("document.images[0].src")
    site.studio.show(1)
    visit.until(f"document.images[0].src !== {before!r} && document.images[0].complete")
    assert visit.look("document.images[0].naturalHeight") == 180
    said = text_of(visit, "article")
    for words in (
        "door connected for",
        "rtsp://camera.example/main",
        "frames/s 25.0 p50 12 ms p95 200 ms p99 12 s",
        "up to 12 s",
        "looked at 6 % of frames changed 6 %, age < 1 %; not: unchanged 94 %",
        "car 1.3 person 0.5 decoded",
        "decoded 1,500 published 1,452 failed 1 dropped 47 replaced 40 frame lost 7 reconnects 3",
    ):
        assert words in re.sub(r"\s+", " ", said), said
    assert re.sub(r"\s+", " ", text_of(visit, "#sum")) == "1 source · 25.0 frames/s"
    site.sources = [door(decoded=1501, published=1453, state="lost", fault=EVIL)]
    visit.until("document.querySelector('[data-of=published]').textContent === '1,453'")
    assert text_of(visit, ".fault") == EVIL  # text, not HTML
    assert text_of(visit, ".state").startswith("lost")
    assert visit.look("document.images.length") == 1
    assert visit.look("document.title") == "Framegate"
    _nothing_else(visit, site)


def _nothing_else(visit: Visit, site: Site) -> None:
    """No error, and nothing was asked of anybody else."""
    strange = [url for url in visit.asked if not url.startswith((site.url, "blob:", "data:"))]
    assert (visit.faults, strange) == ([], [])
    visit.close()


@needs_chromium
def test_sources_come_and_go_in_order(browser: Any, site: Site) -> None:
    names = "[...document.querySelectorAll('h2')].map(h => h.textContent).join()"
    visit = Visit(browser, site.url)
    visit.until("document.getElementById('empty').checkVisibility()")
    site.sources = [door(source=name) for name in ("cam_10", "cam_9")]
    visit.until(f"{names} === 'cam_9,cam_10'")
    site.sources = [door(source=name) for name in ("gate", "cam_10", "cam_8")]
    visit.until(f"{names} === 'cam_8,cam_10,gate'")
    assert not visit.look("document.getElementById('empty').checkVisibility()")
    _nothing_else(visit, site)


def shown(visit: Visit) -> str:
    return visit.look(
        "[...document.querySelectorAll('article')].filter(a => a.checkVisibility())"
        ".map(a => a.dataset.source).join()"
    )


@needs_chromium
def test_sources_can_be_filtered_and_ordered_and_the_address_remembers_it(
    browser: Any, site: Site
) -> None:
    site.sources = [door(source="gate")]
    visit = Visit(browser, site.url)
    visit.until("document.querySelectorAll('article').length === 1")
    assert not visit.look("document.getElementById('tools').checkVisibility()")
    site.sources = [
        door(source="gate", objects={"bus": 2.0}, p99_s=0.1),
        door(source="hall", state="lost", objects={}, p99_s=None),
        door(source="yard", p99_s=0.4),
    ]
    visit.until("document.querySelectorAll('article').length === 3")
    visit.until("document.getElementById('tools').checkVisibility()")
    order = "const e = document.getElementById('order'); e.value = {!r}; e.onchange()"
    for value, wanted in (
        ("trouble", "hall,gate,yard"),
        ("slow", "yard,gate,hall"),
        ("busy", "gate,yard,hall"),
        ("name", "gate,hall,yard"),
    ):
        visit.look(f"(() => {{{order.format(value)}}})()")
        assert shown(visit) == wanted
    for words, wanted in (("CAR", "yard"), ("lost", "hall"), ("a", "gate,hall,yard"), ("x", "")):
        visit.page.fill("#filter", words)
        assert shown(visit) == wanted
        assert visit.look("document.getElementById('none').checkVisibility()") == (not wanted)
    visit.page.fill("#filter", "bus")
    again = Visit(browser, site.url + visit.look("location.hash"))
    again.until("document.querySelectorAll('article').length === 3")
    assert shown(again) == "gate"
    again.close()
    _nothing_else(visit, site)


@needs_chromium
def test_what_goes_on_beside_the_frames_is_told(browser: Any, site: Site) -> None:
    recorded = {
        "does": "records", "since": None, "why": None, "seconds": 51_120.0,
        "nbytes": 31_000_000_000, "pinned_bytes": 0, "oldest": 1e9, "total_bytes": 123_456_000_000,
        "most_bytes": 200_000_000_000, "lost": {"slow_disk": 12.0},
    }  # fmt: skip
    cannot = {**recorded, "does": "cannot", "since": 1.0, "why": EVIL, "lost": {}}
    heard = {
        "track": True, "windows": {"heard": 38, "unchanged": 40, "quiet": 20, "lost": 2},
        "looked": 0.388, "level_db": -20.0, "labels": [{"label": "Speech", "score": 0.812}],
        "ago_s": 3.4,
    }  # fmt: skip
    deaf = {"track": False, "windows": {}, "looked": None, "labels": [], "ago_s": None}
    phone = {
        "sink": "phone", "source": "door", "delivered": 12, "muted": 3, "lost": 0, "waiting": 0,
        "since": None, "why": None,
    }  # fmt: skip
    home = {**phone, "sink": "home", "waiting": 4, "lost": 5, "since": 1.0, "why": EVIL}
    site.sources = [
        door(recording=recorded, sound=heard, sinks=[phone, home]),
        door(source="gate", recording=cannot, sound=deaf),
        door(source="yard"),
    ]
    visit = Visit(browser, site.url)
    visit.until("document.querySelectorAll('article').length === 3")
    said = re.sub(r"\s+", " ", text_of(visit, "[data-source=door] .beside"))
    for words in (
        "recording 14 h kept, 31 GB · 123 GB of 200 GB taken · 12 s of a day not recorded: slow",
        "sound Speech 0.81, 3 s ago · listened to 39 % of it · 2 lost",
        "phone 12 delivered · 3 muted",
        f": {EVIL} · 12 delivered · 3 muted · 4 waiting · 5 lost",
    ):
        assert words in said, said
    said = re.sub(r"\s+", " ", text_of(visit, "[data-source=gate] .beside"))
    assert f": {EVIL} · 14 h kept" in said  # text, not HTML
    assert "sound none received" in said
    assert not visit.look("document.querySelector('[data-source=yard] .beside').checkVisibility()")
    _nothing_else(visit, site)


@needs_chromium
def test_a_camera_that_never_connected_looks_so(browser: Any, site: Site) -> None:
    never = {"decoded": 0, "published": 0, "objects": {}, "looks": {}, "p50_s": None}
    site.sources = [
        door(source="gate", state="connecting", fault="connection refused", **never),
        door(source="hall", state="lost", objects={}),
    ]
    visit = Visit(browser, site.url)
    visit.until("document.querySelectorAll('article').length === 2")
    said = re.sub(r"\s+", " ", text_of(visit, "[data-source=gate]"))
    assert "never connected" in said
    assert "connection refused" in said
    assert "no objects" not in said
    assert "never connected" not in text_of(visit, "[data-source=hall]")
    site.sources[0] = door(source="gate")
    visit.until("!document.querySelector('[data-source=gate].never')")
    _nothing_else(visit, site)


def test_every_reason_has_an_explanation() -> None:
    """As a tooltip: whatever a result may say of why, and why a frame was dropped."""
    block = re.search(r"const WORDS = \{(.*?)\n\};", PAGE, re.DOTALL)
    assert block is not None
    explained = set(re.findall(r"(\w+): \"", block[1]))
    reasons = {word for part in get_args(Reason) for word in (get_args(part) or (part,))}
    assert explained == reasons | {name.removeprefix(DROPPED) for name in (REPLACED, BURST)}


@needs_chromium
def test_only_what_can_be_seen_is_asked_for(browser: Any, site: Site) -> None:
    site.sources = [door(source=f"cam_{n}") for n in range(30)]
    visit = Visit(browser, site.url, 390, 844)
    visit.until("document.querySelectorAll('article').length === 30")

    def asked() -> set[str]:
        lives = [url for url in visit.asked if "/live?" in url]
        return set(parse_qs(urlsplit(lives[-1]).query)["sources"][0].split(",")) if lives else set()

    for _ in range(600):
        if asked():
            break
        visit.page.wait_for_timeout(50)
    assert asked() <= {"cam_0", "cam_1", "cam_2"}
    visit.look("document.querySelectorAll('article')[20].scrollIntoView()")
    for _ in range(600):
        if "cam_20" in asked():
            break
        visit.page.wait_for_timeout(50)
    assert "cam_20" in asked()
    assert len(asked()) <= 5
    _nothing_else(visit, site)


@needs_chromium
def test_a_framegate_that_is_away_is_said_and_waited_for(browser: Any, site: Site) -> None:
    site.sources, site.away = [door()], True
    visit = Visit(browser, site.url)
    visit.until("!document.getElementById('trouble').hidden")
    assert "No answer from Framegate since" in text_of(visit, "#trouble")
    site.away = False
    visit.until("document.getElementById('trouble').hidden && document.querySelector('article')")
    visit.close()


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
def test_it_fits_any_screen(browser: Any, site: Site, width: int) -> None:
    long = "a" * 32
    wide = door(
        source=long, url="rtsp://" + "x" * 300, fault="y" * 500, decoded=987_654_321, state="lost"
    )
    site.sources = [wide, *(door(source=f"cam_{n}") for n in range(5))]
    visit = Visit(browser, site.url, width)
    visit.until("document.querySelectorAll('article').length === 6")
    assert visit.look("document.documentElement.scrollWidth") <= width
    assert visit.look(
        "[...document.querySelectorAll('article *')].every(e => !e.clientWidth || "
        "e.scrollWidth <= e.clientWidth + 1 || getComputedStyle(e).overflowX !== 'visible')"
    )
    assert visit.look("[...document.images].every(i => i.alt)")
    _nothing_else(visit, site)
