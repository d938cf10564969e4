"""Packets that were received and not recorded are a gap with its reason, and reading goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.source import Request
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.recording.segment_writer import Recording, Take
from framegate.stages.decode import muxing, record
from framegate.stages.decode.open_video import open_video
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.record import PacketRecorder
from tests.support.recorded import WIDE, segments, write_both
from tests.support.runs import DEADLINE_S, wait_until


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, with a key frame in each."""
    path = tmp_path_factory.mktemp("file") / "a.mp4"
    return write_both(path, 10.0, sound=None, options={"bf": "0"})


@pytest.fixture(autouse=True)
def waits_for_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are read right after the end of a connection."""
    monkeypatch.setattr(record, "PATIENCE_S", DEADLINE_S)


def feed(data: Path, file: Path, at: Callable[[int, PacketRecorder], None]) -> None:
    """Give the packets of a camera to a recorder; `at` is called before each."""
    opened = open_video(Request(str(file)), DecodeOptions())
    recorder = PacketRecorder(Recording(data, "gate", WIDE).take(1), opened, live=True)
    packets = [packet for packet in opened.container.demux(opened.stream) if packet.size]
    for n, packet in enumerate(packets):
        at(n, recorder)
        recorder.hear(packet)
    opened.close()
    recorder.close()


def nothing(n: int, recorder: PacketRecorder) -> None:
    """Give the next packet at once."""


def gaps(data: Path) -> list[RecordingGap]:
    with closing(Index(data)) as index:
        return index.recorders.gaps("gate", 0.0, 1e12)


def test_the_reading_thread_never_uses_the_index(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for the disk, and take the other thread's transaction for damage."""
    noted = []
    note_loss = Take.note_loss

    def note(take: Take, *words: Any) -> None:
        noted.append(threading.current_thread().name)
        note_loss(take, *words)

    def pause(n: int, recorder: PacketRecorder) -> None:
        if n == 225:
            wait_until("there is room", lambda: not recorder._queue)

    monkeypatch.setattr(record, "QUEUE_BYTES", 1)
    monkeypatch.setattr(Take, "note_loss", note)
    feed(tmp_path, file, pause)
    assert set(noted) == {"record-gate"}
    assert {gap.why for gap in gaps(tmp_path)} == {"slow_disk"}


def test_packets_that_are_dropped_up_to_the_end_of_a_connection_are_a_gap(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "QUEUE_BYTES", 1)
    monkeypatch.setattr(record, "_BATCH_S", DEADLINE_S)
    began = time.time()
    feed(tmp_path, file, nothing)
    (gap,) = gaps(tmp_path)
    assert gap.why == "slow_disk"
    assert began <= gap.since < gap.until <= time.time()


def test_packets_that_cannot_be_recorded_up_to_the_end_of_a_connection_are_a_gap(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bytes:
        raise ValueError

    monkeypatch.setattr(muxing, "boxes", refuse)
    feed(tmp_path, file, nothing)
    (gap,) = gaps(tmp_path)
    assert gap.why == "bad_packet"
    assert gap.since < gap.until
    assert segments(tmp_path) == []


def test_an_unexpected_error_ends_the_recording_with_its_reason_and_a_gap(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise KeyError("of a library")

    monkeypatch.setattr(muxing, "boxes", fail)
    feed(tmp_path, file, nothing)
    (gap,) = gaps(tmp_path)
    assert gap.why == "bad_packet"
    assert gap.since < gap.until
    with closing(Index(tmp_path)) as index:
        (state,) = index.recorders.states()
    assert (state.path, state.why) == (None, "KeyError: 'of a library'")
