"""What is shown: the newest frame, its own boxes on its own pixels, and only on demand."""

from __future__ import annotations

import asyncio
import functools
import http.client
import itertools
import json
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.embedded import EmbeddedStore
from pipeline.errors import FrameLost
from pipeline.last_frames import LastFrame, LastFrames
from pipeline.picture_routes import FPS, picture_routes
from pipeline.records import Position
from pipeline.shared_pictures import SharedPictures, Shown
from pipeline.source import Form
from stages.pictures import Pictures, as_jpeg
from tests.pipeline.published import result
from tests.pipeline.servers import server
from tests.runs import wait_until
from tests.studio import FORM, SLOTS, Studio, grey_of, object_of
from tests.web_server import serving

Seen = np.ndarray


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def studio(store: EmbeddedStore) -> Iterator[Studio]:
    made = Studio(store)
    yield made
    made.close()


@pytest.fixture
def frames(studio: Studio) -> Iterator[LastFrames]:
    looking = LastFrames(studio.url, studio.frame_store)
    yield looking
    looking.close()


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()


def opened(port: int, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """An answer that is still to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    return connection, connection.getresponse()


def get(port: int, path: str) -> Answer:
    connection, answer = opened(port, path)
    content = answer.read()
    connection.close()
    return Answer(answer.status, answer.headers, content)


KNOWN = {"door": "", "yard": "connecting: connection refused"}


@pytest.fixture
def port(studio: Studio) -> Iterator[int]:
    """What a run's HTTP process serves."""
    with serving(Pictures(studio.frame_store, studio.url, lambda: KNOWN).routes()) as number:
        yield number


def decoded(jpeg: bytes) -> Seen:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def grey_in(frame: LastFrame) -> int:
    """The one grey of its pixels; an AssertionError if there are two."""
    luma = set(frame.pixels[: frame.form.width * frame.form.height])
    assert len(luma) == 1
    return luma.pop()


# -- which frame


def test_the_newest_published_frame_comes_with_its_own_pixels(
    studio: Studio, frames: LastFrames
) -> None:
    for seq in range(3):
        studio.show(seq)
    studio.decode(3)  # not published yet
    found = frames.newest("door")
    assert found is not None
    assert (found.result.position, grey_in(found)) == (Position(1, 2), grey_of(2))


def test_nothing_published_and_nothing_new_are_none(studio: Studio, frames: LastFrames) -> None:
    studio.decode(0)
    assert frames.newest("door") is None
    studio.publish(0)
    assert frames.newest("door", seen=Position(1, 0)) is None


def test_a_frame_whose_pixels_were_lost_is_not_shown_with_those_of_another(
    studio: Studio, frames: LastFrames
) -> None:
    studio.show(0)
    studio.publish(1)  # failed: its pixels never came
    found = frames.newest("door")
    assert found is not None
    assert (found.result.seq, grey_in(found)) == (0, grey_of(0))


def test_overwritten_frames_are_lost_not_replaced(studio: Studio, frames: LastFrames) -> None:
    studio.show(0)
    for seq in range(1, SLOTS + 1):
        studio.decode(seq)
    with pytest.raises(FrameLost, match="source door"):
        frames.newest("door")


def test_an_epoch_that_ended_shows_its_last_frame_and_the_next_its_own(
    studio: Studio, frames: LastFrames
) -> None:
    studio.show(0)
    studio.end(1)
    ended = frames.newest("door")
    studio.show(0, epoch=2)
    begun = frames.newest("door")
    assert ended is not None
    assert begun is not None
    assert (ended.result.position, begun.result.position) == (Position(1, 0), Position(2, 0))


def test_boxes_are_never_on_other_pixels_however_fast_frames_are_replaced(
    studio: Studio, frames: LastFrames
) -> None:
    forked = multiprocessing.get_context("fork")
    stop = forked.Event()
    player = forked.Process(target=_play, args=(studio, stop))
    player.start()
    found = 0
    try:
        while found < 100:
            try:
                frame = frames.newest("door")
            except FrameLost:
                continue
            if frame is not None:
                assert grey_in(frame) == grey_of(frame.result.seq)
                found += 1
    finally:
        stop.set()
        player.join()


def _play(studio: Studio, stop: Event) -> None:
    """Write frames as fast as it goes, and publish each right before its slot is written again."""
    for seq in itertools.count():
        studio.decode(seq)
        if seq >= SLOTS - 1:
            studio.publish(seq - SLOTS + 1)
        if stop.is_set():
            return


# -- how it looks


def a_frame(form: Form, planes: tuple[int, int, int], seq: int = 3) -> LastFrame:
    """A frame of one colour with the object of frame `seq`."""
    half = -(-form.width // 2) * -(-form.height // 2)
    sizes = (form.width * form.height, half, half)
    pixels = b"".join(bytes([value]) * n for value, n in zip(planes, sizes, strict=True))
    seen = result("door", 1, seq)
    fields = {name: getattr(seen, name) for name in seen.__struct_fields__}
    return LastFrame(type(seen)(**{**fields, "objects": (object_of(seq),)}), form, pixels)


@pytest.mark.parametrize(
    ("matrix", "full_range", "planes"),
    [  # pure red, by the definition of each
        ("bt601", False, (81, 90, 240)),
        ("bt601", True, (76, 85, 255)),
        ("bt709", False, (63, 102, 240)),
        ("bt709", True, (54, 99, 255)),
    ],
)
def test_red_is_red_whatever_the_matrix(
    matrix: str, full_range: bool, planes: tuple[int, int, int]
) -> None:
    seen = decoded(as_jpeg(a_frame(Form(101, 75, matrix, full_range), planes), boxes=False))
    assert seen.shape == (75, 101, 3)
    assert np.abs(seen.reshape(-1, 3).mean(axis=0) - (0, 0, 255)).max() < 6


@pytest.mark.parametrize("width", [None, 160, 97, 4000])
def test_a_box_stands_where_its_object_is_at_any_width(width: int | None) -> None:
    frame = a_frame(FORM, (grey_of(3), 128, 128))
    bare, drawn = (decoded(as_jpeg(frame, boxes, width)).astype(int) for boxes in (False, True))
    wide = min(width or FORM.width, FORM.width)
    assert drawn.shape == bare.shape == (round(FORM.height * wide / FORM.width), wide, 3)
    scale = wide / FORM.width
    left, top, right, bottom = (edge * scale for edge in object_of(3).box)
    changed = np.abs(drawn - bare).max(axis=2) > 60
    below = changed[round(top + bottom) // 2 :]  # the label is above
    rows, columns = np.nonzero(below)
    assert abs(columns.min() - left) <= 2
    assert abs(columns.max() - right) <= 2
    assert abs(rows.max() + round(top + bottom) // 2 - bottom) <= 2


# -- snapshots


def test_a_snapshot_is_the_frame_with_its_boxes_or_plain(studio: Studio, port: int) -> None:
    studio.show(7)
    drawn, plain = (get(port, "/snapshot/door.jpg" + query) for query in ("", "?plain=1"))
    assert drawn.headers["content-type"] == "image/jpeg"
    assert drawn.headers["cache-control"] == "no-store"
    assert drawn.headers["x-framegate-position"] == "1-7"
    assert decoded(drawn.content).shape == (FORM.height, FORM.width, 3)
    assert decoded(plain.content).std() < 2 < decoded(drawn.content).std()
    assert decoded(get(port, "/snapshot/door.jpg?width=64").content).shape[1] == 64


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/snapshot/window.jpg", 404, "no source window; there are: door, yard"),
        ("/stream/window.mjpg", 404, "no source window; there are: door, yard"),
        ("/live?sources=a,b", 404, "no source a, b; there are: door, yard"),
        ("/live", 404, "no source without a name"),
        ("/snapshot/yard.jpg", 503, "source yard: no frame yet; connecting: connection refused"),
        ("/snapshot/door.jpg", 503, "source door: no frame yet"),
        ("/snapshot/door.jpg?width=9", 400, "width: '9'; allowed: 16 to 16384 pixels"),
        ("/snapshot/door.jpg?width=-20", 400, "width: '-20'"),
        ("/snapshot/door.jpg?width=99999999999999999999", 400, "width"),
        ("/snapshot/door.jpg?width=%C2%B2", 400, "width"),
    ],
)
def test_what_cannot_be_shown_is_said(port: int, path: str, status: int, words: str) -> None:
    answer = get(port, path)
    assert (answer.status, words in answer.text) == (status, True), answer.text


def test_pixels_that_are_gone_and_a_store_that_is_away_are_said(
    studio: Studio, port: int, tmp_path: Path
) -> None:
    studio.publish(0)
    gone = get(port, "/snapshot/door.jpg")
    assert (gone.status, "source door: the pixels" in gone.text) == (503, True)
    nowhere = f"unix://{tmp_path}/none.sock"
    routes = Pictures(studio.frame_store, nowhere, lambda: {"door": ""}).routes()
    with serving(routes) as other:
        away = get(other, "/snapshot/door.jpg")
    assert (away.status, "cannot be reached" in away.text) == (503, True)


# -- streams


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


def test_the_page_is_small_and_may_only_ask_where_it_came_from(port: int) -> None:
    page = get(port, "/")
    assert page.headers["content-type"].startswith("text/html")
    assert len(page.content) < 15 * 1024
    assert "innerHTML" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'" in policy
