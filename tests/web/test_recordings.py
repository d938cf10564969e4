"""Recordings over HTTP: playlists that players follow, clips that browsers play."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from starlette.datastructures import QueryParams
from starlette.responses import HTMLResponse
from starlette.routing import Route

from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.openapi import document
from framegate.pipeline.web.recordings.asked import is_fixed
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.stages.draw.pictures import recorded_jpeg
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.footage import scene, write_sizes
from tests.support.recorded import payload, record, segments, times, write_both
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.web_server import serving

BASE = "/api/v1/recordings"
PAGE = (
    f"""<!doctype html><title>clip</title><video muted src="{BASE}/gate/clip.mp4?FROM"></video>"""
)
# What hls.js does with a playlist, in a few lines: an init part, then each segment.
FEED = """
window.fed = (async () => {
  const base = new URL("/api/v1/recordings/gate/", location);
  const list = await (await fetch(new URL("playlist.m3u8", base))).text();
  const names = [/URI="(.*)"/.exec(list)[1], ...list.split("\\n").filter(l => l.endsWith(".m4s"))];
  const source = new MediaSource(), video = document.querySelector("video");
  video.src = URL.createObjectURL(source);
  await new Promise(done => source.addEventListener("sourceopen", done, {once: true}));
  const buffer = source.addSourceBuffer('video/mp4; codecs="avc1.64000a, mp4a.40.2"');
  for (const name of names) {
    const data = await (await fetch(new URL(name, base))).arrayBuffer();
    await new Promise((done, wrong) => {
      buffer.addEventListener("updateend", done, {once: true});
      buffer.addEventListener("error", () => wrong("error"), {once: true});
      buffer.appendBuffer(data);
    });
  }
  return [buffer.buffered.start(0), buffer.buffered.end(0), buffer.buffered.length];
})(); null
"""
# Returns the time of the picture that is shown after each seek, seconds of the media. A picture
# from before a seek may be presented after it began, so pictures far from its time are skipped.
SEEKS = """
window.seeks = async times => {
  const video = document.querySelector("video"), shown = [];
  for (const at of times) {
    const seen = new Promise(done => {
      let last = null;
      const patience = setTimeout(() => done(last), 10000);
      const look = (_, frame) => {
        last = frame.mediaTime;
        if (Math.abs(last - at) > 0.5) return video.requestVideoFrameCallback(look);
        clearTimeout(patience);
        done(last);
      };
      video.requestVideoFrameCallback(look);
    });
    video.currentTime = at;
    shown.push(await seen);
  }
  return shown;
}; null
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    record(folder / "data", write_both(folder / "gate.mp4", 10.0))
    sizes = write_sizes(folder / "sizes.h264", [(96, 64), (64, 96)], 50)
    record(folder / "data", sizes, "yard")
    return folder / "data"


@pytest.fixture
def port(data: Path) -> Iterator[int]:
    def page(request: Any) -> HTMLResponse:
        (first, *_) = segments(data)
        asked = f"from={first.captured}&to={first.captured + 60}"
        return HTMLResponse(PAGE.replace("FROM", asked if "empty" not in request.url.query else ""))

    routes = recording_routes(
        data, load_builtin("write_clip"), RecordedPictures(data, recorded_jpeg)
    )
    with serving([*routes, Route("/", page)]) as number:
        yield number


@pytest.fixture
def api(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
        yield client


def test_what_is_recorded_is_told_as_the_document_says(api: httpx.Client, data: Path) -> None:
    schemas = document(recording_routes(data, load_builtin("write_clip")))["components"]
    told = {
        "RecordedSource": api.get(BASE).json(),
        "RecordedTime": [api.get(f"{BASE}/gate").json()],
    }
    for name, ones in told.items():
        for one in ones:
            schema = {"$ref": f"#/components/schemas/{name}", "components": schemas}
            Draft202012Validator(schema).validate(one)
    assert [one["source"] for one in told["RecordedSource"]] == ["gate", "yard"]


def test_a_playlist_names_all_that_a_player_needs(
    api: httpx.Client, data: Path, tmp_path: Path
) -> None:
    answer = api.get(f"{BASE}/gate/playlist.m3u8")
    assert answer.headers["content-type"].startswith("application/vnd.apple.mpegurl")
    assert "#EXT-X-DISCONTINUITY\n" not in answer.text
    assert answer.text.count("#EXT-X-MAP") == answer.text.count("#EXT-X-PROGRAM-DATE-TIME") == 1
    lengths = [float(said) for said in re.findall(r"#EXTINF:([0-9.]+)", answer.text)]
    assert lengths == [pytest.approx(one.seconds, abs=1e-5) for one in segments(data)]
    names = [line for line in answer.text.splitlines() if line.endswith(".m4s")]
    (init,) = re.findall(r'URI="(.*)"', answer.text)
    whole = tmp_path / "whole.mp4"
    parts = [api.get(f"{BASE}/gate/{name}") for name in (init, *names)]
    assert {part.status_code for part in parts} == {200}
    whole.write_bytes(b"".join(part.content for part in parts))
    assert payload(whole) == payload(data.parent / "gate.mp4")


def test_ffmpeg_plays_the_playlist_also_over_a_change_of_the_picture_size(port: int) -> None:
    with av.open(f"http://127.0.0.1:{port}{BASE}/yard/playlist.m3u8?to=0m") as held:
        sizes = {(f.width, f.height) for f in held.decode(video=0)}
    assert sizes == {(96, 64), (64, 96)}
    text = httpx.get(f"http://127.0.0.1:{port}{BASE}/yard/playlist.m3u8").text
    assert text.count("#EXT-X-DISCONTINUITY\n") == 1
    assert text.count("#EXT-X-MAP") == 2


def test_a_clip_is_one_file_and_nothing_of_it_stays(
    api: httpx.Client, data: Path, tmp_path: Path
) -> None:
    first = segments(data)[0]
    asked = {"from": str(first.captured), "to": str(first.captured + 60)}
    answer = api.get(f"{BASE}/gate/clip.mp4", params=asked)
    assert answer.headers["framegate-parts"] == "1"
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(answer.content)
    assert len(times(clip)) == 250
    some = api.get(f"{BASE}/gate/clip.mp4", params=asked, headers={"Range": "bytes=0-99"})
    assert (some.status_code, some.content) == (206, answer.content[:100])
    yard = segments(data, "yard")[0].captured
    two = api.get(
        f"{BASE}/yard/clip.mp4", params={"from": str(yard), "to": str(yard + 60), "part": "2"}
    )
    assert two.headers["framegate-parts"] == "2"
    wait_until("nothing is left", lambda: not [*(data / FOLDER).glob(".clip-*")])


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("/gat", 404, "did you mean gate"),
        ("/gate/playlist.m3u8?from=10-2", 400, "must be a time "),
        ("/gate/playlist.m3u8?from=1h&to=2h", 400, "the span ends before it begins"),
        (
            "/gate/playlist.m3u8?from=2000-01-01&to=2000-01-02",
            404,
            "nothing was recorded in this time",
        ),
        ("/gate/clip.mp4", 400, "a clip needs `from`"),
        ("/gate/picture.jpg", 400, "a picture needs `at`"),
        ("/gate/picture.jpg?epoch=7&pts=1", 404, "that frame was not recorded"),
        ("/gate/picture.jpg?epoch=x&pts=1", 400, "epoch: 'x'; allowed: 0 to"),
        (f"/gate/picture.jpg?epoch={10**20}&pts=1", 400, "epoch: '1000"),
        ("/gate/picture.jpg?epoch=1&pts=x", 400, "pts: 'x'; allowed is a number"),
        (f"/gate/picture.jpg?at=0m&width={'0' * 5000}320", 400, "allowed: 16 to 1920"),
        ("/gate/picture.jpg?at=10-2", 400, "must be a time "),
        ("/gate/picture.jpg?at=2000-01-01", 404, "nothing was recorded in"),
        ("/gate/picture.jpg?at=0m&width=9999", 400, "allowed: 16 to 1920"),
        ("/gat/picture.jpg?at=0m", 404, "did you mean gate"),
        ("/gate/clip.mp4?from=2h", 400, "an hour later"),
        ("/gate/1/../../index.db", 404, ""),
        ("/gate/1/2026-01-01/x.m4s", 404, "no such segment"),
        ("/gate/init/none.mp4", 404, "no such init part"),
    ],
)
def test_what_cannot_be_done_is_said(api: httpx.Client, asked: str, status: int, says: str) -> None:
    answer = api.get(f"{BASE}{asked}")
    assert answer.status_code == status
    assert says in answer.text


def test_of_a_run_that_records_nothing_there_is_nothing(tmp_path: Path) -> None:
    with serving(recording_routes(tmp_path, load_builtin("write_clip"))) as port:
        url = f"http://127.0.0.1:{port}{BASE}"
        assert httpx.get(url).json() == []
        assert httpx.get(f"{url}/gate").status_code == 404
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize(
    ("query", "is_same_later"),
    [("at=1790000000.5", True), ("epoch=1&pts=2", True), ("at=15m", False), ("at=10:30", False)],
)
def test_only_a_picture_of_a_fixed_time_may_be_cached(query: str, is_same_later: bool) -> None:
    assert is_fixed(QueryParams(query)) == is_same_later


def test_a_picture_is_what_was_seen_then(api: httpx.Client, data: Path) -> None:
    first, *_, last = segments(data)
    asked: list[tuple[dict[str, float], int]] = [
        ({"epoch": first.epoch, "pts": n / 25}, n) for n in (0, 2, 24, 25, 99, 100, 131, 249)
    ]
    asked += [({"at": first.captured}, 0), ({"at": last.captured_end - 1e-6}, 249)]
    asked.append(({"epoch": 7, "pts": 1.0, "at": last.captured_end}, 249))
    for words, number in asked:
        answer = api.get(f"{BASE}/gate/picture.jpg", params={**words, "width": 96})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert "immutable" in answer.headers["cache-control"]
        shown = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_GRAYSCALE)
        nearby = range(max(0, number - 3), number + 4)
        off = {n: np.abs(scene(n, (96, 64))[0] - 1.0 * shown).mean() for n in nearby}
        assert min(off, key=lambda n: off[n]) == number, (words, off)


@needs_chromium
def test_a_browser_plays_clips_and_segments(port: int) -> None:
    with chromium() as browser:
        visit = Visit(browser, f"http://127.0.0.1:{port}/")
        able = """document.createElement("video").canPlayType('video/mp4; codecs="avc1.64000a"')"""
        if not visit.look(able):
            pytest.skip("this Chromium decodes no H.264")
        visit.until("document.querySelector('video').readyState >= 2")
        visit.look("document.querySelector('video').currentTime = 7; null")
        visit.until("!document.querySelector('video').seeking")
        assert visit.look("document.querySelector('video').duration") == pytest.approx(10, abs=0.2)
        visit.look(FEED)
        begin, end, runs = visit.look("window.fed")
        assert (runs, end - begin) == (1, pytest.approx(10, abs=0.2))
        visit.close()


@needs_chromium
def test_the_browser_s_own_player_plays_a_playlist_and_seeks_in_it(port: int) -> None:
    with chromium() as browser:
        visit = Visit(browser, f"http://127.0.0.1:{port}/")
        able = "document.createElement('video').canPlayType('application/vnd.apple.mpegurl')"
        if not visit.look(able):
            pytest.skip("this Chromium plays no HLS by itself (142 and later do)")
        visit.look(f"document.querySelector('video').src = '{BASE}/gate/playlist.m3u8?to=0m'; null")
        visit.until("document.querySelector('video').readyState >= 2")
        assert visit.look("document.querySelector('video').duration") == pytest.approx(10, abs=0.2)
        visit.look(SEEKS)
        times_s = [7.3, 1.2, 9.5, 4.0]
        shown = visit.look(f"window.seeks({times_s})")
        assert shown == [pytest.approx(at, abs=0.05) for at in times_s]
        visit.close()


def test_an_index_is_closed_for_everybody(data: Path) -> None:
    index = Index(data)
    assert index.recorded()
    index.close()
