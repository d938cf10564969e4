"""Bytes of a picture, by footage whose planes are known: lossless codecs and plain arithmetic."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from framegate.pipeline.contracts.source import Form
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.frame import DecodedFrame, orientation_by
from tests.support import footage

SIZE = 48, 32


def planes_of(picture) -> list[np.ndarray]:
    slot = np.zeros(picture.nbytes, np.uint8)
    picture.write(memoryview(slot))
    height, width = picture.form.height, picture.form.width
    half = (height + 1) // 2, (width + 1) // 2
    luma, rest = slot[: height * width], slot[height * width :]
    blue, red = np.split(rest, 2)
    return [luma.reshape(height, width), blue.reshape(half), red.reshape(half)]


def first_of(path) -> DecodedFrame:
    source = FileSource(str(path))
    picture = next(iter(source))
    source.close()
    return picture


def through(tmp_path, planes, pix_fmt, codec="ffv1", setup=None) -> DecodedFrame:
    frame = footage.frame_of(planes, pix_fmt)
    return first_of(footage.write_frames(tmp_path / "a.mkv", [frame], [0.0], codec, setup=setup))


def noise(*shape: int, top: int = 255, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(16, top, shape).astype(kind)


def mean_of_pairs(plane: np.ndarray, axis: int) -> np.ndarray:
    even = plane.astype(float)
    return (
        even.take(range(0, plane.shape[axis], 2), axis)
        + even.take(range(1, plane.shape[axis], 2), axis)
    ) / 2


@pytest.mark.parametrize("size", [(48, 32), (47, 31), (1, 1), (131, 64)])
def test_420_is_copied_to_the_byte(tmp_path, size):
    width, height = size
    half = (height + 1) // 2, (width + 1) // 2
    planes = [noise(height, width), noise(*half), noise(*half)]
    picture = through(tmp_path, planes, "yuv420p")
    assert picture.nbytes == sum(p.size for p in planes)
    for got, expected in zip(planes_of(picture), planes, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_422_averages_two_rows_of_chroma(tmp_path):
    planes = [noise(32, 48), noise(32, 24), noise(32, 24)]
    luma, blue, red = planes_of(through(tmp_path, planes, "yuv422p"))
    np.testing.assert_array_equal(luma, planes[0])
    assert np.abs(blue - mean_of_pairs(planes[1], 0)).max() <= 0.5
    assert np.abs(red - mean_of_pairs(planes[2], 0)).max() <= 0.5


def test_444_averages_four_samples_of_chroma(tmp_path):
    planes = [noise(32, 48), noise(32, 48), noise(32, 48)]
    luma, blue, red = planes_of(through(tmp_path, planes, "yuv444p"))
    np.testing.assert_array_equal(luma, planes[0])
    assert np.abs(blue - mean_of_pairs(mean_of_pairs(planes[1], 0), 1)).max() <= 0.5
    assert np.abs(red - mean_of_pairs(mean_of_pairs(planes[2], 0), 1)).max() <= 0.5


def test_ten_bits_become_eight(tmp_path):
    planes = [noise(32, 48, top=1000, kind=np.uint16)] + [
        noise(16, 24, top=1000, kind=np.uint16)
    ] * 2
    for got, expected in zip(
        planes_of(through(tmp_path, planes, "yuv420p10le")), planes, strict=True
    ):
        assert np.abs(got - expected / 4.0).max() <= 1


def test_gray_gets_neutral_chroma_and_its_full_range(tmp_path):
    luma = noise(31, 47)
    picture = through(tmp_path, [luma], "gray")
    got = planes_of(picture)
    np.testing.assert_array_equal(got[0], luma)
    assert (got[1] == 128).all()
    assert (got[2] == 128).all()
    assert picture.form == Form(47, 31, "bt601", full_range=True)


def test_nv12_is_taken_apart():
    luma, both = noise(32, 48), noise(16, 48)
    frame = footage.frame_of([luma, both], "nv12")
    got = planes_of(DecodedFrame(frame, VideoReformatter()))
    for plane, expected in zip(got, [luma, both[:, 0::2], both[:, 1::2]], strict=True):
        np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize(("height", "kr", "kb"), [(32, 0.299, 0.114), (720, 0.2126, 0.0722)])
def test_rgb_becomes_full_range_yuv_by_the_matrix_of_its_size(height, kr, kb):
    colour = np.array([200, 90, 30])
    frame = av.VideoFrame.from_ndarray(
        np.broadcast_to(colour, (height, 48, 3)).astype(np.uint8).copy(), format="rgb24"
    )
    picture = DecodedFrame(frame, VideoReformatter())
    assert picture.form == Form(48, height, "bt709" if height >= 720 else "bt601", full_range=True)
    y = kr * colour[0] + (1 - kr - kb) * colour[1] + kb * colour[2]
    expected = y, 128 + (colour[2] - y) / (2 - 2 * kb), 128 + (colour[0] - y) / (2 - 2 * kr)
    for plane, value in zip(planes_of(picture), expected, strict=True):
        assert np.abs(plane - value).max() <= 1.5


@pytest.mark.parametrize("pix_fmt", ["yuvj422p", "yuvj444p"])
def test_jpeg_formats_keep_their_range(pix_fmt):
    values = 3, 7, 250
    columns = 24 if pix_fmt == "yuvj422p" else 48
    planes = [np.full((32, 48), values[0], np.uint8)]
    planes += [np.full((32, columns), value, np.uint8) for value in values[1:]]
    picture = DecodedFrame(footage.frame_of(planes, pix_fmt), VideoReformatter())
    assert picture.form.full_range
    for plane, value in zip(planes_of(picture), values, strict=True):
        assert (plane == value).all()


@pytest.mark.parametrize(
    ("colorspace", "color_range", "size", "expected"),
    [
        (2, 0, (48, 32), ("bt601", False)),
        (2, 0, (48, 718), ("bt601", False)),
        (2, 0, (48, 720), ("bt709", False)),
        (1, 1, (48, 32), ("bt709", False)),
        (5, 2, (48, 720), ("bt601", True)),
        (6, 0, (48, 720), ("bt601", False)),
    ],
)
def test_matrix_and_range_are_what_the_stream_says(
    tmp_path, colorspace, color_range, size, expected
):
    def say(stream: av.VideoStream) -> None:
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = color_range

    frame = footage.frame_of(footage.scene(0, size), "yuv420p")
    path = footage.write_frames(tmp_path / "a.mkv", [frame], [0.0], "libx264", setup=say)
    form = first_of(path).form
    assert (form.matrix, form.full_range) == expected


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("size", [(48, 32), (46, 34)])
def test_a_turned_picture_is_given_upright(tmp_path, degrees, size, suffix):
    options = {"qp": "0", "preset": "ultrafast"}
    frame = footage.frame_of(footage.scene(3, size), "yuv420p")
    stored = footage.write_frames(tmp_path / f"a.{suffix}", [frame], [0.0], "libx264", options)
    turned = footage.write_frames(
        tmp_path / f"b.{suffix}", [frame], [0.0], "libx264", options, rotation=degrees
    )
    picture = first_of(turned)
    flat = planes_of(first_of(stored))
    width, height = size if degrees in (0, 180) else size[::-1]
    assert (picture.form.width, picture.form.height) == (width, height)
    assert picture.rotation == (360 - degrees) % 360
    for got, plane in zip(planes_of(picture), flat, strict=True):
        np.testing.assert_array_equal(got, np.rot90(plane, degrees // 90))


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "expected"),
    [
        (0, True, False, np.fliplr),
        (0, False, True, np.flipud),
        (90, True, False, lambda plane: np.fliplr(np.rot90(plane))),
        (90, False, True, lambda plane: np.flipud(np.rot90(plane))),
    ],
)
def test_a_mirrored_picture_is_given_as_it_is_to_be_seen(tmp_path, degrees, hflip, vflip, expected):
    options = {"qp": "0", "preset": "ultrafast"}
    frame = footage.frame_of(footage.scene(3, SIZE), "yuv420p")
    flat, mirrored = (
        footage.write_frames(tmp_path / name, [frame], [0.0], "libx264", options, setup=setup)
        for name, setup in (
            ("a.mp4", None),
            ("b.mp4", lambda stream: stream.set_display_rotation(degrees, hflip, vflip)),
        )
    )
    for got, plane in zip(planes_of(first_of(mirrored)), planes_of(first_of(flat)), strict=True):
        np.testing.assert_array_equal(got, expected(plane))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_picture_is_turned_by_its_exif_orientation(tmp_path, orientation, turns):
    raw = footage.write_sizes(tmp_path / "a.mjpeg", [SIZE], 1, codec="mjpeg").read_bytes()
    tag = struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = struct.pack(">HH6s", 0xFFE1, len(tag) + 8, b"Exif\0\0") + tag
    (tmp_path / "b.mjpeg").write_bytes(raw[:2] + segment + raw[2:])
    flat, turned = (planes_of(first_of(tmp_path / f"{name}.mjpeg")) for name in "ab")
    for got, plane in zip(turned, flat, strict=True):
        np.testing.assert_array_equal(got, np.rot90(plane, turns))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 0, 1), [[1, 2, 3], [4, 5, 6]]),
        ((-1, 0, 0, 0, 1), [[3, 2, 1], [6, 5, 4]]),
        ((1, 0, 0, 0, -1), [[4, 5, 6], [1, 2, 3]]),
        ((-1, 0, 0, 0, -1), [[6, 5, 4], [3, 2, 1]]),
        ((0, 1, 0, -1, 0), [[4, 1], [5, 2], [6, 3]]),
        ((0, -1, 0, 1, 0), [[3, 6], [2, 5], [1, 4]]),
        ((0, 1, 0, 1, 0), [[1, 4], [2, 5], [3, 6]]),
        ((0, -1, 0, -1, 0), [[6, 3], [5, 2], [4, 1]]),
    ],
)
def test_display_matrix(matrix, expected):
    plane = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    turn = orientation_by(matrix)
    out = np.zeros(turn.shape(plane), np.uint8)
    turn.copy(plane, out)
    np.testing.assert_array_equal(out, expected)


def test_a_slot_may_be_longer_but_not_shorter(tmp_path):
    picture = first_of(footage.write_scene(tmp_path / "a.mkv", [0.0], size=SIZE))
    slot = bytearray(b"\xaa" * (picture.nbytes + 5))
    picture.write(memoryview(slot))
    assert slot[-5:] == b"\xaa" * 5
    with pytest.raises(ValueError, match="buffer is smaller"):
        picture.write(memoryview(slot)[: picture.nbytes - 1])
    with pytest.raises(ValueError, match="read-only"):
        picture.write(memoryview(bytes(slot)))
