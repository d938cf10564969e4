"""Cameras of the benchmark `floor`: what they show, when, and how often a process waits."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from benchmarks.floor import PLAN, Series, config_text, played, series_of
from benchmarks.floor.cameras import make_cameras, name
from benchmarks.harness.process_tree import switches
from tests.support import footage


@pytest.mark.parametrize("codec_options", [{"bf": "0"}, {"bf": "2"}])
def test_cameras_show_the_clip_at_their_rate_each_with_a_phase_of_its_own(
    tmp_path: Path, codec_options: dict[str, str]
) -> None:
    clip = tmp_path / "clip.mp4"
    options = {"g": "8", "keyint_min": "8", "sc_threshold": "0", **codec_options}
    footage.write_scene(clip, footage.steady(24, 25.0), (96, 64), "libx264", options)
    make_cameras(clip, tmp_path, height=64, fps=10.0, count=4, s=6.0)
    for number in range(4):
        with av.open(str(tmp_path / name(number))) as shown:
            frames = list(shown.decode(video=0))
        times = [frame.pts * frame.time_base for frame in frames]
        assert len(times) == 60
        gaps = [float(later - before) for before, later in pairwise(times)]
        assert gaps[0] == pytest.approx(0.1 * (1 + number / 4), abs=1e-3)
        # The clip ends in the middle of a group, of which pictures may be missing.
        assert gaps[1:-3] == pytest.approx([0.1] * 55, abs=1e-3)
        assert frames[0].key_frame
        assert all(isinstance(each, Fraction) for each in times)


def test_a_wait_is_a_switch() -> None:
    before = switches(os.getpid())
    time.sleep(0.001)
    assert switches(os.getpid()) > before


def test_a_word_says_a_series_of_points() -> None:
    assert series_of("busy-1080-12.5-rtsp:8,1,8") == Series("busy", 1080, 12.5, "rtsp", (1, 8))
    assert series_of("quiet-432-5:4") == Series("quiet", 432, 5.0, "files", (4,))
    for word in PLAN:
        assert series_of(word).cameras
    for wrong in ("empty-432-5:4", "quiet-432:4", "quiet-432-5", "quiet-432-5-http:4"):
        with pytest.raises(ValueError, match="allowed"):
            series_of(wrong)


def test_files_keep_their_pace_and_cameras_have_one_of_their_own(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    footage.write_scene(clip, footage.steady(24, 25.0), (96, 64), "libx264", {"g": "8"})
    make_cameras(clip, tmp_path, height=64, fps=10.0, count=2, s=3.0)
    with played(tmp_path, series_of("quiet-64-10:2")) as files:
        assert config_text(files, "packaged").count('pace = "realtime"') == 2
    with played(tmp_path, series_of("quiet-64-10-rtsp:2")) as urls:
        assert "pace" not in config_text(urls, "packaged")
        for url in urls:
            with av.open(url) as shown:
                assert next(shown.decode(video=0)).height == 64
