"""Pictures that are not wanted and that none needs are not decoded; all else is as if they were."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Frames, Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.frame import DecodedFrame, FrameChoice
from framegate.stages.decode.open_video import open_video
from framegate.stages.decode.options import DecodeOptions
from tests.support import footage

FPS, COUNT = 25.0, 90
CODECS = {
    "h264": ("libx264", {"bf": "3", "b-pyramid": "normal"}),
    "h264-no-b": ("libx264", {"bf": "0"}),
    "hevc": ("libx265", {"x265-params": "bframes=4:log-level=none"}),
    "mpeg4": ("mpeg4", {"bf": "2"}),
}


def made(path: Path, kind: str) -> Path:
    codec, options = CODECS[kind]
    times = footage.steady(COUNT, FPS)
    return footage.write_scene(path, times, (96, 64), codec, {"g": "30", **options})


def told(frames: Iterable[DecodedFrame | None]) -> list[tuple[float | None, bool, bytes]]:
    found = []
    for frame in frames:
        if frame is not None:
            pixels = bytearray(frame.nbytes)
            frame.write(memoryview(pixels))
            found.append((frame.pts, frame.key_frame, bytes(pixels)))
    return found


def all_decoded(path: Path, frames: Frames) -> list[tuple[float | None, bool, bytes]]:
    choice = FrameChoice(frames)
    return [frame for frame in told(FileSource(str(path))) if choice.takes(frame[0])]


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("fps", [1.0, 5.0, 12.5])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_frames_and_none_unaccounted(
    tmp_path: Path, kind: str, fps: float, threads: int
) -> None:
    clip, frames = made(tmp_path / "clip.mp4", kind), Frames(max_fps=fps)
    source = FileSource(Request(str(clip), frames=frames), DecodeOptions(threads=threads))
    given = list(source)
    found = told(given)
    assert found == all_decoded(clip, frames)
    assert source.counts["skipped"] == COUNT - len(found) == given.count(None)
    assert source.counts["damaged"] == source.counts["truncated"] == 0
    source.close()


@pytest.mark.parametrize("kind", CODECS)
def test_a_camera_gives_the_same_and_signs_of_life(tmp_path: Path, kind: str) -> None:
    clip, frames = made(tmp_path / "clip.mp4", kind), Frames(max_fps=5.0)
    source = CameraSource(Request(str(clip), frames=frames, live=True), DecodeOptions())
    given: list[DecodedFrame | None] = []
    with pytest.raises(SourceFault, match="ended"):
        given.extend(source)
    found = told(given)
    source.close()
    expected = all_decoded(clip, frames)
    assert found == expected[: len(found)]  # it ends without what the decoder holds
    assert len(found) >= len(expected) - 1
    assert given.count(None) > COUNT // 2
    assert source.counts["skipped"] + len(found) >= COUNT - 6


def test_a_picture_that_others_need_is_decoded_whether_wanted_or_not(tmp_path: Path) -> None:
    for kind, least in (("h264", 20), ("h264-no-b", COUNT)):
        opened = open_video(Request(str(made(tmp_path / f"{kind}.mp4", kind))), DecodeOptions())
        n_pictures = sum(len(opened.decode(packet, False)) for packet in opened.packets())
        opened.close()
        assert least <= n_pictures <= (COUNT if least == COUNT else COUNT * 2 // 3)


def test_what_is_not_decoded_cannot_damage(tmp_path: Path) -> None:
    """Of pictures that none needs, far from those that 1 frame/s takes, all but the header that
    says so is noise: decoded, they come as damaged.
    """
    clip, noisy = made(tmp_path / "clip.mp4", "h264"), tmp_path / "noisy.mp4"
    with av.open(str(clip)) as given, av.open(str(noisy), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                seconds = float((packet.pts or 0) * (packet.time_base or 0))
                far = 0.1 < seconds % 1 < 0.7
                copy = av.Packet(_noisy(bytes(packet)) if far else bytes(packet))
                copy.pts, copy.dts = packet.pts, packet.dts
                copy.time_base = packet.time_base or Fraction(1)
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                output.mux(copy)
    frames = Frames(max_fps=1.0)
    source = FileSource(Request(str(noisy), frames=frames))
    assert told(source) == all_decoded(clip, frames)
    assert source.counts["damaged"] == 0
    source.close()
    assert told(FileSource(str(noisy))) != told(FileSource(str(clip)))


def _noisy(packet: bytes) -> bytes:
    """H.264 with lengths: noise after the header of slices of nal_ref_idc 0 (H.264 7.4.1)."""
    at, parts = 0, []
    while at + 5 <= len(packet):
        size = int.from_bytes(packet[at : at + 4], "big")
        unit = packet[at + 4 : at + 4 + size]
        if unit[0] & 0x60 == 0 and unit[0] & 0x1F == 1:
            unit = unit[:1] + b"\x55" * (size - 1)
        parts.append(size.to_bytes(4, "big") + unit)
        at += 4 + size
    return b"".join(parts)
