"""Epochs of a connection whose time breaks: each file lies under the epoch that it began in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framegate.pipeline.recording.segment_writer import Recording, Take
from tests.support.recorded import WIDE, segments

BEGAN = 1.8e9
Pieces = tuple[bytes, list[bytes]]


def write(take: Take, pieces: Pieces, began: float, n: range) -> None:
    for number in n:
        take.fragment(pieces[1][number], lambda dts: began + dts)


@pytest.mark.parametrize("is_told_late", [False, True])
@pytest.mark.parametrize("pts", [1.2, 2.0, 2.3], ids=["between_keys", "at_a_key", "not_decoded"])
def test_time_that_goes_back_begins_an_epoch_with_the_next_file(
    pieces: Pieces, tmp_path: Path, pts: float, is_told_late: bool
) -> None:
    """The camera's time goes back from 10 s to `pts`; the file after that begins at 2 s.

    Engine and recorder are two threads: the epoch is told before the file begins, or after.
    """
    take = Recording(tmp_path, "gate", WIDE).take()
    take.announce_epoch(1, 0.0)
    take.begin(pieces[0], 0.0)
    write(take, pieces, BEGAN, range(20))
    if not is_told_late:
        take.announce_epoch(2, pts)
        write(take, pieces, BEGAN, range(20, 22))
    take.begin(pieces[0], 0.0)
    write(take, pieces, BEGAN + 100.0, range(4, 8))
    if is_told_late:
        take.announce_epoch(2, pts)
    write(take, pieces, BEGAN + 100.0, range(8, 22))
    take.close()
    found = [(one.epoch, round(one.pts)) for one in segments(tmp_path)]
    assert found == [(1, 0), (1, 4), (1, 8), (2, 2), (2, 6), (2, 10)]


def test_a_file_of_an_epoch_whose_first_pictures_could_not_be_written_is_of_that_epoch(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Recording(tmp_path, "gate", WIDE).take()
    take.announce_epoch(1, 0.0)
    take.begin(pieces[0], 0.0)
    write(take, pieces, BEGAN, range(8))
    take.announce_epoch(2, 0.0)
    take.begin(pieces[0], 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        write(take, pieces, BEGAN + 100.0, range(2))
    write(take, pieces, BEGAN + 100.0, range(2, 22))
    take.close()
    found = [(one.epoch, round(one.pts)) for one in segments(tmp_path)]
    assert found == [(1, 0), (2, 1), (2, 5), (2, 9)]


def full(_: int) -> None:
    raise OSError(28, os.strerror(28))


def test_an_epoch_that_begins_within_a_file_without_a_break_is_that_of_the_next_one(
    pieces: Pieces, tmp_path: Path
) -> None:
    take = Recording(tmp_path, "gate", WIDE).take()
    take.announce_epoch(1, 0.0)
    take.begin(pieces[0], 0.0)
    write(take, pieces, BEGAN, range(11))
    take.announce_epoch(2, 5.2)
    write(take, pieces, BEGAN, range(11, 22))
    take.close()
    found = [(one.epoch, round(one.pts)) for one in segments(tmp_path)]
    assert found == [(1, 0), (1, 4), (2, 8)]
