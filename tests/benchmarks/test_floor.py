"""Cameras of the benchmark `floor`: what they show, when, and how often a process waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import av
import pytest

from benchmarks.floor import PLAN, Series, config_text, confined, played, series_of, whole_looks
from benchmarks.floor.cameras import make_cameras, name
from benchmarks.floor.flames import stacks_of, svg_of
from benchmarks.harness.process_tree import switches, system_calls
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


def test_what_runs_confined_has_one_core() -> None:
    before = os.sched_getaffinity(0)
    asked = (sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))")
    with confined(True):
        assert subprocess.run(asked, capture_output=True, check=True).stdout == b"1\n"
    assert os.sched_getaffinity(0) == before


def test_system_calls_are_those_that_a_process_makes() -> None:
    busy = "import os\nprint(flush=True)\nwhile True: os.getppid()"
    with subprocess.Popen((sys.executable, "-c", busy), stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        counted = system_calls(caller.pid, 1.0)
        caller.kill()
    if counted is None:
        pytest.skip("perf is not here, or may not count system calls")
    assert counted > 100


def test_a_word_says_a_series_of_points() -> None:
    assert series_of("busy-1080-12.5-rtsp:8,1,8") == Series("busy", 1080, 12.5, "rtsp", (1, 8))
    assert series_of("quiet-432-5:4") == Series("quiet", 432, 5.0, "files", (4,))
    assert series_of("bottles-360-30-core:1") == Series("bottles", 360, 30.0, "files", (1,), True)
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


def test_a_look_at_parts_counts_by_its_pixels() -> None:
    found = {"looked": 0.5, "looked_whole": 0.2}
    assert whole_looks(found, 0.4) == pytest.approx(0.2 + 0.3 * 0.4)
    assert whole_looks(found, 0.0) == 0.2
    assert whole_looks({"looked": 0.19, "looked_whole": 0.2}, 0.4) == 0.2  # rounded


RAW = """\
process 7:"python -m framegate.cli run";process 8:\
"python -m framegate.pipeline.run.worker_main \
shard-1 14 7";main (framegate/pipeline/run/worker_main.py:3);\
Loop.turn (framegate/pipeline/loop.py:9);\
look <a> (framegate/stages/look.py:2) 60
process 7:"python -m framegate.cli run";process 8:\
"python -m framegate.pipeline.run.worker_main \
shard-1 14 7";main (framegate/pipeline/run/worker_main.py:3);\
Loop.turn (framegate/pipeline/loop.py:10) 39
process 7:"python -m framegate.cli run";process 8:\
"python -m framegate.pipeline.run.worker_main \
shard-1 14 7";Loop.turn (framegate/pipeline/loop.py:10);wait (threading.py:324) 900
process 7:"python -m framegate.cli run";beat (framegate/pipeline/run.py:2) 1
"""


def test_a_flame_is_as_wide_as_its_samples_and_waiting_has_none() -> None:
    stacks = stacks_of(RAW)
    turn, look = "Loop.turn (pipeline/loop.py)", "look <a> (stages/look.py)"
    assert stacks == {
        ("shard-1", turn, look): 60,
        ("shard-1", turn): 39,
        ("supervisor", "beat (pipeline/run.py)"): 1,
    }
    drawn = ElementTree.fromstring(svg_of(stacks, "a & b"))  # our own
    space = "{http://www.w3.org/2000/svg}"
    said = {box[0].text: float(box[1].get("width", 0)) for box in drawn.iter(f"{space}g")}
    assert list(said) == [
        "shard-1: 99.0%", f"{turn}: 99.0%", f"{look}: 60.0%",
        "supervisor: 1.0%", "beat (pipeline/run.py): 1.0%",
    ]  # fmt: skip
    assert said[f"{look}: 60.0%"] == pytest.approx(0.6 * 960, abs=1)
