"""Coded pictures: any decoder reads them, the planes come back as they were, damage is an error."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureDamaged
from framegate.models.picture import Picture
from framegate.models.picture_coding import (
    Coding,
    decode,
    decode_exact,
    encode,
    encode_exact,
    even,
    placed,
)

BEST = Coding(scale=1)


def smooth(width: int, height: int) -> Picture:
    """Gradients that JPEG keeps well; every plane another."""
    rows, columns = np.mgrid[0:height, 0:width]
    half_rows, half_columns = np.mgrid[0 : (height + 1) // 2, 0 : (width + 1) // 2]
    return Picture(
        (30 + rows % 100 + columns % 100).astype(np.uint8),
        (60 + half_columns % 128).astype(np.uint8),
        (200 - half_rows % 128).astype(np.uint8),
        "bt709",
        False,
    )


@given(st.integers(1, 90), st.integers(1, 90))
@settings(deadline=None, max_examples=40)
def test_planes_of_any_size_come_back_nearly_as_they_were(width: int, height: int) -> None:
    picture = smooth(width, height)
    back = decode(encode(picture, BEST), "bt709", False)
    assert (back.matrix, back.full_range) == ("bt709", False)
    for before, after in ((picture.y, back.y), (picture.u, back.u), (picture.v, back.v)):
        assert after.shape == before.shape
        assert np.abs(after.astype(int) - before).max() <= 12
        assert np.abs(after.astype(int) - before).mean() <= 2.5


def test_another_decoder_reads_the_same() -> None:
    """OpenCV's libjpeg as oracle: its grey picture is the file's luma."""
    picture = smooth(160, 90)
    grey = cv2.imdecode(np.frombuffer(encode(picture, BEST), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    assert np.abs(grey.astype(int) - decode(encode(picture, BEST), "bt709", False).y).max() <= 3


def test_a_large_picture_is_shrunk_a_small_one_is_not() -> None:
    tall = decode(encode(smooth(300, 600), Coding(longest=200)), "bt709", False)
    assert (tall.width, tall.height) == (100, 200)
    small = decode(encode(smooth(30, 20), Coding(longest=200)), "bt709", False)
    assert (small.width, small.height) == (30, 20)


def test_a_coarser_scale_takes_fewer_bytes() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (96, 96)).astype(np.uint8)
    picture = Picture(noise, noise[:48, :48], noise[48:, 48:], "bt601", True)
    sizes = [len(encode(picture, Coding(scale))) for scale in (1, 2, 5, 31)]
    assert sizes == sorted(sizes, reverse=True)
    assert encode(picture) == encode(picture)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_every_bit_comes_back_where_it_has_to(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = (height + 1) // 2, (width + 1) // 2
    y, u, v = (
        rng.integers(0, 256, size).astype(np.uint8) for size in ((height, width), half, half)
    )
    picture = Picture(y, u, v, "bt709", True)
    back = decode_exact(encode_exact(picture), (width, height), "bt709", True)
    for before, after in ((y, back.y), (u, back.u), (v, back.v)):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff"])
def test_damaged_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(PictureDamaged):
        decode(data, "bt709", False)
    with pytest.raises(PictureDamaged):
        decode_exact(data, (32, 32), "bt709", False)


def test_a_picture_with_other_planes_is_refused() -> None:
    full = cv2.imencode(
        ".jpg", np.zeros((16, 16, 3), np.uint8), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    )[1]
    with pytest.raises(PictureDamaged):
        decode(full.tobytes(), "bt709", False)


def test_a_part_begins_where_a_colour_sample_does() -> None:
    assert even((3, 4, 9, 9)) == (2, 4, 9, 9)


def test_boxes_are_placed_where_the_picture_was() -> None:
    boxes = Boxes(
        np.array([[0, 0, 10, 20]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)
    )
    there = placed(boxes, (100, 50), (200, 100, 400, 200))
    assert there.xyxy.tolist() == [[200, 100, 220, 140]]
