"""Looks cover what they must, in few sizes on the whole grid, or a whole pass is cheaper."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.gate import crops
from framegate.models.gate.crops import MANY, Crop, CropSettings
from framegate.models.picture import inner_size, padded

SIZE = (768, 432)
LONG = 416
NONE = np.empty((0, 4), np.float32)
SIDES = st.tuples(st.integers(64, 2000), st.integers(64, 2000))


def rows(*boxes) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


@st.composite
def pictures(draw):
    """A size, places and known boxes in it."""
    width, height = draw(SIDES)

    def box():
        x, y = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
        return x, y, draw(st.integers(x + 1, width)), draw(st.integers(y + 1, height))

    places = [box() for _ in range(draw(st.integers(0, 5)))]
    return (width, height), rows(*places), rows(*[box() for _ in range(draw(st.integers(0, 5)))])


def holds(area: np.ndarray, box: np.ndarray) -> bool:
    return bool((area[:2] <= box[:2] + 0.1).all() and (area[2:] >= box[2:] - 0.1).all())


@given(picture=pictures())
def test_every_place_and_every_box_it_touches_is_covered(picture):
    size, places, boxes = picture
    settings = CropSettings(share=0.9)
    looks = crops.plan(places, boxes, size, LONG, settings)
    if looks is None:
        return
    areas = [crops.looked_at(look, size, LONG) for look in looks]
    for place in places:
        mine = [area for area in areas if holds(area, place)]
        assert mine
        touched = (boxes[:, :2] < place[2:]).all(axis=1) & (boxes[:, 2:] > place[:2]).all(axis=1)
        for box in boxes[touched & ~larger(boxes, place, size, settings)]:
            assert any(holds(area, box) for area in mine)


def larger(boxes, place, size, settings) -> np.ndarray:
    """Boxes more than so many times as large as the place is with its margin, at model size."""
    inner = inner_size(*size, LONG)
    scale = np.array([inner[0] / size[0], inner[1] / size[1]] * 2)
    at, others = place * scale, boxes * scale
    sides = at[2:] - at[:2] + 2 * settings.margin
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return areas > settings.largest * sides[0] * sides[1] * 0.999


def test_a_table_is_not_looked_at_for_a_bottle_in_front_of_it():
    bottle, table = (300, 200, 330, 260), (0, 100, 768, 432)
    [look] = crops.plan(rows(bottle), rows(bottle, table), SIZE, LONG)
    assert holds(crops.looked_at(look, SIZE, LONG), np.array(bottle, np.float32))
    assert crops.plan(rows(bottle), rows(bottle, (100, 100, 400, 300)), SIZE, LONG)[0] != look


@given(picture=pictures())
def test_looks_are_few_cheap_of_known_sizes_and_on_the_grid(picture):
    size, places, boxes = picture
    settings = crops.DEFAULT
    looks = crops.plan(places, boxes, size, LONG, settings)
    if looks is None:
        return
    known = crops.sizes(*size, LONG, settings)
    full = crops.whole(*size, LONG).pixels + settings.call_pixels
    assert len(looks) <= settings.most
    assert sum(look.pixels + settings.call_pixels for look in looks) <= settings.share * full
    for look in looks:
        left, top, right, bottom = look.rect
        inner = inner_size(*size, LONG)
        assert all(edge % 32 == 0 for edge in look.rect)
        assert 0 <= left < right <= padded(inner[0])
        assert 0 <= top < bottom <= padded(inner[1])
        assert (right - left, bottom - top) in known


@given(size=SIDES)
def test_sizes_are_about_a_dozen_and_hold_the_whole(size):
    known = crops.sizes(*size, LONG)
    assert known[-1] == crops.whole(*size, LONG).rect[2:]
    assert len(set(known)) == len(known) <= 16
    assert all(side % 32 == 0 for pair in known for side in pair)


def test_nothing_to_look_at():
    assert crops.plan(NONE, rows((0, 0, 50, 50)), SIZE, LONG) == ()


def test_much_to_look_at_is_a_whole_pass():
    assert crops.plan(rows((0, 0, 600, 400)), NONE, SIZE, LONG) is None
    many = rows(*[(40 * i, 0, 40 * i + 1, 1) for i in range(MANY + 1)])
    assert crops.plan(many, NONE, SIZE, LONG) is None
    assert len(crops.plan(many / 20, NONE, SIZE, LONG)) == 1


def test_a_box_pulls_in_what_it_touches():
    """By hand: 0.5417 model pixels for one of the source."""
    place, boxes = rows((100, 100, 110, 110)), rows((105, 105, 300, 200), (600, 300, 640, 340))
    assert crops.plan(place, NONE, SIZE, LONG) == (Crop((0, 0, 160, 160)),)
    assert crops.plan(place, boxes, SIZE, LONG) == (Crop((0, 0, 256, 160)),)


def test_two_near_places_are_one_call_and_far_ones_two():
    near = rows((100, 100, 110, 110), (130, 100, 140, 110))
    far = rows((50, 50, 60, 60), (700, 380, 710, 390))
    calls_are_cheap = CropSettings(call_pixels=1000)
    assert len(crops.plan(near, NONE, SIZE, LONG, calls_are_cheap)) == 1
    assert len(crops.plan(far, NONE, SIZE, LONG, calls_are_cheap)) == 2
    calls_are_dear = CropSettings(call_pixels=1_000_000)
    assert crops.plan(far, NONE, SIZE, LONG, calls_are_dear) is None


def clusters(tiles: np.ndarray) -> set[tuple[int, ...]]:
    """Plain flood fill; tiles belong together when a king reaches the other in three moves."""
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(tiles), strict=True)}
    found = set()
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            group.add((row, column))
            near = {t for t in left if max(abs(t[0] - row), abs(t[1] - column)) <= 3}
            left -= near
            edge += near
        rows_, columns = zip(*group, strict=True)
        found.add((min(columns), min(rows_), max(columns) + 1, max(rows_) + 1))
    return found


@given(
    tiles=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 19)), max_size=12),
    tile_px=st.sampled_from([1.0, 16.0]),
)
def test_places_are_clusters_of_tiles(tiles, tile_px):
    changed = np.zeros((12, 20), np.bool_)
    for row, column in tiles:
        changed[row, column] = True
    places = crops.places_of(changed, tile_px)
    assert {tuple(place) for place in (places / tile_px).tolist()} == clusters(changed)
    assert len(places) == len(clusters(changed))


def test_what_a_look_covers_in_source_pixels():
    area = crops.looked_at(Crop((0, 64, 416, 256)), (832, 468), LONG)
    assert area.tolist() == [0, 128, 832, 468]
    area = crops.looked_at(Crop((32, 64, 128, 160)), (832, 468), LONG)
    assert area.tolist() == [64, 128, 256, 320]
