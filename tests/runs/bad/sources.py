"""Sources that cannot be used; the good one beside each is published whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.runs.bad.case import DONE, GOOD_FRAMES, USAGE, Case
from tests.support import footage
from tests.support.commands import Ended, framegate


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used.

    make  makes it, at the path of this name
    says  parts of what the user sees of the source that is named `name`
    """

    name: str
    make: Callable[[Path], object]
    file: str
    says: tuple[str, ...]


def all_beside_a_good_one(folder: Path) -> Ended:
    """All bad files and good.mp4 in one run."""
    for bad in BAD_FILES:
        bad.make(folder / bad.file)
    named = [f"{bad.name}={bad.file}" for bad in BAD_FILES]
    return framegate(folder, "run", "good.mp4", *named, "-d", "data", "--json")


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


BAD_FILES = [
    BadFile(
        "missing",
        nothing,
        "gone.mp4",
        (
            "source missing: missing: ",
            "user/gone.mp4: there is no such file",
            "allowed: a regular file",
        ),
    ),
    BadFile(
        "letter",
        lambda path: path.write_text("To whom it may concern,\n" * 40, encoding="utf-8"),
        "letter.mp4",
        ("source letter: not_video: ", "letter.mp4: this is "),
    ),
    BadFile(
        "empty",
        Path.touch,
        "empty.mp4",
        ("source empty: empty: ", "empty.mp4: the file is empty"),
    ),
    BadFile(
        "cut",
        cut_short,
        "cut.mp4",
        ("source cut: truncated: ", "cut.mp4: cut off before its index"),
    ),
    BadFile(
        "song",
        footage.write_tone,
        "song.m4a",
        ("source song: no_video_stream: ", "song.m4a: there is no video track", "(audio)"),
    ),
    BadFile(
        "odd",
        unknown_codec,
        "odd.avi",
        ("source odd: unsupported_codec: ", "odd.avi: there is no decoder"),
    ),
]

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
    Case("truncated", truncated_with_frames, DONE, ("source bad: incomplete: truncated 1",)),
]
