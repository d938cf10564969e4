"""Planes to model input: colours by hand and in float64, sizes, and the way back."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from framegate.models.picture import Picture, from_bgr, inner_size, padded, prepare, to_source

SIDES = st.integers(1, 300)


def flat(y: int, u: int, v: int, matrix: str, full_range: bool, size: int = 64) -> Picture:
    half = np.ones((size // 2, size // 2), np.uint8)
    luma = np.full((size, size), y, np.uint8)
    return Picture(luma, half * np.uint8(u), half * np.uint8(v), matrix, full_range)  # type: ignore[arg-type]


def noise(height: int, width: int, matrix: str = "bt601", full_range: bool = True) -> Picture:
    rng = np.random.default_rng(height * 1000 + width)
    half = ((height + 1) // 2, (width + 1) // 2)
    return Picture(
        rng.integers(0, 256, (height, width), np.uint8),
        rng.integers(0, 256, half, np.uint8),
        rng.integers(0, 256, half, np.uint8),
        matrix,  # type: ignore[arg-type]
        full_range,
    )


def smooth(height: int, width: int) -> Picture:
    """Blobs some thirty pixels wide."""
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (12, 12), np.uint8)
    half = ((width + 1) // 2, (height + 1) // 2)
    luma = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    blue, red = (cv2.resize(c, half) for c in (coarse[::-1], coarse.T.copy()))
    return Picture(luma, blue, red, "bt601", True)


@pytest.mark.parametrize(
    ("yuv", "matrix", "full_range", "bgr"),
    [
        # Code values of pure colours as the two recommendations print them.
        ((235, 128, 128), "bt601", False, (255, 255, 255)),
        ((16, 128, 128), "bt709", False, (0, 0, 0)),
        ((81, 90, 240), "bt601", False, (0, 0, 255)),
        ((145, 54, 34), "bt601", False, (0, 255, 0)),
        ((41, 240, 110), "bt601", False, (255, 0, 0)),
        ((63, 102, 240), "bt709", False, (0, 0, 255)),
        ((173, 42, 26), "bt709", False, (0, 255, 0)),
        ((32, 240, 118), "bt709", False, (255, 0, 0)),
        ((76, 85, 255), "bt601", True, (0, 0, 255)),
        ((200, 128, 128), "bt709", True, (200, 200, 200)),
        ((255, 128, 128), "bt601", False, (255, 255, 255)),
    ],
)
def test_colours(yuv, matrix, full_range, bgr):
    pixels = prepare(flat(*yuv, matrix, full_range), 64).bgr
    assert np.abs(pixels.astype(int) - bgr).max() <= 2


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_every_pixel_against_float64(matrix, full_range):
    """Chroma constant, luma random, no resizing: only the matrix and rounding are left."""
    rng = np.random.default_rng(1)
    luma = rng.integers(0, 256, (64, 64), np.uint8)
    for u, v in rng.integers(0, 256, (20, 2)):
        half = np.ones((32, 32), np.uint8)
        picture = Picture(luma, half * np.uint8(u), half * np.uint8(v), matrix, full_range)
        kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
        y = luma / 255 if full_range else (luma - 16.0) / 219
        cb, cr = ((c - 128) / (255 if full_range else 224) for c in (float(u), float(v)))
        red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
        green = (y - kr * red - kb * blue) / (1 - kr - kb)
        wanted = np.clip(np.stack([blue, green, red], axis=2) * 255, 0, 255)
        assert np.abs(prepare(picture, 64).bgr - wanted).max() <= 1


@given(width=SIDES, height=SIDES, long_side=st.sampled_from([32, 96, 416]))
def test_sizes_are_multiples_of_32_and_the_rest_is_black(width, height, long_side):
    prepared = prepare(noise(height, width), long_side)
    inner_width, inner_height = prepared.inner
    assert max(prepared.inner) == long_side
    assert prepared.bgr.shape == (padded(inner_height), padded(inner_width), 3)
    assert not prepared.bgr[inner_height:].any()
    assert not prepared.bgr[:, inner_width:].any()


@given(
    width=SIDES,
    height=SIDES,
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    long_side=st.sampled_from([96, 416]),
)
def test_boxes_come_back_where_they_were(width, height, corners, long_side):
    prepared = prepare(noise(height, width), long_side)
    there = np.array([corners], np.float32) * np.array(prepared.inner * 2, np.float32)
    back = to_source(there, prepared)
    wanted = np.array([corners]) * (width, height, width, height)
    np.testing.assert_allclose(back, wanted, rtol=1e-5, atol=1e-3)


def test_boxes_are_cut_at_the_border():
    prepared = prepare(noise(100, 200), 416)
    boxes = np.array([[-50, -50, 10_000, 10_000]], np.float32)
    assert to_source(boxes, prepared).tolist() == [[0, 0, 200, 100]]


def test_halving_is_the_mean_of_four():
    picture = noise(64, 128)
    grey = Picture(
        picture.y, np.full_like(picture.u, 128), np.full_like(picture.v, 128), "bt601", True
    )
    wanted = picture.y.reshape(32, 2, 64, 2).mean(axis=(1, 3))
    assert np.abs(prepare(grey, 64).bgr[..., 0] - wanted).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (432, 768), (333, 777), (130, 160)])
def test_a_ramp_stays_a_ramp(height, width):
    """A picture that brightens evenly shows any shift or wrong scale: a pixel is 255/width."""
    ramp = np.linspace(0, 255, width)[None].repeat(height, 0).round().astype(np.uint8)
    half = ((height + 1) // 2, (width + 1) // 2)
    grey = np.full(half, 128, np.uint8)
    prepared = prepare(Picture(ramp, grey, grey, "bt601", True), 416)
    centre = (np.arange(416) + 0.5) * width / 416 - 0.5
    wanted = np.clip(centre, 0, width - 1) * 255 / (width - 1)
    inside = prepared.bgr[: prepared.inner[1], :, 1]
    assert np.abs(inside - wanted).max() <= 1.6


def test_colour_lies_where_the_brightness_lies():
    """A coloured square keeps its place: chroma planes are resized to the same grid as luma."""
    bgr = np.full((432, 768, 3), 40, np.uint8)
    bgr[100:300, 200:500] = (30, 60, 220)
    prepared = prepare(from_bgr(bgr), 416)
    rows, columns = np.nonzero(prepared.bgr[..., 2] > 130)
    scale = 416 / 768
    np.testing.assert_allclose(
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1],
        np.array([200, 100, 500, 300]) * scale,
        atol=1.01,
    )


def test_rows_apart_in_memory_give_the_same():
    picture = noise(60, 90)
    wide = np.zeros((60, 128), np.uint8)
    wide[:, :90] = picture.y
    strided = Picture(wide[:, :90], picture.u, picture.v, "bt601", True)
    assert (prepare(strided, 96).bgr == prepare(picture, 96).bgr).all()


@st.composite
def parts(draw):
    """A size, no strip, and a rectangle of its prepared picture on multiples of 32."""
    width, height = draw(st.integers(64, 800)), draw(st.integers(64, 800))
    inner = inner_size(width, height, 416)
    across = sorted(draw(st.lists(st.integers(0, -(-inner[0] // 32)), min_size=2, max_size=2)))
    down = sorted(draw(st.lists(st.integers(0, -(-inner[1] // 32)), min_size=2, max_size=2)))
    assume(across[0] < across[1] and down[0] < down[1])
    return width, height, tuple(32 * edge for edge in (across[0], down[0], across[1], down[1]))


@given(part=parts())
@example(part=(106, 411, (0, 0, 32, 32)))
@example(part=(68, 410, (0, 0, 32, 32)))
@example(part=(410, 410, (32, 64, 64, 96)))
def test_a_part_is_the_whole_there(part):
    width, height, rect = part
    picture = smooth(height, width)
    left, top, right, bottom = rect
    there = prepare(picture, 416).bgr[top:bottom, left:right]
    found = prepare(picture, 416, rect)
    assert found.offset == (left, top)
    assert np.abs(found.bgr.astype(int) - there).max() <= 4
    assert np.mean(found.bgr != there) < 2e-2


@pytest.mark.parametrize("long_side", [416, 832])
@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (720, 1280), (432, 768), (360, 640), (480, 640)]
)
def test_a_part_of_an_usual_size_is_the_whole_bit_by_bit(height, width, long_side):
    picture = noise(height, width)
    whole = prepare(picture, long_side).bgr
    for rect in ((0, 0, 96, 96), (64, 32, 224, 192), (256, 128, 416, whole.shape[0] // 32 * 32)):
        left, top, right, bottom = rect
        part = prepare(picture, long_side, rect).bgr
        assert np.mean(part != whole[top:bottom, left:right]) < 1e-3
        assert np.abs(part.astype(int) - whole[top:bottom, left:right]).max() <= 2


def test_boxes_of_a_part_are_the_whole_pictures():
    part = prepare(noise(416, 832), 416, (64, 32, 160, 128))
    box = np.array([[0, 0, 10, 20]], np.float32)
    assert to_source(box, part).tolist() == [[128, 64, 148, 104]]


def test_inner_size_by_hand():
    assert inner_size(1920, 1080, 416) == (416, 234)
    assert inner_size(480, 640, 640) == (480, 640)
    assert inner_size(10_000, 1, 416) == (416, 1)
    assert [padded(n) for n in (1, 31, 32, 33, 234)] == [32, 32, 32, 64, 256]
