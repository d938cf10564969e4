"""What goes on beside the frames: read from where each keeps it, and said in few words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from framegate.cli.doctor import run_beside
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.results import SoundLabel, Sounds, SoundWindow
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.recorder_states import RecorderState, RecordingGap
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.redis_client import connect
from framegate.pipeline.telemetry.recording_sound_sinks import (
    LOST_S,
    STILL_S,
    Beside,
    RecordingView,
    SinkView,
    SoundView,
    in_lines,
    is_in_trouble,
    look_at_recordings,
    look_at_sounds,
    look_beside,
)
from tests.support.recorded import record, segments, write_both
from tests.support.servers import server

NOW = 1.8e9


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with server(tmp_path / "store") as running:
        yield running


def test_a_recording_is_what_its_index_says(tmp_path: Path) -> None:
    assert look_at_recordings(tmp_path) == {}
    assert not (tmp_path / FOLDER).exists()
    record(tmp_path, write_both(tmp_path / "gate.mp4", 5.0))
    held, now = segments(tmp_path), time.time()
    with closing(Index(tmp_path)) as index:
        for since, until in ((now - 20, now - 8), (now - LOST_S - 9, now - LOST_S - 2)):
            index.recorders.note_gap(RecordingGap("gate", since, until, "slow_disk"))
        index.recorders.note(RecorderState("yard", now, None, "the disk is full", 7))
    seen = look_at_recordings(tmp_path)
    assert seen["gate"].does == "rests"
    assert seen["gate"].nbytes == seen["yard"].total_bytes == sum(one.nbytes for one in held)
    assert seen["gate"].seconds == pytest.approx(5.0, abs=0.1)
    assert seen["gate"].lost == {"slow_disk": pytest.approx(12.0)}
    yard = seen["yard"]
    assert (yard.does, yard.why, yard.most_bytes) == ("cannot", "the disk is full", 7)


def test_a_file_that_nobody_writes_is_no_recording(tmp_path: Path) -> None:
    with closing(Index(tmp_path)) as index:
        now = time.time()
        index.recorders.note(RecorderState("gate", now, "gate/1/day/x.mp4", None, 7))
        file = index.folder / "gate/1/day/x.mp4.open"
    file.parent.mkdir(parents=True)
    file.touch()
    assert look_at_recordings(tmp_path)["gate"].does == "records"
    os.utime(file, (now, now - 2 * STILL_S))
    view = look_at_recordings(tmp_path)["gate"]
    assert (view.does, view.since) == ("rests", pytest.approx(now - 2 * STILL_S))


def say(client: object, n: int, *windows: SoundWindow) -> None:
    """What the stage `sound` says with a frame."""
    said = msgspec.Raw(records.encode(Sounds(1, windows)))
    record = records.Record(1, None, 0.0, 0.0, n, Form(0, 0))
    entry = {"k": "frame", "d": records.encode(records.SideOutput(1, "0-0", said, record))}
    client.xadd(keys.out("gate", keys.SOUND), entry, id=f"1-{n}")  # type: ignore[attr-defined]


def test_of_sound_the_last_labels_and_the_share_of_the_gate_are_told(store: EmbeddedStore) -> None:
    counts = {"sound_blocks": 12, "sound:heard": 2, "sound:unchanged": 5, "sound:quiet": 3}
    speech = (SoundLabel("Speech", 0.81),)
    with connect(store.url) as client:
        assert look_at_sounds(client, ["gate"])["gate"] == SoundView(False, {})
        client.hset(keys.count("gate"), mapping={**counts, "sound:lost": 2})
        say(client, 1, SoundWindow(1, 0.0, 1.0, "heard", -20.0, speech))
        say(client, 2, SoundWindow(2, 0.5, 1.5, "quiet", -70.0), SoundWindow(3, 1, 4, "quiet", -80))
        seen = look_at_sounds(client, ["gate"])["gate"]
        assert (seen.track, seen.looked, seen.level_db) == (True, 0.2, -80.0)
        assert (seen.labels, seen.ago_s, seen.windows["lost"]) == (speech, 3.0, 2)
        beside = look_beside(client, None, ["gate", "yard"], hears=["gate"])
    assert beside == {"gate": Beside(sound=seen, sinks=[]), "yard": Beside(sinks=[])}


RECORDS = RecordingView(
    "records", seconds=7200, nbytes=3, total_bytes=31 * 10**9, most_bytes=10**12
)
HEARD = SoundView(True, {"heard": 4, "lost": 0}, 0.38, -20.0, (SoundLabel("Speech", 0.81),), 3.0)
TOLD = SinkView("phone", "gate", 12, 3, 0, 0)


def test_it_is_said_in_few_words() -> None:
    cannot = RecordingView("cannot", NOW - 300, "the disk is full", lost={"slow_disk": 12.0})
    failing = SinkView("phone", "yard", 1, 0, 5, 2, NOW - 300, "connection refused")
    beside = {
        "gate": Beside(RECORDS, HEARD, [TOLD]),
        "yard": Beside(cannot, SoundView(False, {}), [failing]),
        "hall": Beside(),
    }
    assert list(in_lines(beside, NOW)) == [
        "recording 1 of 2: 2.0 h kept, 31 GB of 1 TB",
        "yard is not recorded for 5.0 min: the disk is full",
        "yard: 12 s of the last day not recorded: slow disk",
        "sound: gate Speech 0.81 3.0 s ago (38% looked at), yard has no sound",
        "sink phone: 13 delivered, 3 muted, 2 waiting, 5 lost, failing for 5.0 min: connection "
        "refused",
    ]
    assert [name for name, one in beside.items() if is_in_trouble(one)] == ["yard"]
    assert run_beside(beside, NOW).level == "WARN"
    assert run_beside({"gate": beside["gate"]}, NOW).level == "OK"
    assert (
        run_beside({}, NOW).found == "the run records nothing, listens to nothing and has no sinks"
    )
