"""Kept footage: a picture and its record are one file, and there is never too much of it."""

from __future__ import annotations

import errno
import os
import resource
from collections import Counter
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from framegate.models.errors import PictureDamaged
from framegate.models.picture import Picture
from framegate.stages.footage import kept_pictures as module
from framegate.stages.footage.kept_pictures import (
    DAY_S,
    Keeper,
    KeptFile,
    KeptFrame,
    KeptObject,
    Limits,
    Why,
    blanked,
    jpeg_of,
    kept_frames,
    read_picture,
    read_record,
    surplus,
)
from tests.support.footage import scene

NOW = 1_800_000_000.0
ROOM = Limits(1 << 30, 30)


def picture(moment: int = 0, size: tuple[int, int] = (192, 108)) -> Picture:
    y, u, v = scene(moment, size)
    return Picture(y, u, v, "bt709", full_range=False)


def frame(seq: int, source: str = "gate", **more: object) -> KeptFrame:
    said = KeptFrame(source, 1, seq, float(seq), NOW + seq, "even", 192, 108, "bt709", False)
    return msgspec.structs.replace(said, **more)


def keep(keeper: Keeper, record: KeptFrame) -> None:
    keeper.keep(jpeg_of(picture(record.seq))[0], record)


def test_what_is_read_is_what_was_kept(tmp_path: Path) -> None:
    heavy = (KeptObject("person", 0.875, (1.5, 2.0, 30.25, 40.0)),)
    served = (KeptObject("car", 0.5, (0.0, 0.0, 9.0, 9.0)),)
    record = frame(7, heavy=heavy, heavy_models=("big@01234567",), served=served, why="audit")
    keep(Keeper(tmp_path, ROOM), record)
    [file] = kept_frames(tmp_path)["gate"].files
    assert file.path == tmp_path / "footage" / "gate" / "1-7.jpg"
    assert file.record == msgspec.structs.replace(record, jpeg_bytes=file.record.jpeg_bytes)
    assert file.nbytes == file.path.stat().st_size
    read, shown = read_picture(file), picture(7)
    assert (read.matrix, read.full_range) == ("bt709", False)
    for plane, was in ((read.y, shown.y), (read.u, shown.u), (read.v, shown.v)):
        assert plane.shape == was.shape
        assert np.abs(plane.astype(int) - was.astype(int)).mean() < 2
    seen = cv2.imread(str(file.path))  # whatever else reads JPEG reads it
    assert seen is not None
    assert seen.shape == (108, 192, 3)
    modes = [oct(path.stat().st_mode & 0o777) for path in (file.path, file.path.parent)]
    assert modes == ["0o600", "0o700"]


def test_a_large_picture_is_shrunk_and_tells_its_size() -> None:
    data, size = jpeg_of(picture(0, (3840, 2160)))
    assert size == (1920, 1080)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (1080, 1920, 3)


def test_more_objects_than_a_comment_holds_do_no_harm(tmp_path: Path) -> None:
    label, box = (
        "a label of many words that somebody thought of",
        (1234.56, 1234.56, 1300.5, 1300.5),
    )
    many = (KeptObject(label, 0.1234, box),) * 2000
    keep(Keeper(tmp_path, ROOM), frame(1, heavy=many, served=many))
    [file] = kept_frames(tmp_path)["gate"].files
    assert file.record.heavy == many[: len(file.record.heavy or ())]
    assert len(file.record.heavy or ()) >= 200
    read_picture(file)


@pytest.mark.parametrize("size", [(192, 108), (191, 107)])
def test_what_is_masked_is_nowhere_in_the_file(tmp_path: Path, size: tuple[int, int]) -> None:
    shown = picture(0, size)
    seen = blanked(shown, [[[0, 0], [size[0], 0], [size[0], 60], [0, 60]]])
    assert (seen.y[:61] == 128).all()
    assert (seen.u[:31] == 128).all()
    assert (seen.v[:31] == 128).all()
    assert np.array_equal(seen.y[61:], shown.y[61:])
    keeper = Keeper(tmp_path, ROOM)
    keeper.keep(jpeg_of(seen)[0], frame(1))
    [file] = kept_frames(tmp_path)["gate"].files
    assert np.abs(read_picture(file).y[:48].astype(int) - 128).max() <= 2
    assert blanked(shown, []) is shown


def test_what_is_no_frame_of_ours_is_left_alone_and_told(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ROOM)
    for seq in (1, 2, 3, 4):
        keep(keeper, frame(seq))
    folder = tmp_path / "footage" / "gate"
    whole = (folder / "1-1.jpg").read_bytes()
    (folder / "1-2.jpg").write_bytes((folder / "1-2.jpg").read_bytes()[:-1])  # a power cut
    (folder / "1-3.jpg").write_bytes(b"")
    (folder / "1-9.jpg").write_bytes(whole)  # of another frame
    (folder / "holiday.jpg").write_bytes(whole)
    os.symlink(folder / "1-1.jpg", folder / "1-8.jpg")
    (tmp_path / "footage" / "Not a source").mkdir()
    found = kept_frames(tmp_path)
    assert list(found) == ["gate"]
    assert [file.record.seq for file in found["gate"].files] == [1, 4]
    assert [path.name for path in found["gate"].unreadable] == ["1-2.jpg", "1-3.jpg", "1-9.jpg"]
    before = sorted(folder.iterdir())
    Keeper(tmp_path, Limits(1, 30)).tidy(NOW)
    assert sorted(folder.iterdir()) == before
    (folder / "1-1.jpg").unlink()
    with pytest.raises(PictureDamaged):
        read_picture(found["gate"].files[0])


def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_frame(tmp_path: Path) -> None:
    """A child is killed at each write in turn: what is there is whole, and the next one tidies."""
    keep(Keeper(tmp_path, ROOM), frame(1))
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os._exit(9)
        Path.replace = lambda *_: os._exit(9)  # type: ignore[method-assign]
        try:
            keep(Keeper(tmp_path, ROOM), frame(2))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    folder = tmp_path / "footage" / "gate"
    assert {path.name for path in folder.iterdir()} == {"1-1.jpg", "1-2.new"}
    assert [file.record.seq for file in kept_frames(tmp_path)["gate"].files] == [1]
    newest = Keeper(tmp_path, ROOM).open()
    assert newest["gate"].record.seq == 1
    assert {path.name for path in folder.iterdir()} == {"1-1.jpg"}


def test_a_frame_that_comes_again_replaces_itself(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ROOM)
    keep(keeper, frame(1))
    keep(keeper, frame(1, why="heavy"))
    [file] = kept_frames(tmp_path)["gate"].files
    assert (file.record.why, keeper.nbytes) == ("heavy", file.nbytes)


def test_a_disk_that_is_nearly_full_is_left_to_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path, ROOM)
    keep(keeper, frame(1))
    monkeypatch.setattr(module, "_MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(OSError, match="are left on this disk") as full:
        keep(keeper, frame(2))
    assert full.value.errno == errno.ENOSPC
    monkeypatch.undo()
    keep(keeper, frame(2))
    assert len(kept_frames(tmp_path)["gate"].files) == 2


def test_a_disk_that_ends_within_a_frame_leaves_nothing_of_it(tmp_path: Path) -> None:
    keep(Keeper(tmp_path, ROOM), frame(1))
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            keep(Keeper(tmp_path, ROOM), frame(2))
        except OSError as error:
            os._exit(0 if error.errno == errno.EFBIG else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in (tmp_path / "footage" / "gate").iterdir()] == ["1-1.jpg"]


# -- What goes.


def file(
    seq: int, at: float, why: Why = "even", source: str = "gate", nbytes: int = 100
) -> KeptFile:
    record = frame(seq, source, kept_at=at, why=why)
    return KeptFile(Path(f"{source}/{seq}"), nbytes, record)


def left(files: list[KeptFile], nbytes: int, days: float = 30) -> list[KeptFile]:
    gone = surplus(files, Limits(nbytes, days), NOW)
    assert len({one.path for one in gone}) == len(gone)
    return [one for one in files if one not in gone]


def test_nothing_goes_while_there_is_room() -> None:
    files = [file(n, NOW - n) for n in range(10)]
    assert left(files, 1000) == files


def test_what_is_too_old_goes() -> None:
    files = [file(n, NOW - n * DAY_S) for n in range(6)]
    assert [one.record.seq for one in left(files, 10_000, days=2.5)] == [0, 1, 2]


def test_each_day_keeps_its_part() -> None:
    """Six quiet days with 20 frames each, then one with 2000: the week is not its last hour."""
    start = (NOW // DAY_S) * DAY_S
    files = [file(100 * day + n, start - (6 - day) * DAY_S + 4000 * n)
             for day in range(6) for n in range(20)]  # fmt: skip
    files += [file(5000 + n, start + 40 * n) for n in range(2000)]
    rest = left(files, 200 * 100)
    days = Counter(int(one.record.kept_at // DAY_S) for one in rest)
    assert sum(days.values()) == 190
    assert sorted(days.values()) == [20] * 6 + [70]
    last = [one.record.kept_at - start for one in rest if one.record.kept_at >= start]
    assert last[0] == 0  # spread over the day
    assert max(np.diff(last)) < 3 * 80_000 / 70


def test_a_source_that_sees_much_does_not_push_out_one_that_sees_little() -> None:
    files = [file(n, NOW + n, source="busy") for n in range(100)]
    files += [file(n, NOW + 50 * n, source="calm") for n in range(10)]
    assert Counter(one.record.source for one in left(files, 5000)) == {"busy": 37, "calm": 10}


def test_the_least_useful_go_first() -> None:
    kinds: list[Why] = ["even", "change", "audit", "doubt", "heavy"]
    files = [file(n, NOW + n, kinds[n % 5]) for n in range(50)]
    assert Counter(one.record.why for one in left(files, 2500)) == {
        "audit": 10, "even": 10, "heavy": 3,
    }  # fmt: skip


def test_what_a_user_deleted_is_not_counted_any_more(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ROOM)
    for seq in range(6):
        keep(keeper, frame(seq))
    one = keeper.nbytes // 6
    keeper.limits = Limits(4 * one + one // 2, 30)
    for seq in range(3):
        (tmp_path / "footage" / "gate" / f"1-{seq}.jpg").unlink()
    assert keeper.tidy(NOW) == 0
    assert len(kept_frames(tmp_path)["gate"].files) == 3
    keep(keeper, frame(7))
    keep(keeper, frame(8))
    assert keeper.tidy(NOW) == 1
    assert keeper.nbytes <= keeper.limits.nbytes
    assert read_record(tmp_path / "footage" / "gate" / "1-8.jpg") is not None
