"""Privacy masks: which bytes of a frame are blanked, at every size, against another reckoning."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest

from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import Polygon
from framegate.pipeline.shared_memory.masks import Masks, covered

Flags = npt.NDArray[np.bool_]
FINE = 8  # samples along a pixel's side
CORNER: Polygon = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
STAR: Polygon = ((0.5, 0.0), (0.8, 1.0), (0.0, 0.4), (1.0, 0.4), (0.2, 1.0))


def flags(polygons: list[Polygon], width: int, height: int) -> Flags:
    """What `covered` gives, pixel by pixel."""
    found = np.zeros((height, width), np.bool_)
    rows = covered(polygons, width, height)
    assert len(rows) == height
    for row, spans in enumerate(rows):
        for first, end in spans:
            assert 0 <= first < end <= width
            assert not found[row, first:end].any()
            found[row, first:end] = True
    return found


def with_inside(polygon: Polygon, width: int, height: int) -> Flags:
    """Pixels of which one of 64 places is inside, by the even-odd rule."""
    x, y = np.meshgrid(
        (np.arange(width * FINE) + 0.5) / FINE / width,
        (np.arange(height * FINE) + 0.5) / FINE / height,
    )
    inside = np.zeros(x.shape, np.bool_)
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if ay != by:
            inside ^= ((ay <= y) != (by <= y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
    return inside.reshape(height, FINE, width, FINE).any(axis=(1, 3))


def with_edge(polygon: Polygon, width: int, height: int) -> Flags:
    """Pixels that have one of 20 000 places of an edge in them, not at their sides."""
    found = np.zeros((height, width), np.bool_)
    for one, other in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        part = np.linspace(0, 1, 20_000)[:, None]
        places = (np.array(one) * (1 - part) + np.array(other) * part) * (width, height)
        within = (np.abs(places - np.rint(places)) > 1e-6).all(1)
        across, down = np.floor(places[within]).astype(int).T
        found[down, across] = True
    return found


def made(seed: int) -> Polygon:
    """A polygon that may cross itself."""
    chosen = random.Random(seed)
    return tuple((chosen.random(), chosen.random()) for _ in range(chosen.randint(3, 7)))


@pytest.mark.parametrize("polygon", [CORNER, STAR, *map(made, range(12))])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (16, 8), (33, 21), (64, 47)])
def test_a_pixel_goes_if_the_inside_or_an_edge_touches_it(
    polygon: Polygon, width: int, height: int
) -> None:
    expected = with_inside(polygon, width, height) | with_edge(polygon, width, height)
    assert (flags([polygon], width, height) == expected).all()


def test_sides_on_pixels_take_no_more_and_what_is_half_covered_goes() -> None:
    corner = flags([CORNER], 16, 8)
    assert corner[:4, :8].all()
    assert corner.sum() == 32
    odd = flags([CORNER], 7, 5)
    assert odd[:3, :4].all()
    assert odd.sum() == 12
    third = flags([((0.0, 0.0), (0.3, 0.0), (0.3, 1.0), (0.0, 1.0))], 10, 3)  # .3 * 10 > 3
    assert third.sum() == 9
    assert flags([((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))], 641, 359).all()


def test_polygons_that_overlap_do_not_uncover_each_other() -> None:
    both = flags([CORNER, CORNER, STAR], 33, 21)
    assert (both == flags([CORNER], 33, 21) | flags([STAR], 33, 21)).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (7, 5), (8, 5), (7, 6), (641, 359)])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("polygon", [CORNER, STAR])
def test_these_bytes_are_black_and_no_others_change(
    width: int, height: int, full_range: bool, polygon: Polygon
) -> None:
    form = Form(width, height, full_range=full_range)
    came = np.random.default_rng(width).integers(0, 256, form.nbytes + 3, np.uint8)
    slot = bytearray(came)
    masks = Masks([polygon])
    for _ in range(2):  # the second time from memory
        masks.blank(memoryview(slot), form)
    gone = flags([polygon], width, height)
    even = np.zeros((height + height % 2, width + width % 2), np.bool_)
    even[:height, :width] = gone
    half = even[0::2, 0::2] | even[1::2, 0::2] | even[0::2, 1::2] | even[1::2, 1::2]
    gone_bytes = np.concatenate([gone.ravel(), half.ravel(), half.ravel(), [False] * 3])
    black = [0 if full_range else 16] * gone.size + [128] * 2 * half.size + [0] * 3
    assert (np.frombuffer(slot, np.uint8) == np.where(gone_bytes, black, came)).all()


def test_a_picture_of_another_size_is_blanked_at_the_same_place() -> None:
    masks = Masks([CORNER])
    for form in (Form(64, 48), Form(32, 24), Form(64, 48)):
        slot = bytearray(b"\xff" * form.nbytes)
        masks.blank(memoryview(slot), form)
        luma = np.frombuffer(slot, np.uint8)[: form.width * form.height]
        picture = luma.reshape(form.height, form.width)
        assert (picture[: form.height // 2, : form.width // 2] == 16).all()
        assert (picture == 16).sum() == picture.size // 4
