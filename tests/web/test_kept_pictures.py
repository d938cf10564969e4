"""The picture of a marked visit and of a judged episode stays after its recording is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from framegate.pipeline.contracts.episodes import Changes, EventEntry
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import VisitEntry
from framegate.pipeline.recording.index import RecordedPlace
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.review import kept_pictures
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.kept_pictures import keep_picture, kept_picture
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.review.visit_rows import all_visits
from framegate.pipeline.review.visits import mark_visit
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.pipeline.web.review.visits import visit_routes
from framegate.stages.draw.pictures import recorded_jpeg
from tests.support.recorded import record, segments, write_both
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.said import change, visit
from tests.support.web_server import serving

PICTURE = "/api/v1/recordings/gate/picture.jpg"


def test_what_was_seen_at_a_verdict_is_seen_after_retention(tmp_path: Path) -> None:
    data = tmp_path / "data"
    record(data, write_both(tmp_path / "gate.mp4", 4.0))
    epoch = segments(data)[0].epoch
    there = visit(3, 20, 7, "gate", epoch)
    start = change("start", 5, 5, "gate", epoch=epoch)
    at = Position(epoch, 20)
    projection = Projection(data / FILE)
    projection.take([VisitEntry("gate", at, START, (there,))])
    projection.take([EventEntry("gate", at, START, None, Changes((start,)))])
    projection.close()
    pictures = RecordedPictures(data, recorded_jpeg)
    routes: list[Route] = [
        *visit_routes(data, pictures),
        *episode_routes(data, "redis://unused", pictures),
        *recording_routes(data, load_builtin("write_clip"), pictures),
    ]
    pictures.start()
    with (
        serving(routes) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):
        mark = {"name": "van", "visit": there.id, "alike": True}
        verdict = f"/api/v1/episodes/{start.episode}/verdict"
        assert client.post("/api/v1/visits/mark", json=mark).status_code == 200
        assert client.post(verdict, json={"verdict": "true"}).status_code == 200
        owners = {there.id: 1.1, start.episode: 0.5}  # and the media time of each picture
        wait_until("both are kept", lambda: all(_kept(data, owner) for owner in owners))
        shutil.rmtree(data / FOLDER)
        for owner, pts in owners.items():
            asked = {"epoch": epoch, "pts": pts, "at": 1}
            assert client.get(PICTURE, params=asked).status_code == 404
            shown = client.get(PICTURE, params={**asked, "of": owner})
            assert shown.content == _kept(data, owner)
            assert shown.content.startswith(b"\xff\xd8")
        undone = {**mark, "alike": None}
        assert client.post("/api/v1/visits/mark", json=undone).status_code == 200
        assert client.post(verdict, json={"verdict": None}).status_code == 200
        assert [_kept(data, owner) for owner in owners] == [None, None]


@pytest.fixture
def marked(tmp_path: Path) -> tuple[Path, str]:
    """A recorded source with a visit that the command line marked."""
    data = tmp_path / "data"
    record(data, write_both(tmp_path / "gate.mp4", 4.0))
    epoch = segments(data)[0].epoch
    seen, later = visit(3, 20, 7, "gate", epoch), visit(900, 990, 8, "gate", epoch)
    projection = Projection(data / FILE)
    projection.take([VisitEntry("gate", Position(epoch, 20), START, (seen, later))])
    projection.close()
    mark_visit(data / FILE, "van", seen.id, True, 100.0)
    return data, seen.id


def test_a_picture_is_made_smaller_until_it_fits(marked: tuple[Path, str]) -> None:
    def large(_folder: Path, _place: RecordedPlace, width: int) -> bytes:
        return bytes(width * 150)

    data, owner = marked
    assert RecordedPictures(data, large).keep_new(0.0) == []
    kept = _kept(data, owner)
    assert kept is not None
    assert len(kept) == 160 * 150


def test_a_frame_that_is_not_recorded_so_far_waits_and_an_old_one_does_not(
    marked: tuple[Path, str],
) -> None:
    data, owner = marked
    with opened(data / FILE) as database:
        (later,) = [each.id for each in all_visits(database) if each.id != owner]
    mark_visit(data / FILE, "van", later, True, 200.0)
    pictures = RecordedPictures(data, lambda *_: b"jpeg")
    assert pictures.keep_new(150.0) == [later]
    assert pictures.keep_new(201.0) == []
    assert _kept(data, owner) is None, "it was marked before"
    assert pictures.keep_new(0.0) == [later]
    assert _kept(data, owner) == b"jpeg"


def test_pictures_follow_a_later_privacy(marked: tuple[Path, str]) -> None:
    data, owner = marked

    def start(blurs_faces: bool, *masked: str) -> None:
        projection = Projection(data / FILE)
        projection.hide_pictures(blurs_faces, masked)
        projection.close()

    def keep(is_blurred: bool, *masked: str) -> None:
        RecordedPictures(data, lambda *_: b"jpeg", is_blurred, masked).keep_new(0.0)

    keep(False)
    start(False, "gat", "door")
    assert _kept(data, owner) == b"jpeg"
    start(True)
    assert _kept(data, owner) is None
    keep(True)
    start(True)
    assert _kept(data, owner) == b"jpeg"
    start(True, "gate")
    keep(True, "gate")
    assert _kept(data, owner) is None


def _kept(data: Path, owner: str) -> bytes | None:
    with opened(data / FILE) as database:
        return kept_picture(database, owner)


def test_pictures_are_bounded_and_belong_to_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_pictures, "MAX_PICTURES", 3)
    file = tmp_path / FILE
    visits = tuple(visit(n, n + 10, n) for n in range(1, 6))
    projection = Projection(file)
    projection.take([VisitEntry("door", Position(1, 50), START, visits)])
    assert not keep_picture(file, visits[0].id, b"unmarked")
    for each in visits:
        mark_visit(file, "van", each.id, True, 0.0)
        assert keep_picture(file, each.id, each.id.encode())
        assert not keep_picture(file, each.id, bytes(kept_pictures.MAX_BYTES + 1))
    kept = [_kept(tmp_path, each.id) for each in visits]
    assert kept == [None, None, *(each.id.encode() for each in visits[2:])]
    projection.keep(1, 0.0)
    assert [_kept(tmp_path, each.id) for each in visits] == [None] * 4 + kept[4:]
    projection.close()
