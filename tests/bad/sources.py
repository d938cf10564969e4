"""Sources that cannot be used; the good one beside each is published whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests import footage
from tests.bad.case import DONE, GOOD_FRAMES, SOURCE_FAILED, USAGE, Case, Play
from tests.commands import Ended, framegate


def beside(make: Callable[[Path], object], name: str) -> Play:
    def play(folder: Path) -> Ended:
        make(folder / name)
        ended = framegate(folder, "run", "good.mp4", f"bad={name}", "-d", "data", "--json")
        assert len(ended.results("good")) == GOOD_FRAMES
        assert [r["seq"] for r in ended.results("good")] == list(range(GOOD_FRAMES))
        assert ended.results("bad") == []
        return ended

    return play


def nothing(path: Path) -> None:
    assert not path.exists()


def cut_short(path: Path) -> None:
    whole = footage.write_scene(path.with_name("whole.mp4"), footage.steady(30))
    footage.cut(whole, path, 0.7)


def unknown_codec(path: Path) -> None:
    frames = [footage.frame_of(footage.scene(n, (96, 64)), "yuvj420p") for n in range(3)]
    footage.write_frames(path, frames, footage.steady(3), codec="mjpeg")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZQX9"))


def truncated_with_frames(folder: Path) -> Ended:
    """What there is of a file without an index is published; that it is not all is said."""
    whole = footage.write_scene(folder / "whole.mkv", footage.steady(40))
    footage.cut(whole, folder / "bad.mkv", 0.6)
    ended = framegate(folder, "run", "good.mp4", "bad.mkv", "-d", "data", "--json")
    assert len(ended.results("good")) == GOOD_FRAMES
    assert 0 < len(ended.results("bad")) < 40
    return ended


def none_is_there(folder: Path) -> Ended:
    """Nothing starts; each is named once."""
    (folder / "empty.mp4").touch()
    ended = framegate(folder, "run", "gone.mp4", "empty.mp4", "-d", "data", "--json")
    assert not (folder / "data").exists()
    assert ended.err.count("gone.mp4") == ended.err.count("empty.mp4") == 1, ended.err
    return ended


CASES = [
    Case(
        "no file is there",
        none_is_there,
        USAGE,
        (
            "source gone: missing: ",
            "user/gone.mp4: there is no such file",
            "source empty: empty: ",
        ),
    ),
    Case(
        "missing file",
        beside(nothing, "gone.mp4"),
        SOURCE_FAILED,
        (
            "source bad: missing: ",
            "user/gone.mp4: there is no such file",
            "allowed: a regular file",
        ),
    ),
    Case(
        "not a video",
        beside(lambda path: path.write_text("To whom it may concern,\n" * 40), "letter.mp4"),
        SOURCE_FAILED,
        ("source bad: not_video: ", "letter.mp4: this is ", "allowed: "),
    ),
    Case(
        "empty file",
        beside(Path.touch, "empty.mp4"),
        SOURCE_FAILED,
        ("source bad: empty: ", "empty.mp4: the file is empty", "allowed: "),
    ),
    Case(
        "truncated before its index",
        beside(cut_short, "cut.mp4"),
        SOURCE_FAILED,
        ("source bad: truncated: ", "cut.mp4: cut off before its index"),
    ),
    Case("truncated", truncated_with_frames, DONE, ("source bad: not whole: truncated 1",)),
    Case(
        "audio only",
        beside(footage.write_tone, "song.m4a"),
        SOURCE_FAILED,
        ("source bad: no_video_stream: ", "song.m4a: there is no video track", "(audio)"),
    ),
    Case(
        "unsupported codec",
        beside(unknown_codec, "odd.avi"),
        SOURCE_FAILED,
        ("source bad: unsupported_codec: ", "odd.avi: there is no decoder", "allowed: "),
    ),
    Case(
        "a directory",
        beside(Path.mkdir, "videos"),
        SOURCE_FAILED,
        ("source bad: not_video: ", "videos: this is a directory", "allowed: "),
    ),
]
