"""Thumbnails of recordings: key frames only, cached within a bound, at the lowest priority."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.web.limits import Refusal
from framegate.pipeline.web.recordings.thumbnails import MAX_WAITING, Thumbnails, thumbnail_routes
from framegate.stages.draw.pictures import thumbnail_jpeg
from tests.support.footage import scene
from tests.support.recorded import add_segment, record, segments, write_both
from tests.support.runs import DEADLINE_S
from tests.support.web_server import serving

PATH = "/api/v1/recordings/gate/thumbnail.jpg"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of ten seconds in files that begin at 0, 4 and 8 s."""
    folder = tmp_path_factory.mktemp("recorded")
    record(folder / "data", write_both(folder / "gate.mp4", 10.0, size=(320, 192)))
    return folder / "data"


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    thumbnails = Thumbnails(data, thumbnail_jpeg)
    with (
        serving(thumbnail_routes(thumbnails)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as made,
    ):
        yield made
    thumbnails.close()


def test_a_thumbnail_is_the_key_frame_of_its_time(client: httpx.Client, data: Path) -> None:
    first, second, third = (each.captured for each in segments(data))
    near = 1e-4  # a file is recorded faster than it plays
    asked: list[tuple[float, float | None, int]] = [
        (first, None, 0), (second - near, None, 0), (second, None, 100), (third + 30, None, 200),
        (first + near, third, 100), (first + near, first + 2 * near, 0), (first - 1, third, 0),
    ]  # fmt: skip
    for at, to, number in asked:
        words = {"at": at}
        if to is not None:
            words["to"] = to
        answer = client.get(PATH, params=words)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        shown = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert shown.shape == (144, 240)
        scenes = {n: cv2.resize(scene(n, (320, 192))[0], (240, 144)) for n in (0, 25, 100, 200)}
        off = {n: np.abs(each - 1.0 * shown).mean() for n, each in scenes.items()}
        assert min(off, key=lambda n: off[n]) == number, (words, off)


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("", 400, "needs `at`"),
        ("?at=10-2", 400, "must be a time "),
        ("?at=2000-01-01", 404, "nothing was recorded at this time"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: httpx.Client, asked: str, status: int, says: str
) -> None:
    answer = client.get(f"{PATH}{asked}")
    assert (answer.status_code, says in answer.text) == (status, True)


def test_of_a_run_that_records_nothing_there_is_nothing(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path, lambda *_: b"")
    with pytest.raises(Refusal, match="nothing is recorded"):
        asyncio.run(thumbnails.jpeg("gate", 0.0, 0.0))
    assert not (tmp_path / FOLDER).exists()
    thumbnails.close()


def test_the_newest_stay_in_memory_and_removed_ones_are_not_shown(tmp_path: Path) -> None:
    made: list[tuple[str, int]] = []

    def as_thumbnail(_folder: Path, segment: Segment, _width: int) -> bytes:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        made.append((segment.path, nice))
        return bytes(40)

    index = Index(tmp_path)
    rows = [add_segment(index, "gate", n, 1000.0 + 4 * n) for n in range(3)]
    thumbnails = Thumbnails(tmp_path, as_thumbnail, max_cached_bytes=80)
    for n in (0, 0, 1, 2, 0, 2):
        asyncio.run(thumbnails.jpeg("gate", rows[n].captured + 1, rows[n].captured + 1))
    assert made == [(rows[n].path, 19) for n in (0, 1, 2, 0)]
    index.remove(rows, "age")
    with pytest.raises(Refusal, match="nothing was recorded"):
        asyncio.run(thumbnails.jpeg("gate", rows[2].captured, rows[2].captured))
    assert os.getpriority(os.PRIO_PROCESS, 0) != 19 or os.nice(0) == 19, "only its own thread"
    index.close()
    thumbnails.close()


def test_only_so_many_requests_wait(tmp_path: Path) -> None:
    may_end = threading.Event()
    index = Index(tmp_path)
    add_segment(index, "gate", 0, 1000.0)
    index.close()

    def slow(*_: object) -> bytes:
        may_end.wait(DEADLINE_S)
        return b"jpeg"

    async def ask() -> list[bytes | BaseException]:
        asked = [asyncio.ensure_future(thumbnails.jpeg("gate", 1000.0, 1000.0)) for _ in range(40)]
        await asyncio.sleep(0)
        may_end.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    thumbnails = Thumbnails(tmp_path, slow)
    answers = asyncio.run(ask())
    assert answers[:MAX_WAITING] == [b"jpeg"] * MAX_WAITING
    assert {type(answer) for answer in answers[MAX_WAITING:]} == {Refusal}
    thumbnails.close()
