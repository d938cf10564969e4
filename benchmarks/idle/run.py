"""One run over the cameras of a composed day: its results, its CPU and its drops."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av

from benchmarks.harness import configuration
from benchmarks.harness.camera_server import CameraServer
from benchmarks.harness.engine_run import EngineRun
from benchmarks.harness.process_tree import memory_bytes
from benchmarks.idle.compare import CameraDay, Packet, Sample, common_spans, core_share
from benchmarks.idle.day import FPS, Scene, Timetable, camera_file
from framegate.pipeline.contracts.source import DecodeMode

START_S: Final = 60.0
_SAMPLE_S: Final = 0.5
_END_S: Final = 3.0  # for the last results to be published


@dataclass(frozen=True, slots=True)
class DayRun:
    """What one run did with the day.

    days     what it published of each camera
    dropped  frames that were lost, over all cameras
    rss_mb   greatest proportional set size of the whole run
    """

    days: tuple[CameraDay, ...]
    samples: tuple[Sample, ...]
    dropped: int
    rss_mb: float

    def core_a_camera(self, spans: Sequence[tuple[float, float]]) -> float | None:
        """Return the share of a core that a camera used in spans of the day's seconds."""
        share = core_share(self.samples, common_spans(self.days, spans))
        return None if share is None else share / len(self.days)


def play(
    server: CameraServer, scene: Scene, cameras: int, decode: DecodeMode, timetable: Timetable
) -> DayRun:
    """Run the engine while the cameras play the day once. RunFailed if it does not start."""
    names = [f"camera{number}" for number in range(cameras)]
    urls = [
        f"rtsp://127.0.0.1:{server.port}/{camera_file(scene, number)}?play_count=0"
        for number in range(cameras)
    ]
    day_s = timetable.frames / FPS
    samples, peak = [], 0
    with EngineRun(config_text(names, urls, decode), names) as run:
        run.wait_for_each(1, START_S)
        until = time.monotonic() + day_s + scene.gop_s + _END_S
        while time.monotonic() < until:
            samples.append(Sample(time.time(), sum(run.sample().usage.by_pid.values())))
            peak = max(peak, memory_bytes(run.pid))
            time.sleep(_SAMPLE_S)
        counters = run.counters()
        most = 2 * timetable.frames
        days = tuple(CameraDay.of(run.results(name, most), timetable.frames) for name in names)
    dropped = sum(
        count
        for counts in counters.values()
        for what, count in counts.items()
        if what.startswith("dropped:")
    )
    return DayRun(days, tuple(samples), dropped, round(peak / 2**20, 1))


def config_text(names: Sequence[str], urls: Sequence[str], decode: DecodeMode) -> str:
    """Return a pipeline.toml with these cameras; all else is as packaged."""
    return configuration.packaged({
        f"sources.{name}": {"url": url, "decode": decode}
        for name, url in zip(names, urls, strict=True)
    })  # fmt: skip


def packets_of(path: Path) -> list[Packet]:
    """Return the packets of a camera's file, in the order of its frames."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [Packet(packet.size, packet.is_keyframe) for packet in packets]
