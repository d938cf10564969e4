"""Streams: encoded once for all who watch, not at all for nobody, and nobody holds others up."""

from __future__ import annotations

import asyncio
import functools
import http.client
import itertools
import json
import threading
from collections.abc import Iterator

import pytest

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.web.pictures.frames import LastFrame, LastFrames
from framegate.pipeline.web.pictures.picture_routes import (
    FPS,
    SharedPictures,
    Shown,
    picture_routes,
)
from framegate.stages.draw.pictures import as_jpeg
from tests.support.runs import wait_until
from tests.support.studio import FORM, KNOWN, Studio, decoded
from tests.support.web_server import opened, serving


class Counting:
    """Encodes, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, frame: LastFrame, boxes: bool = True, width: int | None = None) -> bytes:
        self.times += 1
        return as_jpeg(frame, boxes, width)


async def _never() -> bool:
    return False


def test_viewers_share_what_is_encoded_and_a_slow_one_gets_the_newest(
    studio: Studio, frames: LastFrames
) -> None:
    encode = Counting()

    async def watch() -> None:
        shared = SharedPictures(frames, encode, fps=1000)
        quick, other, slow = (shared.stream(["door"], 1000, _never) for _ in range(3))
        for seq in range(10):
            studio.show(seq)
            shown = [await anext(quick), await anext(other)]
            assert {picture.position for picture in shown} == {Position(1, seq)}
            assert shown[0].jpeg is shown[1].jpeg
        assert encode.times == 10
        assert (await anext(slow)).position == Position(1, 9)
        assert encode.times == 10

    asyncio.run(watch())


def test_pictures_of_a_source_are_no_more_than_so_many_a_second(
    studio: Studio, frames: LastFrames
) -> None:
    encode = Counting()

    async def watch() -> list[Shown | None]:
        shared = SharedPictures(frames, encode, fps=0.001)
        studio.show(0)
        first = await shared.newest("door")
        studio.show(1)
        return [first, *[await shared.newest("door") for _ in range(50)]]

    seen = asyncio.run(watch())
    assert encode.times == 1
    assert {shown.position for shown in seen if shown} == {Position(1, 0)}


@pytest.fixture
def served(frames: LastFrames) -> Iterator[tuple[int, Counting]]:
    """The same with what counts encodes."""
    encode = Counting()
    with serving(picture_routes(frames, encode, lambda: KNOWN)) as number:
        yield number, encode


def parts(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The JPEGs of a multipart answer, read by the lengths that it says."""
    assert answer.readline() == b"--framegate\r\n"
    while True:
        head = dict(
            line.decode().strip().lower().split(": ")
            for line in iter(functools.partial(answer.readline), b"\r\n")
        )
        assert head["content-type"] == "image/jpeg"
        yield answer.read(int(head["content-length"]))
        assert answer.readline() + answer.readline() == b"\r\n--framegate\r\n"


def test_a_stream_shows_each_new_picture_and_nothing_is_encoded_for_nobody(
    studio: Studio, served: tuple[int, Counting]
) -> None:
    port, encode = served
    for seq in range(5):
        studio.show(seq)
    assert encode.times == 0
    connection, answer = opened(port, "/stream/door.mjpg")
    assert answer.getheader("content-type") == "multipart/x-mixed-replace; boundary=framegate"
    pictures = parts(answer)
    for seq in range(5, 8):
        assert decoded(next(pictures)).shape == (FORM.height, FORM.width, 3)
        studio.show(seq)
    before = encode.times
    answer.close()
    connection.close()
    # It has ended once a look that this test takes, a period later, is the only one.
    wait_until("nobody watches", functools.partial(_still, studio, encode, itertools.count(8)))
    assert before >= 3


def _still(studio: Studio, encode: Counting, seqs: Iterator[int]) -> bool:
    """Whether nobody encodes what is published, for several periods of a viewer."""
    before = encode.times
    for _ in range(4):
        studio.show(next(seqs))
        threading.Event().wait(1 / FPS)
    return encode.times == before


def test_a_viewer_that_reads_nothing_holds_nobody_up(
    studio: Studio, served: tuple[int, Counting]
) -> None:
    port, _ = served
    studio.show(0)
    stuck, unread = opened(port, "/stream/door.mjpg")
    connection, answer = opened(port, "/stream/door.mjpg")
    pictures = parts(answer)
    for seq in range(1, 12):
        next(pictures)
        studio.show(seq)
    for closing in (unread, stuck, answer, connection):
        closing.close()


def test_one_response_has_the_pictures_of_many_sources(
    studio: Studio, served: tuple[int, Counting]
) -> None:
    port, _ = served
    studio.show(4)
    connection, answer = opened(port, "/live?sources=door,removed")
    head = json.loads(answer.readline())
    assert (head["source"], head["position"]) == ("door", "1-4")
    assert decoded(answer.read(head["bytes"])).shape == (FORM.height, FORM.width, 3)
    answer.close()
    connection.close()


def test_a_camera_that_was_removed_leaves_no_picture_for_the_next_of_its_name(
    studio: Studio, frames: LastFrames
) -> None:
    async def watch() -> None:
        shared = SharedPictures(frames, Counting(), fps=1000)
        studio.show(0)
        assert await shared.newest("door") is not None
        shared.keep(["yard"])
        for seq in range(1, 6):
            studio.decode(seq)  # its pixels are gone
        assert await shared.newest("door") is None

    asyncio.run(watch())
