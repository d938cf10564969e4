"""A recording holds the packets that came, byte for byte, and clips of it play."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import av
import pytest

from framegate.pipeline.contracts.source import Request
from framegate.pipeline.recording import segment_writer as take_module
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER, NAME, RecordingLost
from framegate.pipeline.recording.playlist import parts
from framegate.pipeline.recording.segment_writer import Recording
from framegate.stages.decode import Decode
from framegate.stages.decode.clip import write_clip
from framegate.stages.decode.options import DecodeOptions
from tests.support.footage import write_sizes
from tests.support.recorded import WIDE, as_files_say, payload, record, segments, times, write_both

UNEVEN = [n / 25 + (0.011 if n % 3 else 0.0) + (1.7 if n > 120 else 0.0) for n in range(250)]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("plain.mp4", {"options": {"bf": "0"}}),
        ("reordered.mp4", {"options": {"bf": "3"}}),
        ("reordered.mkv", {"options": {"bf": "3"}}),
        ("hevc.mp4", {"codec": "libx265"}),
        ("hevc.mkv", {"codec": "libx265", "options": {"bf": "0"}}),
        ("adts.ts", {}),
        ("telephone.mov", {"sound": "pcm_mulaw"}),
        ("silent.mp4", {"sound": None}),
        ("late.mp4", {"sound_from_s": 2.0}),
        ("uneven.mp4", {"pts_s": UNEVEN}),
        ("long.mp4", {"gop": 240}),
    ],
)
def test_packets_are_recorded_as_they_came_and_exported_as_they_were(
    tmp_path: Path, name: str, how: dict[str, object]
) -> None:
    file = write_both(tmp_path / name, 10.0, **how)  # type: ignore[arg-type]
    held = record(tmp_path / "data", file)
    assert all(one.epoch == 1 and one.is_key for one in held)
    assert all(after.follows(before) for before, after in itertools.pairwise(held))
    assert len(held) == (2 if name == "long.mp4" else 3)
    folder = tmp_path / "data" / FOLDER
    assert sum(one.nbytes for one in held) == sum(
        (folder / one.path).stat().st_size for one in held
    )
    clip = tmp_path / "clip.mp4"
    write_clip(folder, held, clip)
    assert payload(clip) == payload(file)
    came = times(file)
    assert [round(at - came[0], 3) for at in came] == pytest.approx(times(clip), abs=2e-3)
    if how.get("sound", "aac") is not None:
        assert held[-1].sound
        heard = payload(file, "audio")
        assert payload(clip, "audio") == heard[len(heard) - len(payload(clip, "audio")) :]
        assert len(heard) - len(payload(clip, "audio")) <= 2  # what a decoder is primed with


def test_each_file_plays_by_itself(tmp_path: Path) -> None:
    file = write_both(tmp_path / "a.mp4", 10.0)
    held = record(tmp_path / "data", file)
    shown = [len(times(tmp_path / "data" / FOLDER / one.path)) for one in held]
    assert sum(shown) == 250
    assert shown == [100, 100, 50]


def test_another_picture_size_begins_another_file_and_another_part(tmp_path: Path) -> None:
    file = write_sizes(tmp_path / "sizes.h264", [(96, 64), (64, 96), (96, 64)], 50)
    held = record(tmp_path / "data", file)
    made = parts(held)
    assert [len(part) for part in made] == [1, 1, 1]
    assert made[0][0].init == made[2][0].init != made[1][0].init
    shown = []
    for n, part in enumerate(made):
        clip = tmp_path / f"{n}.mp4"
        write_clip(tmp_path / "data" / FOLDER, part, clip)
        with av.open(str(clip)) as opened:
            shown += [(frame.width, frame.height) for frame in opened.decode(video=0)]
    assert shown == [(96, 64)] * 50 + [(64, 96)] * 50 + [(96, 64)] * 50


def test_a_clip_begins_where_it_is_to_and_holds_what_that_needs(tmp_path: Path) -> None:
    file = write_both(tmp_path / "a.mp4", 10.0)
    held = record(tmp_path / "data", file)
    clip = tmp_path / "clip.mp4"
    write_clip(tmp_path / "data" / FOLDER, held, clip, begin_s=5.6, seconds=2.0)
    shown = times(clip)
    assert shown[0] == pytest.approx(0.0, abs=1e-3)
    assert 50 <= len([at for at in shown if at >= 0]) <= 54
    whole, some = payload(file), payload(clip)
    assert whole[125:188] == some[: 188 - 125]  # from the key frame at 5 s on


def test_the_index_is_what_the_files_say(tmp_path: Path) -> None:
    data = tmp_path / "data"
    record(data, write_both(tmp_path / "a.mp4", 10.0))
    record(data, write_both(tmp_path / "b.mkv", 10.0, "libx265"), "yard")
    before = segments(data) + segments(data, "yard")
    for file in (data / FOLDER).glob(f"{NAME}*"):
        file.unlink()
    index = Index(data)
    assert rebuild(index) == len(before)
    assert rebuild(index) == 0
    index.close()
    again = segments(data) + segments(data, "yard")
    assert as_files_say(again) == as_files_say(before)


def record_up_to(recording: Recording, file: Path, picture: int) -> None:
    """Record a file as epoch 1, by a process that stops at a picture."""
    take = recording.take()
    opened = Decode(DecodeOptions()).open(Request(str(file)), take=take)
    for n, frame in enumerate(opened):
        if n == 0 and frame is not None:
            take.announce_epoch(1, frame.pts)
        if n == picture:
            break
    opened.close()


@pytest.mark.parametrize("stopped_at", [60, 98, 99, 100, 101, 104, 120])
def test_sound_of_a_file_that_is_read_again_is_recorded_once(
    tmp_path: Path, stopped_at: int
) -> None:
    """Also where the file that was being written had no sound yet."""
    file = write_both(tmp_path / "a.mp4", 8.0)
    data = tmp_path / "data"
    recording = Recording(data, "gate", WIDE)
    record_up_to(recording, file, stopped_at)
    again = Decode(DecodeOptions()).open(Request(str(file)), take=recording.take(epoch=1))
    assert sum(frame is not None for frame in again) == 200
    again.close()
    held = [data / FOLDER / one.path for one in segments(data)]
    for kind in ("video", "audio"):
        assert [said for one in held for said in payload(one, kind)] == payload(file, kind)


def test_a_file_that_gets_the_same_epoch_again_is_recorded_once(tmp_path: Path) -> None:
    """Its decoder was killed before its first commit: the next one does not know that it resumes,
    and is given the epoch that no frame has.
    """
    file = write_both(tmp_path / "a.mp4", 8.0)
    data = tmp_path / "data"
    record_up_to(Recording(data, "gate", WIDE), file, 60)
    held = record(data, file)
    assert {one.epoch for one in held} == {1}
    for kind in ("video", "audio"):
        written = [said for one in held for said in payload(data / FOLDER / one.path, kind)]
        assert written == payload(file, kind)


def test_a_file_is_recorded_although_its_recording_cannot_be_read_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_both(tmp_path / "a.mp4", 8.0)

    def cannot(index: Index, source: str) -> int:
        raise RecordingLost(f"{index.folder}: the disk is full, as far as {source} knows")

    (tmp_path / "data" / FOLDER / "gate" / "1").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(take_module, "adopt", cannot)
        held = record(tmp_path / "data", file)
    written = [said for one in held for said in payload(tmp_path / "data" / FOLDER / one.path)]
    assert written == payload(file)


def test_nothing_of_a_file_is_recorded_before_its_epoch_is_known(tmp_path: Path) -> None:
    """A kill just then would leave it under no epoch, and the next process record it again."""
    file = write_both(tmp_path / "a.mp4", 10.0)
    folder = tmp_path / "data" / FOLDER / "gate"
    take = Recording(tmp_path / "data", "gate", WIDE).take()
    opened = Decode(DecodeOptions()).open(Request(str(file)), take=take)
    frames = (frame for frame in opened if frame is not None)
    first, *_ = itertools.islice(frames, 100)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert not folder.exists()
    take.announce_epoch(3, first.pts)
    assert sum(1 for _ in frames) == 150
    opened.close()
    assert {one.epoch for one in segments(tmp_path / "data")} == {3}
    assert [each.name for each in folder.iterdir()] == ["3"]


def test_a_file_that_is_closed_before_its_epoch_is_known_is_not_recorded(tmp_path: Path) -> None:
    """Ctrl-C in a run's first moment: with --resume it is read, and recorded, from its start."""
    file = write_both(tmp_path / "a.mp4", 10.0)
    data = tmp_path / "data"
    recording = Recording(data, "gate", WIDE)
    opened = Decode(DecodeOptions()).open(Request(str(file)), take=recording.take())
    assert len(list(itertools.islice(opened, 120))) == 120
    opened.close()
    assert not (data / FOLDER / "gate").exists()
    assert segments(data) == []
    held = record(data, file)
    assert [said for one in held for said in payload(data / FOLDER / one.path)] == payload(file)


def test_what_comes_before_a_file_s_first_picture_is_bounded_and_never_under_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than waits for it is left out up to a key frame, as a gap; its reader goes on."""
    file = write_both(tmp_path / "a.mp4", 10.0, sound=None)
    coded = payload(file)
    monkeypatch.setattr("framegate.stages.decode.record.QUEUE_BYTES", len(b"".join(coded[:40])))
    data = tmp_path / "data"
    take = Recording(data, "gate", WIDE).take()
    opened = Decode(DecodeOptions()).open(Request(str(file)), take=take)
    first, *_ = itertools.islice((frame for frame in opened if frame is not None), 100)
    take.announce_epoch(3, first.pts)
    list(opened)
    opened.close()
    assert {one.epoch for one in segments(data)} == {3}
    held = [said for one in segments(data) for said in payload(data / FOLDER / one.path)]
    assert held[:30] == coded[:30]
    assert held[-100:] == coded[-100:]
    index = Index(data)
    (gap,) = index.recorders.gaps("gate", 0.0, 1e12)
    index.close()
    assert gap.why == "no_picture"


def test_a_file_at_its_own_pace_is_recorded_as_taken_when_its_pictures_are_due(
    tmp_path: Path,
) -> None:
    """Not when they were read, which is as far ahead as there is credit; late ones when read."""
    file = write_both(tmp_path / "a.mp4", 10.0)
    for name, due_from, ahead_s in (("ahead", time.time() + 100.0, 100.0), ("late", 0.0, 0.0)):
        take = Recording(tmp_path / name, "gate", WIDE).take()
        opened = Decode(DecodeOptions()).open(Request(str(file)), take=take)
        began = time.time()
        for frame in opened:
            if frame is not None:
                take.announce_epoch(1, frame.pts, due_from)
        opened.close()
        ended = time.time()
        for one in segments(tmp_path / name):
            if ahead_s:
                assert one.captured == pytest.approx(due_from + one.pts, abs=0.05)
            else:
                assert began <= one.captured <= ended


def test_a_file_that_is_read_again_is_recorded_on_from_where_its_recording_ends(
    tmp_path: Path,
) -> None:
    file = write_both(tmp_path / "a.mp4", 10.0)
    data = tmp_path / "data"
    recording = Recording(data, "gate", WIDE)
    record_up_to(recording, file, 90)
    assert len(segments(data)) == 1
    again = Decode(DecodeOptions()).open(Request(str(file)), take=recording.take(epoch=1))
    assert sum(frame is not None for frame in again) == 250
    again.close()
    held = segments(data)
    assert not held[1].is_key
    clip = tmp_path / "clip.mp4"
    write_clip(data / FOLDER, held, clip)
    assert payload(clip) == payload(file)
    assert times(clip) == pytest.approx(times(file), abs=2e-3)
