"""Cameras whose time stamps are wrong lose no packet of their recording, and all of it plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from framegate.pipeline.contracts.source import Request
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.segment_writer import Recording
from framegate.stages.decode.open_video import open_video
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.record import PacketRecorder
from tests.support.recorded import WIDE, payload, segments, write_both

Change = Callable[[int, Any], None]
KEY, BETWEEN = 100, 112  # pictures


def moved(since: int, seconds: float) -> Change:
    """From a picture on, time is another."""
    begun = False

    def change(n: int, packet: Any) -> None:
        nonlocal begun
        begun = begun or (n == since and packet.stream_index == 0)
        if begun:
            step = round(seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts + step, packet.dts + step

    return change


def stuck(n: int, packet: Any) -> None:  # noqa: ARG001
    if packet.stream_index == 0:
        packet.pts = packet.dts = 0


def first_is_far(n: int, packet: Any) -> None:
    if packet.stream_index == 0 and n == 0:
        packet.pts = packet.dts = round(3600 / packet.time_base)


def some_untold(n: int, packet: Any) -> None:
    if packet.stream_index == 0 and n % 7 == 3:
        packet.pts = packet.dts = None


def some_twice(n: int, packet: Any) -> None:
    if packet.stream_index == 0 and n % 9 == 5:
        packet.pts = packet.dts = packet.dts - packet.duration


@pytest.mark.parametrize(
    "change",
    [
        moved(KEY, -3.0),
        moved(BETWEEN, -3.0),
        moved(KEY, -10.0),
        moved(BETWEEN, -10.0),
        moved(KEY, -86_400.0),
        moved(KEY, 100.0),
        moved(BETWEEN, 100.0),
        moved(0, -1.0),
        moved(0, 95_000.0),
        stuck,
        first_is_far,
        some_untold,
        some_twice,
    ],
    ids=lambda change: getattr(change, "__qualname__", ""),
)
def test_all_packets_are_recorded_and_play(tmp_path: Path, change: Change) -> None:
    file = write_both(tmp_path / "a.mp4", 10.0, options={"bf": "0"})
    data = tmp_path / "data"
    opened = open_video(Request(str(file)), DecodeOptions())
    recorder = PacketRecorder(Recording(data, "gate", WIDE).take(1), opened, live=False)
    n = 0
    for packet in opened.container.demux(opened.stream, opened.sound):
        if packet.size:
            change(n, packet)
            recorder.hear(packet)
            n += packet.stream_index == 0
    opened.close()
    recorder.close()
    held = segments(data)
    assert held
    files = [data / FOLDER / one.path for one in held]
    assert sorted(files) == sorted((data / FOLDER).rglob("*.mp4"))
    came = [packet for path in files for packet in payload(path)]
    assert came == payload(file)
    for path in files:
        with av.open(str(path)) as played:
            assert len([*played.decode(video=0)]) == len(payload(path))
