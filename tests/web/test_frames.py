"""Which frame is shown, and how: the newest, its own boxes on its own pixels."""

from __future__ import annotations

import itertools
import multiprocessing
from multiprocessing.synchronize import Event

import numpy as np
import pytest

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.web.pictures.frames import LastFrame, LastFrames
from framegate.stages.draw.pictures import as_jpeg
from tests.support.published import result
from tests.support.studio import FORM, SLOTS, Studio, decoded, grey_of, object_of


def grey_in(frame: LastFrame) -> int:
    """The one grey of its pixels; an AssertionError if there are two."""
    luma = set(frame.pixels[: frame.form.width * frame.form.height])
    assert len(luma) == 1
    return luma.pop()


def test_the_newest_published_frame_comes_with_its_own_pixels(
    studio: Studio, frames: LastFrames
) -> None:
    for seq in range(3):
        studio.show(seq)
    studio.decode(3)  # not published yet
    found = frames.newest("door")
    assert found is not None
    assert (found.result.position, grey_in(found)) == (Position(1, 2), grey_of(2))


def test_the_picture_is_shown_where_no_record_of_its_frame_is_stored(
    studio: Studio, frames: LastFrames
) -> None:
    studio.show(0)
    studio.forget_records(0)
    found = frames.newest("door")
    assert found is not None
    assert grey_in(found) == grey_of(0)


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


def a_frame(form: Form, planes: tuple[int, int, int], seq: int = 3) -> LastFrame:
    """A frame of one colour with the object of frame `seq`."""
    half = -(-form.width // 2) * -(-form.height // 2)
    sizes = (form.width * form.height, half, half)
    pixels = b"".join(bytes([value]) * n for value, n in zip(planes, sizes, strict=True))
    seen = result("door", 1, seq)
    fields = {name: getattr(seen, name) for name in seen.__struct_fields__}
    fields.update(objects=(object_of(seq),), width=form.width, height=form.height)
    return LastFrame(type(seen)(**fields), form, pixels)


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
