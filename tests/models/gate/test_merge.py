"""What parts of a picture say, among what was known: nothing cut is believed, nothing doubled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models import boxes as nms
from framegate.models.boxes import Boxes, empty
from framegate.models.errors import ArrayMismatch
from framegate.models.gate import crops
from framegate.models.gate.crops import Crop

SIZE, LONG = (832, 416), 416  # two source pixels for one of the model
LEFT, RIGHT = Crop((0, 0, 160, 160)), Crop((96, 0, 256, 160))  # 0..320 and 192..512 across
WHOLE = crops.whole(*SIZE, LONG)


def boxes(*rows) -> Boxes:
    """Rows (left, top, right, bottom, score, class), the best first."""
    rows = sorted(rows, key=lambda row: -row[4])
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


def merged(known, *found, looks=(LEFT,)):
    return crops.merge(known, found, looks, SIZE, LONG)


def test_no_look_keeps_everything():
    known = boxes((10, 10, 60, 60, 0.9, 0), (500, 100, 600, 200, 0.5, 2))
    out = merged(known, looks=())
    assert out.boxes.xyxy.tolist() == known.xyxy.tolist()
    assert not out.is_new.any()
    assert out.known_row.tolist() == [0, 1]
    assert not len(out.cut)


def test_a_look_at_the_whole_replaces_everything():
    known = boxes((10, 10, 60, 60, 0.9, 0), (500, 100, 600, 200, 0.5, 2))
    found = boxes((12, 10, 62, 60, 0.8, 0), (0, 0, 832, 416, 0.4, 5))
    out = merged(known, found, looks=(WHOLE,))
    assert out.boxes.xyxy.tolist() == found.xyxy.tolist()
    assert out.is_new.all()
    assert out.known_row.tolist() == [0, -1]
    assert not len(out.cut)


def test_what_is_not_found_again_is_gone_and_what_lies_elsewhere_stays():
    known = boxes((10, 10, 60, 60, 0.9, 0), (500, 100, 600, 200, 0.5, 2))
    out = merged(known, empty())
    assert out.known_row.tolist() == [1]
    assert not out.is_new.any()


def test_a_new_box_at_a_seam_is_not_believed_but_looked_for():
    out = merged(empty(), boxes((250, 50, 319, 100, 0.8, 0)))
    assert not len(out.boxes)
    assert out.cut.tolist() == [[250, 50, 353.5, 100]]


def test_a_box_at_the_border_of_the_picture_is_whole():
    out = merged(empty(), boxes((0, 0, 50, 100, 0.8, 0)))
    assert out.is_new.tolist() == [True]
    assert not len(out.cut)


def test_the_known_box_stays_where_only_a_piece_was_found():
    known = boxes((200, 50, 318, 100, 0.6, 0))
    out = merged(known, boxes((205, 52, 320, 100, 0.9, 0)))
    assert out.known_row.tolist() == [0]
    assert not out.is_new.any()
    assert len(out.cut) == 1


def test_a_piece_of_a_known_box_that_was_not_looked_at_whole_is_no_news():
    known = boxes((250, 50, 400, 100, 0.6, 0))
    out = merged(known, boxes((252, 52, 320, 100, 0.9, 0), (260, 55, 300, 98, 0.5, 0)))
    assert out.known_row.tolist() == [0]
    assert not len(out.cut)


def test_a_piece_of_what_another_look_found_whole_is_no_news():
    left, right = boxes((210, 50, 320, 100, 0.9, 0)), boxes((210, 50, 400, 100, 0.6, 0))
    out = merged(empty(), left, right, looks=(LEFT, RIGHT))
    assert out.boxes.xyxy.tolist() == [[210, 50, 400, 100]]
    assert not len(out.cut)


def test_what_two_looks_found_is_one_box():
    left, right = boxes((210, 50, 300, 100, 0.6, 0)), boxes((212, 50, 300, 100, 0.7, 0))
    out = merged(empty(), left, right, looks=(LEFT, RIGHT))
    assert out.boxes.scores.tolist() == pytest.approx([0.7])


def test_what_is_taken_for_something_else_now_is_still_one_thing():
    known = boxes((10, 10, 60, 60, 0.9, 2))
    out = crops.merge(known, [boxes((11, 10, 61, 60, 0.5, 7))], [LEFT], SIZE, LONG)
    assert out.boxes.class_ids.tolist() == [7]
    assert out.known_row.tolist() == [0]


def test_what_the_looks_were_not_made_for_stays():
    known = boxes((10, 10, 60, 60, 0.9, 0), (100, 100, 200, 200, 0.5, 2))
    judged = np.array([True, False])
    out = crops.merge(known, [empty()], [LEFT], SIZE, LONG, judged=judged)
    assert out.known_row.tolist() == [1]
    assert not out.is_new.any()


def test_a_weak_piece_is_not_worth_another_look():
    out = merged(empty(), boxes((250, 50, 319, 100, 0.2, 0)))
    assert not len(out.boxes)
    assert not len(out.cut)


def test_found_goes_with_looks():
    with pytest.raises(ArrayMismatch, match="found"):
        merged(empty(), empty(), looks=(LEFT, RIGHT))


@st.composite
def scenes(draw):
    def some(area):
        left, top, right, bottom = area
        rows = []
        for _ in range(draw(st.integers(0, 6))):
            x, y = draw(st.integers(left, right - 9)), draw(st.integers(top, bottom - 9))
            x2, y2 = draw(st.integers(x + 8, right)), draw(st.integers(y + 8, bottom))
            rows.append((x, y, x2, y2, draw(st.integers(1, 99)) / 100, draw(st.integers(0, 2))))
        found = boxes(*rows)
        return found.take(nms.suppress(found.xyxy, found.scores))

    looks = draw(st.sampled_from([(), (LEFT,), (LEFT, RIGHT), (WHOLE,)]))
    areas = [crops.looked_at(look, SIZE, LONG).astype(int).tolist() for look in looks]
    return some((0, 0, *SIZE)), [some(area) for area in areas], looks


@given(scene=scenes())
def test_nothing_is_cut_doubled_or_made_up(scene):
    known, found, looks = scene
    out = crops.merge(known, found, looks, SIZE, LONG)
    assert (np.diff(out.boxes.scores) <= 0).all()
    for row in range(len(out.boxes)):
        one = out.boxes.xyxy[row].tolist(), out.boxes.class_ids[row]
        if not out.is_new[row]:
            before = out.known_row[row]
            assert one == (known.xyxy[before].tolist(), known.class_ids[before])
            continue
        sources = [
            (look, box)
            for look, boxes_ in zip(looks, found, strict=True)
            for box in zip(boxes_.xyxy.tolist(), boxes_.class_ids, strict=True)
            if box == one
        ]
        assert any(not touches(box[0], look) for look, box in sources)
    kept = out.known_row[~out.is_new]
    assert len(set(kept.tolist())) == len(kept)
    same = nms.iou(out.boxes.xyxy, out.boxes.xyxy) > 0.6
    same &= out.is_new[:, None] | out.is_new[None, :]
    assert same.sum() == out.is_new.sum()


def touches(box, look) -> bool:
    area = crops.looked_at(look, SIZE, LONG).tolist()
    ends = zip(box, area, (0, 0, *SIZE), strict=True)
    return any(abs(end - edge) < 8 and edge != border for end, edge, border in ends)
