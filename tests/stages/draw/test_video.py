"""A video holds every frame at its own time, shows what was drawn, and plays in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import pytest

from framegate.stages.draw.canvas import line_width
from framegate.stages.draw.gate_overlay import draw
from framegate.stages.draw.objects import colour_of
from framegate.stages.draw.video import TICKS, VideoUnwritable, VideoWriter
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.drawn import plain, thing

ROOT = Path(__file__).parents[3]


def read(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Return times and RGB pictures, as any player gets them."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [float(f.pts * f.time_base) for f in frames], [
            f.to_ndarray(format="rgb24") for f in frames
        ]


CODECS = ("vp9", "mpeg4")


def write(path: Path, stamps, codec="vp9", size=(64, 48)) -> list[float]:
    with VideoWriter(path, codec) as video:
        for n, pts in enumerate(stamps):
            video.add(plain(*size, y=60 + n % 100), pts)
    return read(path)[0]


UNEVEN = [0.0, 0.04, 0.05, 0.3, 1.3, 1.3417, 1.38, 9.9, 9.95, 10.0]


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_keeps_its_own_time(tmp_path, codec):
    assert write(tmp_path / "a.mp4", UNEVEN, codec) == pytest.approx(UNEVEN, abs=0.5 / TICKS)
    many = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.5], 300)).tolist()
    assert write(tmp_path / "b.mp4", many, codec) == pytest.approx(many, abs=0.5 / TICKS)
    broadcast = [n * 1001 / 30000 for n in range(90)]
    assert write(tmp_path / "c.mp4", broadcast, codec) == pytest.approx(broadcast, abs=1e-9)


def test_a_pause_of_hours_is_kept(tmp_path):
    stamps = [0.0, 0.04, 30000.0, 30000.04]
    assert write(tmp_path / "a.mp4", stamps) == pytest.approx(stamps, abs=1e-4)


def test_time_that_does_not_rise_is_repaired_and_no_frame_is_lost(tmp_path):
    times = write(tmp_path / "a.mp4", [0.0, 0.08, 0.04, 0.08, 0.16, 0.12, 0.2, -5.0])
    tick = 1 / TICKS
    expected = [0.0, 0.08, 0.08 + tick, 0.08 + 2 * tick, 0.16, 0.16 + tick, 0.2, 0.2 + tick]
    assert times == pytest.approx(expected, abs=1e-9)


def test_missing_time_goes_on_by_the_last_step(tmp_path):
    assert write(tmp_path / "a.mp4", [None] * 4) == pytest.approx([0.0, 0.04, 0.08, 0.12])
    times = write(tmp_path / "b.mp4", [1.0, 1.5, None, None, 4.0])
    assert times == pytest.approx([1.0, 1.5, 2.0, 2.5, 4.0])


def test_the_last_frame_is_seen_as_long_as_the_one_before(tmp_path):
    write(tmp_path / "a.mp4", [0.0, 0.5, 1.0])
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration == pytest.approx(1.5 * av.time_base, abs=1000)


@pytest.mark.parametrize("codec", CODECS)
def test_it_is_a_plain_mp4_without_x264(tmp_path, codec):
    write(tmp_path / "a.mp4", [0.0, 0.04], codec)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == codec
        assert container.metadata["comment"] == f"Framegate {version('framegate')}"
    names = boxes_of((tmp_path / "a.mp4").read_bytes())
    assert names[-1] == b"moov"
    assert b"moof" not in names


def boxes_of(data: bytes) -> list[bytes]:
    """Return the names of an MP4's outermost boxes."""
    names, at = [], 0
    while at < len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += int.from_bytes(data[at + 8 : at + 16], "big") if length == 1 else length
        names.append(name)
    return names


@pytest.mark.parametrize("size", [(160, 130), (641, 359), (1920, 1080)])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_a_box_is_seen_in_its_tracks_colour(tmp_path, size, full_range, matrix):
    width, height = size
    left, top, right, bottom = width // 4, height // 3, width // 2, height * 2 // 3
    picture = plain(width, height, 90, matrix, full_range)
    with VideoWriter(tmp_path / "a.mp4") as video:
        video.add(draw(picture, [thing((left, top, right, bottom), track=7)]), 0.0)
    _, (seen,) = read(tmp_path / "a.mp4")
    wide = line_width(picture)
    edge = seen[(top + bottom) // 2 : bottom - 2 * wide, left : left + wide].mean(axis=(0, 1)) / 255
    # Chroma is stored for 2x2 pixels, so a line one pixel wide is somewhat paler than its colour.
    assert edge == pytest.approx(colour_of(7), abs=0.25 if wide == 1 else 0.12)
    grey = (90 - 16) / 219 if not full_range else 90 / 255
    inside = seen[(top + bottom) // 2, (left + right) // 2] / 255
    assert inside == pytest.approx([grey] * 3, abs=0.03)


def test_a_picture_of_another_size_is_fitted_in_with_bars(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as video:
        video.add(plain(96, 64, 200), 0.0)
        video.add(plain(64, 128, 200), 0.1)
        video.add(plain(31, 17, 200), 0.2)
    times, (_, tall, small) = read(tmp_path / "a.mp4")
    assert times == pytest.approx([0.0, 0.1, 0.2])
    assert tall.shape == small.shape == (64, 96, 3)
    assert tall[32, 48].min() > 180
    assert tall[32, [4, 92]].max() < 40
    assert small[32, [4, 92]].min() > 180
    assert small[[2, 62], 48].max() < 40


def test_no_frame_leaves_no_file(tmp_path):
    VideoWriter(tmp_path / "a.mp4").close()
    assert not (tmp_path / "a.mp4").exists()


def test_a_closed_video_takes_no_frame(tmp_path):
    video = VideoWriter(tmp_path / "a.mp4")
    video.add(plain(16, 16), 0.0)
    video.close()
    video.close()
    with pytest.raises(ValueError, match="closed"):
        video.add(plain(16, 16), 1.0)


@pytest.mark.parametrize("place", ["none/a.mp4", "."])
def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path, place):
    with pytest.raises(VideoUnwritable, match="cannot be written"):
        VideoWriter(tmp_path / place)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_clear_error():
    video = VideoWriter("/dev/full")
    with pytest.raises(VideoUnwritable, match="No space left on device"):
        fill(video)
    video.close()


def fill(video: VideoWriter) -> None:
    for n in range(100):
        video.add(plain(64, 48), n / 25)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


NOISE = """
    import os, resource, signal, sys
    import numpy as np
    from framegate.models.picture import Picture
    from framegate.stages.draw.save import VideoWriter, VideoUnwritable
    rng = np.random.default_rng(0)
    def noise():
        half = rng.integers(0, 255, (60, 80), dtype=np.uint8)
        return Picture(rng.integers(0, 255, (120, 160), dtype=np.uint8), half, half)
    video = VideoWriter(sys.argv[1], *sys.argv[2:])
"""


def test_a_disk_that_fills_up_leaves_what_was_written_playable(tmp_path):
    done = run(
        NOISE
        + """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
    try:
        for n in range(1000):
            video.add(noise(), n / 25)
    except VideoUnwritable as error:
        print(error)
    video.close()
    """,
        str(tmp_path / "a.mp4"),
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    times, _ = read(tmp_path / "a.mp4")
    assert times == pytest.approx([n / 25 for n in range(len(times))])
    assert len(times) > 12


def kill_after(frames: int, path: Path, codec: str) -> None:
    """Write frames of noise, and be killed."""
    done = run(
        NOISE
        + f"""
    for n in range({frames}):
        video.add(noise(), n / 25)
    os.kill(os.getpid(), signal.SIGKILL)
    """,
        str(path),
        codec,
    )
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize("codec", CODECS)
def test_a_kill_leaves_what_was_written_playable(tmp_path, codec):
    kill_after(120, tmp_path / "a.mp4", codec)
    times, _ = read(tmp_path / "a.mp4")
    assert times == pytest.approx([n / 25 for n in range(len(times))])
    assert len(times) > 60  # a fragment a second, and what the encoder held


def test_a_camera_of_few_frames_a_second_loses_few_by_a_kill(tmp_path):
    """However far its key frames are apart."""
    done = run(
        NOISE
        + """
    for n in range(40):
        video.add(noise(), float(n))
    os.kill(os.getpid(), signal.SIGKILL)
    """,
        str(tmp_path / "a.mp4"),
    )
    assert done.returncode == -9, done.stderr
    assert len(read(tmp_path / "a.mp4")[0]) >= 36


PAGE = """<!doctype html><link rel="icon" href="data:,">
<video muted autoplay src="{name}"></video>"""


@pytest.mark.whole_run
@needs_chromium
def test_a_browser_plays_it_and_what_a_kill_left(tmp_path):
    write(tmp_path / "whole.mp4", [n / 25 for n in range(50)], size=(320, 240))
    kill_after(120, tmp_path / "killed.mp4", "vp9")
    with chromium() as browser:
        for name, least in (("whole.mp4", 1.9), ("killed.mp4", 2.0)):
            page = tmp_path / f"{name}.html"
            page.write_text(PAGE.format(name=name), encoding="utf-8")
            visit = Visit(browser, page.as_uri())
            video = "document.querySelector('video')"
            visit.until(f"{video}.ended || {video}.error")
            told = visit.look(
                f"(v => [v.error && v.error.message, v.currentTime, v.videoWidth])({video})"
            )
            assert told[0] is None
            assert told[1] >= least
            assert told[2] in (320, 160)
            assert visit.faults == []
            visit.close()
