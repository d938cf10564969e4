"""What is heard of a file: every codec that cameras send, at one rate, on the pictures' clock."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import SOUND_MOST_S, SOUND_RATE, Request
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.packet_stream import PacketStream
from framegate.stages.decode.sound import SoundTap
from tests.support import footage
from tests.support.footage import Track

BLOCK = SOUND_RATE // 2


def heard(path: Path, block: int = BLOCK):
    """[(pts, blocks)] of the frames, and the counts at the end."""
    source = FileSource(Request(str(path), sound=block))
    try:
        return [(frame.pts, frame.sound) for frame in source.frames()], dict(source.counts)
    finally:
        source.close()


def samples(blocks) -> np.ndarray:
    return np.concatenate([np.frombuffer(block.samples, np.float32) for block in blocks])


def loudest(wave: np.ndarray) -> float:
    """Hertz of the strongest tone."""
    return float(np.argmax(np.abs(np.fft.rfft(wave))) * SOUND_RATE / len(wave))


@pytest.mark.parametrize(
    ("name", "track"),
    [
        ("aac.mp4", Track("aac", 44100)),
        ("adts.ts", Track("aac", 48000, (440.0, 440.0))),
        ("aac-16.mkv", Track("aac", 16000)),
        ("alaw.avi", Track("pcm_alaw", 8000)),
        ("mulaw.mov", Track("pcm_mulaw", 8000)),
        ("opus.mkv", Track("libopus", 48000, (440.0, 440.0))),
        ("mp3.mkv", Track("libmp3lame", 22050)),
        ("pcm.mkv", Track("pcm_s16le", 32000)),
    ],
)
def test_every_codec_is_heard_as_it_was_played(tmp_path: Path, name: str, track: Track) -> None:
    frames, counts = heard(footage.write_sounding(tmp_path / name, track))
    blocks = [block for _, sound in frames for block in sound]
    wave = samples(blocks)
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert track.seconds <= len(wave) / SOUND_RATE < track.seconds + 0.75
    middle = wave[SOUND_RATE : 3 * SOUND_RATE]
    assert loudest(middle) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.08)
    assert not any(counts.values())


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = footage.write_sounding(tmp_path / "a.mkv", Track("pcm_s16le", 16000, (400.0, 2000.0)))
    frames, _ = heard(path)
    wave = samples([block for _, sound in frames for block in sound])[:SOUND_RATE]
    spectrum = np.abs(np.fft.rfft(wave)) / len(wave) * 2
    assert spectrum[400] == pytest.approx(0.25, rel=0.02)
    assert spectrum[2000] == pytest.approx(0.25, rel=0.02)


def test_a_frame_has_what_ended_before_the_next_and_the_last_one_the_rest(tmp_path: Path) -> None:
    times = [0.0, 0.4, 0.6, 1.7, 1.8]
    path = footage.write_sounding(
        tmp_path / "a.mkv", Track("pcm_s16le", 16000, seconds=2.3), pts_s=times
    )
    frames, _ = heard(path)
    ends = [[round(block.begins_s + 0.5, 3) for block in sound] for _, sound in frames]
    assert ends == [[], [0.5], [1.0, 1.5], [], [2.0, 2.5]]
    assert not samples(frames[-1][1])[-int(0.19 * SOUND_RATE) :].any()  # made whole


def test_the_frames_are_those_without_sound(tmp_path: Path) -> None:
    path = footage.write_sounding(tmp_path / "a.mp4", Track())
    deaf, counts = heard(path, 0)
    assert [pts for pts, _ in heard(path)[0]] == [pts for pts, _ in deaf]
    assert not any(sound for _, sound in deaf)
    assert counts == {"damaged": 0, "truncated": 0, "skipped": 0}


def test_a_file_without_a_sound_track_has_none(tmp_path: Path) -> None:
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(10))
    frames, counts = heard(path)
    assert len(frames) == 10
    assert not any(sound for _, sound in frames)
    assert counts == {"damaged": 0, "truncated": 0, "skipped": 0}


def test_sound_that_stops_and_comes_again_begins_a_block_where_it_came(tmp_path: Path) -> None:
    track = Track("pcm_s16le", 16000, begins=(0.0, 3.2), seconds=1.2)
    path = footage.write_sounding(tmp_path / "a.mkv", track, pts_s=footage.steady(125))
    frames, _ = heard(path)
    blocks = [block for _, sound in frames for block in sound]
    assert [(b.number, round(b.begins_s, 3), b.follows) for b in blocks] == [
        (0, 0.0, False),
        (1, 0.5, True),
        (2, 3.2, False),
        (3, 3.7, True),
        (4, 4.2, True),
    ]
    carried = {round(pts, 2) for pts, sound in frames for _ in sound}
    assert {0.48, 3.68} <= carried


def test_sound_that_begins_late_or_before_the_pictures_keeps_its_time(tmp_path: Path) -> None:
    late = Track("pcm_s16le", 16000, begins=(1.5,), seconds=1.0)
    path = footage.write_sounding(tmp_path / "late.mkv", late, pts_s=footage.steady(75))
    frames, _ = heard(path)
    assert [(pts, b.begins_s) for pts, sound in frames for b in sound] == [
        (pytest.approx(1.96), pytest.approx(1.5)),
        (pytest.approx(2.48), pytest.approx(2.0)),
    ]


def test_damaged_sound_is_counted_and_the_pictures_go_on(tmp_path: Path) -> None:
    whole = footage.write_sounding(tmp_path / "whole.mkv", Track("aac", 48000))
    path = tmp_path / "spoilt.mkv"
    with av.open(str(whole)) as given, av.open(str(path), "w") as output:
        tracks = {s.index: output.add_stream_from_template(s) for s in given.streams}
        for n, packet in enumerate(p for p in given.demux() if p.size):
            spoilt = packet.stream.type == "audio" and 60 <= n < 90
            copy = Packet(b"\xff" * packet.size if spoilt else bytes(packet))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, tracks[packet.stream_index]
            output.mux(copy)
    frames, counts = heard(path)
    assert len(frames) == 100
    assert (counts["damaged"], counts["sound_damaged"]) == (0, 20)


def test_a_frame_carries_no_more_than_is_kept(tmp_path: Path) -> None:
    path = footage.write_sounding(
        tmp_path / "a.mkv", Track("pcm_s16le", 8000, seconds=40.0), pts_s=[0.0, 39.9]
    )
    frames, counts = heard(path, SOUND_RATE)
    most = int(SOUND_MOST_S)
    assert [len(sound) for _, sound in frames] == [most, 1]
    assert counts["sound_dropped"] == 39 - most
    numbers = [block.number for _, sound in frames for block in sound]
    assert (numbers[0], numbers[-1]) == (39 - most, 39)


def test_sound_without_pictures_does_not_grow(tmp_path: Path) -> None:
    path = footage.write_sounding(
        tmp_path / "a.mkv", Track("pcm_s16le", 8000, seconds=60.0), pts_s=[0.0]
    )
    most = int(SOUND_MOST_S)
    with av.open(str(path)) as given:
        tap = SoundTap(given.streams.audio[0], SOUND_RATE)
        for packet in given.demux(audio=0):
            tap.hear(packet)
        assert tap.counts["sound_dropped"] == 60 - most - most // 2
        assert [block.number for block in tap.take(None)] == list(range(60 - most, 60))
    assert tap.counts["sound_dropped"] == 60 - most


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_stream_that_is_only_recorded_has_the_same_sound(tmp_path: Path, is_heard: bool) -> None:
    path = footage.write_sounding(tmp_path / "a.mkv", Track("pcm_s16le", 16000, (400.0, 2000.0)))
    frames, _ = heard(path)
    expected = [block for _, sound in frames for block in sound]
    stream = PacketStream(Request(str(path), sound=BLOCK), DecodeOptions())
    stream.is_heard = is_heard
    with pytest.raises(SourceFault, match="ended"):
        list(stream)
    blocks = list(stream.take_sound())
    stream.close()
    if is_heard:
        assert len(blocks) >= len(expected) - 1 > 0
        assert blocks == expected[: len(blocks)]
    else:
        assert blocks == []
