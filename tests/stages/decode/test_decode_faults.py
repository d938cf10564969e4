"""Each way in which a place is no usable video has its reason, and a message that helps."""

from __future__ import annotations

import os
import subprocess
import sys
import wave

import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.open_video import is_webcam
from framegate.stages.decode.options import DecodeOptions
from tests.support import footage
from tests.support.cameras.hostile import claiming
from tests.support.cameras.scripted import jpeg


def fault_of(place, options: DecodeOptions | None = None) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        FileSource(str(place), options or DecodeOptions())
    assert str(caught.value).startswith(shown(str(place)) + ": ")
    of_no_kind = caught.value.reason in ("not_video", "no_video_stream", "unsupported_codec")
    assert of_no_kind <= ("allowed: " in str(caught.value))
    return caught.value


def test_missing(tmp_path):
    assert fault_of(tmp_path / "none.mp4").reason == "missing"
    assert fault_of(tmp_path / ("long" * 100)).reason == "missing"
    assert fault_of(f"{tmp_path}/nul\0.mp4").reason == "missing"


def test_directory(tmp_path):
    fault = fault_of(tmp_path)
    assert fault.reason == "not_video"
    assert "directory" in str(fault)


IMPATIENT = DecodeOptions(open_timeout_s=1.0, read_timeout_s=1.0)
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"


def test_a_playlist_whose_files_never_come_is_given_up(tmp_path):
    path = tmp_path / "a.m3u8"
    path.write_text(f"{PLAYLIST}none.ts\n", encoding="utf-8")
    fault = fault_of(path, IMPATIENT)
    assert fault.reason == "truncated"
    assert "list of files" in str(fault)


@pytest.mark.parametrize("ends", [True, False])
def test_a_playlist_is_read_to_its_end_or_until_no_more_comes(tmp_path, ends):
    footage.write_scene(tmp_path / "a.ts", footage.steady(12), codec="libx264")
    path = tmp_path / "a.m3u8"
    path.write_text(f"{PLAYLIST}a.ts\n{'#EXT-X-ENDLIST' * ends}\n", encoding="utf-8")
    source = FileSource(str(path), IMPATIENT)
    try:
        assert len(list(source.frames())) == 12
    finally:
        source.close()


def test_a_file_of_boxes_and_no_index_is_not_walked_to_its_end(tmp_path):
    path, box = tmp_path / "a.mp4", (8).to_bytes(4, "big") + b"free"
    path.write_bytes(box * 999)
    assert fault_of(path).reason == "truncated"
    path.write_bytes(box * 1001)
    assert fault_of(path).reason == "not_video"


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert fault_of(tmp_path / "pipe").reason == "not_video"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(2))
    path.chmod(0)
    assert fault_of(path).reason == "permission"


def test_empty(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert fault_of(tmp_path / "a.mp4").reason == "empty"


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4", "notes"])
def test_text_is_no_video(tmp_path, name):
    (tmp_path / name).write_text("Frames come and go.\n" * 100, encoding="utf-8")
    assert fault_of(tmp_path / name).reason == "not_video"


def test_noise_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 40)
    assert fault_of(tmp_path / "a.mp4").reason == "not_video"


def test_sound_has_no_video_track(tmp_path):
    fault = fault_of(footage.write_tone(tmp_path / "a.m4a"))
    assert fault.reason == "no_video_stream"
    assert "(audio)" in str(fault)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(16000))
    assert fault_of(tmp_path / "a.wav").reason == "no_video_stream"


def test_mp4_without_its_index_says_so(tmp_path):
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(20))
    fault = fault_of(footage.cut(path, tmp_path / "cut.mp4", 0.5))
    assert fault.reason == "truncated"
    assert "moov" in str(fault)


def test_mp4_cut_inside_its_index_says_so(tmp_path):
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(20), faststart=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[:200])
    assert fault_of(cut).reason == "truncated"


def test_mp4_cut_before_its_first_frame_ended(tmp_path):
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(20), faststart=True)
    data = path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: data.index(b"mdat") + 12])
    with pytest.raises(SourceFault) as caught:
        list(FileSource(str(cut)))
    assert caught.value.reason == "truncated"


def test_codec_without_decoder(tmp_path):
    path = footage.write_scene(tmp_path / "a.avi", footage.steady(3), codec="mjpeg")
    data = path.read_bytes()
    assert data.count(b"MJPG") >= 2
    unknown = tmp_path / "unknown.avi"
    unknown.write_bytes(data.replace(b"MJPG", b"ZQX9"))
    assert fault_of(unknown).reason == "unsupported_codec"


def test_picture_above_the_limit(tmp_path):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(2), size=(96, 64))
    FileSource(str(path), DecodeOptions(max_pixels=96 * 64)).close()
    fault = fault_of(path, DecodeOptions(max_pixels=96 * 64 - 1))
    assert fault.reason == "no_memory"
    assert "96x64" in str(fault)


def test_picture_that_grows_above_the_limit(tmp_path):
    path = footage.write_sizes(tmp_path / "a.mjpeg", [(64, 64), (96, 96)], 2, codec="mjpeg")
    source = FileSource(str(path), DecodeOptions(max_pixels=64 * 64))
    frames = iter(source)
    assert next(frames).form.width == next(frames).form.width == 64
    with pytest.raises(SourceFault, match="96x96"):
        next(frames)


def test_a_name_with_a_colon_is_a_file(tmp_path):
    path = footage.write_scene(tmp_path / "a.mp4", footage.steady(2))
    odd = path.rename(tmp_path / "http:cam 1 %d #x?.mp4")
    FileSource(str(odd)).close()


def test_a_relative_name_is_a_file(tmp_path, monkeypatch):
    footage.write_scene(tmp_path / "cam:1.mp4", footage.steady(2))
    monkeypatch.chdir(tmp_path)
    FileSource("cam:1.mp4").close()


def test_no_secret_of_a_url_is_told():
    url = "http://anna:s3cret@127.0.0.1:9/live.mp4?token=t0ken"
    fault = fault_of(url)
    assert fault.reason == "unreachable"
    assert str(fault).startswith("http://127.0.0.1:9/live.mp4: ")
    chain = [fault, fault.__cause__, fault.__context__]
    assert not any(secret in repr(part) for part in chain for secret in ("s3cret", "t0ken"))


BOMB = (16_000, 16_000)
READ = """
import sys
from pathlib import Path
from framegate.pipeline.contracts.errors import SourceFault
from framegate.stages.decode.file import FileSource
given = 0
try:
    for _ in FileSource(sys.argv[1]):
        given += 1
except SourceFault as fault:
    print(given, fault.reason, fault)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize("name", ["late.avi", "first.avi", "first.png", "first.mjpeg"])
def test_a_picture_above_the_limit_takes_no_memory_before_it_is_refused(tmp_path, name):
    """16,000 pixels a side in less than a megabyte; decoded they are 256 MB and more."""
    path, before = tmp_path / name, 12 if name.startswith("late") else 0
    if name.endswith("mjpeg"):
        path.write_bytes(claiming(jpeg(), *BOMB) * 3)
    else:
        footage.write_pngs(path, [(64, 64)] * before + [BOMB])
    assert path.stat().st_size < 1_000_000
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    said, most_kb = ran.stdout.splitlines()
    assert said.startswith(f"{before} no_memory "), ran
    assert "16000x16000" in said
    assert int(most_kb) < 250_000


@pytest.mark.parametrize(
    ("place", "is_one"), [("webcam:0", True), ("webcam:97", True), ("webcam:²", False)]
)
def test_a_webcam_has_a_number(place: str, is_one: bool) -> None:
    assert is_webcam(place) is is_one
