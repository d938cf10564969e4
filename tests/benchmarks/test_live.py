"""The live benchmark: its search and its figures, its cameras, and one short run of the engine."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import figure_tables
from benchmarks.harness.live_cameras import FPS, GOP, SIZES, ClipCameras, make_cameras, name
from benchmarks.live import most_held
from benchmarks.live.point import LivePoint, config_text, grown, measure
from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.sources import is_live
from tests.support.footage import steady, write_scene

CAMERAS = 8
GOOD = LivePoint(4, 360, 10.0, 400, 0, 20.0, 30.0, 60.0, None, None, 0.5)


@given(st.integers(0, 40), st.sets(st.integers(1, 20), max_size=4))
def test_the_most_that_are_held_are_found(limit: int, measured: set[int]) -> None:
    known = {count: count <= limit for count in measured}
    tried: list[int] = []

    def is_held(count: int) -> bool:
        tried.append(count)
        return count <= limit

    assert most_held(known, is_held, 32) == min(limit, 32)
    assert len(tried) == len(set(tried) - measured) <= 11


def test_held_means_all_frames_in_time() -> None:
    assert GOOD.held
    assert not replace(GOOD, dropped=1).held
    assert not replace(GOOD, p99_ms=500.0).held
    assert not replace(GOOD, published=380).held


def test_growth_is_that_of_all_sources() -> None:
    before = {"a": {"published": 10, "latency:3": 10}, "b": {}}
    after = {"a": {"published": 15, "latency:3": 14, "latency:4": 1}, "b": {"published": 2}}
    assert grown(before, after) == {"published": 7, "latency:3": 4, "latency:4": 1}


def test_cameras_are_live_sources_of_the_packaged_configuration() -> None:
    config = read_config("benchmark", config_text(["rtsp://127.0.0.1:1/a.mkv?play_count=0"]))
    assert is_live(config.sources["camera0"].url or "")


def test_what_another_camera_showed_before_is_not_answered_from_the_cache() -> None:
    text = config_text(["rtsp://127.0.0.1:1/a.mkv?play_count=0"])
    assert tomllib.loads(text)["cache"] == {"exact": False}


def test_the_table_shows_a_peer_that_did_not_run_as_such() -> None:
    point = {"cameras": 1, "height": 360, "dropped": 0, "p50_ms": 12.34, "p99_ms": 123.4}
    point |= {"cpu_cores": 0.21, "rss_mb": 301.2, "peer_dropped": None}
    row = figure_tables._live({"points": [point]}).splitlines()[-1]
    assert row == "| 1 | 360 | 0 | 12.3 | 123 | 0.21 | 301 | - | - | - | - | - |"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cameras")
    make_cameras(write_scene(found / "clip.mp4", steady(150)), found, CAMERAS)
    return found


@pytest.fixture
def server(folder: Path) -> Iterator[ClipCameras]:
    with ClipCameras(folder) as running:
        yield running


@pytest.mark.parametrize("height", SIZES)
def test_each_camera_begins_elsewhere_with_a_key_frame(folder: Path, height: int) -> None:
    begins = set()
    for number in range(3):
        with av.open(str(folder / name(number, height))) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == SIZES[height]
            packets = [packet for packet in container.demux(stream) if packet.size]
        assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == [0, GOP, 2 * GOP]
        assert [float(p.pts * p.time_base) for p in packets if p.pts is not None] == pytest.approx(
            [n / FPS for n in range(3 * GOP)]
        )
        begins.add(bytes(packets[0]))
    assert len(begins) == 3


def test_more_cameras_play_at_once_than_a_loop_has_threads(server: ClipCameras) -> None:
    with ExitStack() as opened:
        options = {"rtsp_transport": "tcp", "probesize": "32", "fpsprobesize": "0"}
        for url in server.urls(CAMERAS, 360):
            camera = opened.enter_context(av.open(url, options=options, timeout=(10, 10)))
            assert next(camera.demux(video=0)).size
    assert server.usage().by_pid


@pytest.mark.long
def test_the_engine_holds_one_camera(server: ClipCameras) -> None:
    point = measure(server, 1, 360, 2.0, 2.0)
    assert point is not None
    assert 10 <= point.published <= 40
    assert 0 < point.p50_ms <= point.p95_ms <= point.p99_ms
    assert point.camera_p50_ms is not None
    assert {"shard-1", "supervisor"} < set(point.cpu_by_process)
    assert point.rss_mb > 50
