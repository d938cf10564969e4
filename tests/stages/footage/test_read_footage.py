"""Which pictures of footage are read, and that they are the file's own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from framegate.models.picture import Picture
from framegate.pipeline.contracts.errors import ConfigFaults, SourceFault
from framegate.stages.footage.footage import evenly, grey_of, has_moved, read_footage, shares
from tests.support.footage import LOSSLESS, frame_of, scene, steady, write_frames

SIZE = (192, 108)


def _video(path: Path, moments: list[int], **more: object) -> Path:
    """A video whose n-th frame shows the scene at moments[n]."""
    frames = [frame_of(scene(n, SIZE), "yuv420p") for n in moments]
    return write_frames(path, frames, steady(len(frames)), LOSSLESS, **more)  # type: ignore[arg-type]


def test_every_picture_is_the_files_own_at_its_time(tmp_path: Path) -> None:
    moments = list(range(0, 60, 3))
    footage = read_footage([str(_video(tmp_path / "shop.mkv", moments))], most=100)
    assert footage.sources == ("shop",)
    read = list(footage)
    assert len(read) == len(footage) == len(moments)
    for n, (frame, moment) in enumerate(zip(read, moments, strict=True)):
        assert np.array_equal(frame.picture.y, scene(moment, SIZE)[0])
        assert frame.moment_s == pytest.approx(n / 25)
        assert (frame.source, frame.known) == ("shop", None)
    assert [one.moment_s for one in footage] == [one.moment_s for one in read]


def test_what_did_not_move_is_left_out(tmp_path: Path) -> None:
    moments = [0] * 20 + [20] * 20 + [40] * 20
    [first, second, third] = read_footage([str(_video(tmp_path / "a.mkv", moments))], most=60)
    assert [first.moment_s, second.moment_s, third.moment_s] == pytest.approx([0, 0.8, 1.6])


def test_of_a_long_file_evenly_spaced_ones(tmp_path: Path) -> None:
    path = _video(tmp_path / "a.mkv", [3 * n for n in range(200)])
    at_s = [frame.moment_s for frame in read_footage([str(path)], most=9)]
    assert len(at_s) == 9
    assert at_s[0] == 0
    assert at_s[-1] == pytest.approx(199 / 25)
    steps = np.diff(at_s)
    assert steps.max() - steps.min() <= 0.81  # of the 18 that were looked at, every second


def test_where_key_frames_are_enough_only_they_are_decoded(tmp_path: Path) -> None:
    frames = [frame_of(scene(3 * n, SIZE), "yuv420p") for n in range(100)]
    path = write_frames(tmp_path / "a.mp4", frames, steady(100), options={"g": "5", "bf": "0"})
    at_s = [frame.moment_s for frame in read_footage([str(path)], most=10)]
    assert len(at_s) == 10
    assert all((Fraction(round(25 * at), 1) % 5) == 0 for at in at_s)


def test_a_short_file_is_not_pushed_out_by_a_long_one(tmp_path: Path) -> None:
    long = _video(tmp_path / "long.mkv", [3 * n for n in range(100)])
    short = _video(tmp_path / "short.mkv", [3 * n for n in range(8)])
    read = list(read_footage([str(long), f"gate={short}"], most=20))
    assert [frame.source for frame in read] == ["long"] * 12 + ["gate"] * 8


@pytest.mark.parametrize(
    ("counts", "most", "given"),
    [
        ([100, 8], 20, [12, 8]),
        ([100, 100], 20, [10, 10]),
        ([5, 0, 3], 20, [5, 0, 3]),
        ([9, 9, 9], 2, [1, 1, 0]),
        ([], 5, []),
    ],
)
def test_shares_are_as_equal_as_they_can_be(counts: list[int], most: int, given: list[int]) -> None:
    assert shares(counts, most) == given


def test_evenly_keeps_the_ends() -> None:
    assert evenly(range(101), 5) == [0, 25, 50, 75, 100]
    assert evenly([1, 2], 5) == [1, 2]


def test_a_move_is_more_than_four_in_a_thousand_by_more_than_ten_levels() -> None:
    still = np.full((540, 960), 100, np.uint8)
    colour = np.full((270, 480), 128, np.uint8)
    last = grey_of(Picture(still, colour, colour))
    assert last.shape == (54, 96)
    moved = still.copy()
    moved[:, :40] = 110  # ten levels are none
    assert not has_moved(last, grey_of(Picture(moved, colour, colour)))
    moved[:30, :70] = 111  # 3 x 7 of 5184 pixels
    assert has_moved(last, grey_of(Picture(moved, colour, colour)))
    moved[:30, 60:] = still[:30, 60:]  # 3 x 6
    moved[:30, 40:60] = 111
    assert not has_moved(last, grey_of(Picture(moved, colour, colour)))
    assert has_moved(None, last)


def test_what_is_no_footage_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="a camera; allowed are video files"):
        read_footage(["rtsp://door/1"])
    with pytest.raises(ConfigFaults, match="no file matches"):
        read_footage([str(tmp_path / "*.mp4")])
    with pytest.raises(SourceFault, match="no such file"):
        read_footage([str(tmp_path / "none.mp4")])
    (tmp_path / "a.mp4").write_bytes(b"nothing of a video")
    with pytest.raises(SourceFault, match="not a video"):
        read_footage([str(tmp_path / "a.mp4")])
