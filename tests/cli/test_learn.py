"""`framegate learn footage`: what a run kept, shown, written elsewhere and deleted."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from framegate.stages.footage.kept_pictures import DAY_S, Keeper, KeptObject, Limits, kept_frames
from tests.stages.footage.test_kept import NOW, frame, keep
from tests.support.commands import framegate
from tests.support.runs import wait_until
from tests.support.terminals import Terminal

pytestmark = pytest.mark.whole_run

DONE, USAGE = 0, 2
PERSON = KeptObject("person", 0.9, (20.0, 20.0, 90.0, 100.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keeper = Keeper(tmp_path / "data", Limits(1 << 30, 30))
    for seq in range(1, 13):
        heavy = (PERSON,) if seq % 2 else None
        why = "audit" if seq % 2 else "even"
        keep(keeper, frame(seq, kept_at=NOW + seq * DAY_S / 4, heavy=heavy, why=why))
    keep(keeper, frame(1, "door", served=(PERSON,)))
    (tmp_path / "data" / "footage" / "door" / "1-2.jpg").write_bytes(b"")
    return tmp_path


def test_what_is_kept_is_told_and_drawn(folder: Path) -> None:
    told = framegate(folder, "learn", "footage", "-d", "data", "--sheet", "seen.png")
    assert told.code == DONE, told.err
    rows = {line.split()[0]: line.split() for line in told.out.splitlines() if line.strip()}
    assert rows["gate"][1:3] == ["12", "4"]
    assert "6 even, 6 audit" in told.out
    assert rows["door"][1:3] == ["1", "1"]
    assert "door: 1 incomplete file left out" in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    sheet = cv2.imread(str(folder / "seen.png"))
    assert sheet is not None
    assert (sheet.reshape(-1, 3) == (110, 118, 15)).all(1).sum() > 6 * 200  # the heavy pass's
    assert (sheet.reshape(-1, 3) == (12, 65, 194)).all(1).sum() > 200  # what was served
    again = framegate(folder, "learn", "footage", "-d", "data", "--sheet", "seen.png")
    assert again.code == USAGE
    assert "seen.png already exists" in again.err


def test_only_what_is_named_is_exported_and_deleted(folder: Path) -> None:
    words = ("learn", "footage", "-d", "data", "--sources", "gate")
    out = framegate(folder, *words, "--export", "out", "--as", "yolo")
    assert out.code == DONE, out.err
    assert len(list((folder / "out" / "images" / "train").iterdir())) == 12
    assert len(list((folder / "out" / "labels" / "train").iterdir())) == 6
    before = "2027-01-16T00:00+00:00"  # of the days since the 15th
    asked = framegate(folder, *words, "--delete", "--before", before)
    assert asked.code == USAGE
    assert "asks for a confirmation, which needs a terminal; without one, add --yes" in asked.err
    gone = framegate(folder, *words, "--delete", "--before", before, "--yes")
    assert gone.code == DONE, gone.err
    left = kept_frames(folder / "data")
    n_left = len(left["gate"].files)
    assert f"deleted: {12 - n_left} frames" in gone.out
    assert 0 < n_left < 12
    assert all(file.record.kept_at >= NOW + DAY_S / 2 for file in left["gate"].files)
    gone = framegate(folder, "learn", "footage", "-d", "data", "--delete", "--yes")
    assert gone.code == DONE, gone.err
    assert list((folder / "data" / "footage").iterdir()) == []


def count(person: Terminal, words: str) -> int:
    return sum(words in line for line in person.shows())


def test_a_terminal_is_asked(folder: Path) -> None:
    with Terminal(folder) as person:
        for n, answer, words in ((1, "n", "nothing was deleted"), (2, "y", "deleted: 1 frames")):
            assert len(kept_frames(folder / "data")["door"].files) == 1
            person.type("framegate learn footage -d data --sources door --delete")
            wait_until("it asks", lambda n=n: count(person, "Delete 1 frames") == n)
            person.type(answer)
            person.until(words)
    assert "door" not in kept_frames(folder / "data")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["-d", "none"], "-d none: this folder does not exist"),
        (["-d", "data", "--sources", "gat"], "did you mean gate?"),
        (["-d", "data", "--sheet", "a.txt"], "end in .png or .jpg"),
        (["-d", "data", "--before", "1-2"], "--before must be a time "),
        (["-d", "data", "--before", "soon"], "--before must be a time "),
        (["-d", "data", "--export", "data"], "--export"),
        (["-d", "data", "--delete", "--export", "x"], "export first, then delete"),
        (["-d", "."], "no footage was kept there; a run keeps it with collect = true"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, words: list[str], fault: str) -> None:
    told = framegate(folder, "learn", "footage", *words)
    assert told.code == USAGE
    assert fault in told.err
    assert len(kept_frames(folder / "data")["gate"].files) == 12


def test_a_folder_that_cannot_be_written_is_told(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (folder / "data" / "footage" / "gate").chmod(0o500)
    told = framegate(folder, "learn", "footage", "-d", "data", "--delete", "--yes")
    assert told.code == USAGE
    assert "Permission denied" in told.err
