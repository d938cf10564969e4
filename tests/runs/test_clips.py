"""Every clip through the whole pipeline: its frames and time stamps are those of a bare loop.

The clips are those of the data folder, and made ones where there is none. All of a test run at
once in one command, at their own pace or as fast as it goes; a stage without a network stands in
detect's place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import pytest

from tests.support import footage
from tests.support.commands import Command, Reader, user_folder
from tests.support.runs import DEADLINE_S
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

DATA = os.environ.get("FRAMEGATE_DATA")
CLIPS = sorted(Path(DATA, "clips").rglob("*.*")) if DATA else []
SHORT_S = 12.0

needs_data = pytest.mark.skipif(not CLIPS, reason="FRAMEGATE_DATA names no folder with clips/")


@cache
def bare(clip: Path) -> list[float | None]:
    """The time stamps of all frames, by the loop that everybody writes."""
    with av.open(str(clip)) as container:
        return [
            None if frame.pts is None else float(frame.pts * Fraction(frame.time_base or 0))
            for frame in container.decode(video=0)
        ]


def lasts_s(clip: Path) -> float:
    stamps = [pts for pts in bare(clip) if pts is not None]
    return max(stamps) - min(stamps)


def published_as_a_bare_loop(folder: Path, clips: Sequence[Path], pace: str) -> None:
    """One run over all clips: frames, time stamps and order of each; law 4 closed."""
    user_folder(folder)
    named = {f"clip_{n}": clip for n, clip in enumerate(clips)}
    words = [f"{name}={clip}" for name, clip in named.items()]
    seconds = max(map(lasts_s, clips)) if pace == "realtime" else 0.0
    with server(folder / "server") as store:
        given = ("run", *words, "--pace", pace, "-d", "data", "--store", store.url)
        with Command(folder, *given) as command:
            ended = command.wait(deadline_s=DEADLINE_S + 2 * seconds)
        assert ended.code == 0, ended.err
        reader = Reader(store.url)
        for name, clip in named.items():
            expected = bare(clip)
            results = reader.whole(name, len(expected))
            assert [result["pts"] for result in results] == expected, clip.name
            assert {result["outcome"] for result in results} == {"detected"}, clip.name
            assert reader.entries(name, "results")[-1][1] == "end", clip.name
        reader.close()


@pytest.mark.long  # test_decode.py decodes each of them, test_made_clips publishes what is odd
@needs_data
def test_every_clip_as_fast_as_it_goes(tmp_path: Path) -> None:
    published_as_a_bare_loop(tmp_path / "user", CLIPS, "fast")


@pytest.mark.long
@needs_data
def test_short_clips_at_their_own_pace(tmp_path: Path) -> None:
    short = [clip for clip in CLIPS if lasts_s(clip) < SHORT_S]
    assert short
    published_as_a_bare_loop(tmp_path / "user", short, "realtime")


@needs_data
@pytest.mark.long
def test_every_clip_at_its_own_pace(tmp_path: Path) -> None:
    published_as_a_bare_loop(tmp_path / "user", CLIPS, "realtime")


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    """What is odd in real footage: uneven time, B-frames, other codecs, rotation."""
    steady, few = footage.steady(50), footage.steady(20)
    uneven = [0.0, 0.04, 0.05, 0.3, 0.34, 0.341, 1.3, 1.6]
    return [
        footage.write_scene(tmp_path / "uneven.mkv", uneven),
        footage.write_scene(tmp_path / "b_frames.mp4", steady, codec="libx264"),
        footage.write_scene(tmp_path / "b_frames.avi", steady, options={"bf": "2"}),
        footage.write_scene(tmp_path / "stream.ts", steady, codec="libx264"),
        footage.write_scene(tmp_path / "hevc.mp4", few, codec="hevc"),
        footage.write_scene(tmp_path / "pictures.avi", few, codec="mjpeg"),
        footage.write_scene(tmp_path / "turned.mp4", few, rotation=90),
        footage.write_scene(tmp_path / "one.mp4", [0.0]),
    ]


@pytest.mark.parametrize("pace", ["fast", "realtime"])
def test_made_clips(tmp_path: Path, made: list[Path], pace: str) -> None:
    published_as_a_bare_loop(tmp_path / "user", made, pace)
