"""The data folder: whose it is, what it remembers, and when it goes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused, FrameStoreFull
from framegate.pipeline.run.ended import read_locked
from framegate.pipeline.run.folder import (
    Fingerprint,
    RunFile,
    RunFolder,
    RunSource,
    as_slot,
    changed,
    drop_old_runs,
    fingerprint,
    open_folder,
    read_run,
    runs_folder,
)
from framegate.pipeline.shared_memory.mapping import free_bytes, make_shared_file
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.runs import environment
from tests.support.servers import server

RUN = RunFile(
    "run-1",
    "store-1",
    (
        RunSource("/a.mp4", name="a", past=3, file=Fingerprint(5, 7, "abc")),
        RunSource(name="b", url_env="B_URL", pace="realtime"),
    ),
)


def test_a_fresh_folder_remembers_its_run(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "x" / "data", resume=False)
    assert folder.read() is None
    folder.write(RUN)
    folder.close(keep=True)

    again = open_folder(tmp_path / "x" / "data", resume=True)
    assert again.read() == RUN
    again.close(keep=True)
    mode = stat.S_IMODE((tmp_path / "x" / "data" / "run.json").stat().st_mode)
    assert mode == 0o600, "a URL in it may carry a password"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_no_other_user_reads_what_a_run_stores(tmp_path: Path) -> None:
    """A folder that was there keeps its mode, and files of 0.2 in it are closed to other users."""
    made = open_folder(tmp_path / "x" / "data", resume=False)
    assert mode_of(made.path) == 0o700
    assert mode_of(made.private_database("events.db")) == 0o600
    made.close(keep=True)

    (tmp_path / "data").mkdir(mode=0o755)
    given = open_folder(tmp_path / "data", resume=False)
    given.store.mkdir(mode=0o755)
    for name in ("events.db", "events.db-wal"):
        (given.path / name).touch(mode=0o644)
    given.private_database("events.db")
    with server(given.store):
        assert mode_of(given.store) == 0o700
    assert mode_of(given.path) == 0o755
    for name in ("events.db", "events.db-wal"):
        assert mode_of(given.path / name) == 0o600
    given.close(keep=True)


def test_a_used_folder_is_refused_and_stays(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data", resume=False)
    folder.write(RUN)
    folder.close(keep=True)
    with pytest.raises(DataFolderRefused, match="contains a run already: add --resume"):
        open_folder(tmp_path / "data", resume=False)
    assert (tmp_path / "data" / "run.json").exists()


def test_a_fresh_folder_may_be_resumed_as_a_service_always_does(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data", resume=True)
    assert folder.read() is None
    folder.close(keep=False)
    assert not (tmp_path / "data").exists()


def test_a_run_of_a_newer_framegate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        '{"v": 4, "run": {"what": "nobody knows"}}', encoding="utf-8"
    )
    with pytest.raises(DataFolderRefused, match=r"a newer Framegate wrote it \(version 4; .* 3\)"):
        open_folder(tmp_path, resume=True)


def test_a_run_of_the_first_version_is_read_and_written_as_this_one(tmp_path: Path) -> None:
    old = {"name": "a", "url": "/a.mp4", "pace": "fast", "past": 3, "file": None}
    run = {"run": "run-1", "identity": "store-1", "v": 1, "sources": [old]}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    folder = open_folder(tmp_path, resume=True)
    read = folder.read()
    assert read is not None
    assert read.sources == (RunSource("/a.mp4", name="a", past=3),)
    assert (read.stays, read.begun) == (False, True)
    folder.write(read)
    folder.close(keep=True)
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["v"] == 3


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """The lock is the operating system's: another process is refused, a dead one holds nothing."""
    folder = open_folder(tmp_path / "data", resume=False)
    script = (
        "import sys; from pathlib import Path; "
        "from framegate.pipeline.run.folder import open_folder\n"
        "open_folder(Path(sys.argv[1]), False); print('mine')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "data")]
    other = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert "is in use by another run; stop that run, or select" in other.stderr
    folder.close(keep=True)
    other = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert other.stdout == "mine\n"
    open_folder(tmp_path / "data", resume=False).close(keep=True)


@pytest.mark.parametrize(("ours", "keep", "there"), [(True, False, False), (True, True, True),
                                                     (False, False, True)])  # fmt: skip
def test_only_our_own_empty_folder_goes(
    tmp_path: Path, ours: bool, keep: bool, there: bool
) -> None:
    path = tmp_path / "data"
    if not ours:
        path.mkdir()
    open_folder(path, resume=False).close(keep)
    assert path.exists() == there


def test_without_a_name_each_run_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, two = open_folder(None, resume=False), open_folder(None, resume=False)
    assert one.path != two.path
    assert one.path.parent == two.path.parent == runs_folder() == tmp_path / "framegate"
    one.close(keep=False)
    two.close(keep=False)
    with pytest.raises(ConfigFaults, match="--resume: needs -d DATA"):
        open_folder(None, resume=True)


def test_a_relative_name_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers and workers have other working directories."""
    monkeypatch.chdir(tmp_path)
    folder = open_folder(Path("data"), resume=False)
    assert folder.path == folder.store.parent == tmp_path / "data"
    folder.close(keep=False)


@pytest.mark.parametrize("content", [b"", b"{", b'{"run": 5}', b"[]", b"\xff"])
def test_a_strange_run_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(DataFolderRefused, match=r"run\.json: .*this is not a file of Framegate"):
        open_folder(tmp_path, resume=True)
    assert (tmp_path / "run.json").read_bytes() == content
    with pytest.raises(DataFolderRefused, match="this is not a file of Framegate"):
        open_folder(tmp_path, resume=False)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(DataFolderRefused, match=f"data folder {path} cannot be created"):
            open_folder(path, resume=False)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFolderRefused, match="its name is not UTF-8"):
        open_folder(tmp_path / os.fsdecode(b"b\xffad"), resume=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ['we "i\\rd', "100%41 ?#[a]*", "üñï\n", "-x", "n" * 150])
def test_a_store_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    """What it writes is there, found by its URL, and read again."""
    with server(tmp_path / name) as store, redis.Redis.from_url(store.url) as client:
        client.set("key", "value")
    assert (tmp_path / name / "appendonlydir").is_dir()
    with server(tmp_path / name) as store, redis.Redis.from_url(store.url) as client:
        assert client.get("key") == b"value"


def remembered(path: Path) -> tuple[RunSource, ...]:
    return (RunSource(str(path), name="a", file=fingerprint(str(path))),)


def long_file(path: Path) -> Path:
    path.write_bytes(bytes(range(256)) * 2048)
    return path


def test_the_same_file_is_unchanged(tmp_path: Path) -> None:
    assert changed(remembered(long_file(tmp_path / "a.mp4"))) == []


@pytest.mark.parametrize("at", [0, 60_000, -1, -60_000])
def test_a_byte_near_either_end_tells(tmp_path: Path, at: int) -> None:
    """Even where size and time are as before."""
    path = long_file(tmp_path / "a.mp4")
    before, was = remembered(path), path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    [fault] = changed(before)
    assert f"source a: {path} has another size or content" in fault


def test_size_time_and_absence_tell(tmp_path: Path) -> None:
    path = long_file(tmp_path / "a.mp4")
    before = remembered(path)
    os.utime(path, ns=(0, 0))
    assert changed(before)
    path.unlink()
    assert changed(before)


def test_what_is_no_file_has_no_fingerprint(tmp_path: Path) -> None:
    places = (tmp_path, tmp_path / "none", "rtsp://cam/1", "/dev/null", "a\0b", "x" * 5000)
    assert {fingerprint(str(place)) for place in places} == {None}
    assert changed((RunSource("rtsp://cam/1", name="a"),)) == []


def test_shared_memory_that_does_not_fit_says_what_is_free(tmp_path: Path) -> None:
    needed = free_bytes(str(tmp_path)) + (1 << 40)
    with pytest.raises(FrameStoreFull) as refused:
        make_shared_file(needed, "source a (4K)", str(tmp_path))
    assert f"source a (4K) needs {needed / 2**20:.1f} MiB of shared memory" in str(refused.value)
    assert f"{tmp_path} has " in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_fit_takes_nothing_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ext4 a reservation that fails holds all free space until it does."""
    reserved = list[int]()
    monkeypatch.setattr(os, "posix_fallocate", lambda _file, _at, nbytes: reserved.append(nbytes))
    with pytest.raises(FrameStoreFull):
        make_shared_file(free_bytes(str(tmp_path)) + (1 << 40), "source a", str(tmp_path))
    assert reserved == []


def test_shared_memory_is_zeroed_and_nameless(tmp_path: Path) -> None:
    descriptor = make_shared_file(100_000, "source a", str(tmp_path))
    try:
        assert os.pread(descriptor, 200_000, 0) == bytes(100_000)
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["models", "store", "certificates", "precision.json"])
def test_a_folder_with_something_that_a_run_would_write_over_is_refused(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    (tmp_path / "holiday.mp4").write_text("mine", encoding="utf-8")
    with pytest.raises(DataFolderRefused, match=f"contains {name}, which no run made"):
        open_folder(tmp_path, resume=True)
    assert {path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"mine"}
    (tmp_path / name).unlink()
    open_folder(tmp_path, resume=False).close(keep=False)


def test_a_folder_that_goes_takes_nothing_of_others_with_it(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data", resume=False)
    (folder.path / "state").mkdir()
    (folder.path / "videos").mkdir()
    (folder.path / "videos" / "a.mp4").write_text("mine", encoding="utf-8")
    folder.close(keep=False)
    assert [path.name for path in folder.path.iterdir()] == ["videos"]
    empty = open_folder(tmp_path / "empty", resume=False)
    empty.close(keep=False)
    assert not empty.path.exists()


def test_sockets_of_killed_runs_go_when_the_next_begins_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a test's own has too long a name
        monkeypatch.setattr(tempfile, "tempdir", short)
        runs = {name: open_folder(long / name, resume=False) for name in ("alive", "killed", "new")}
        runs["alive"].store.mkdir()
        places = {name: EmbeddedStore(runs[name].store, "always").socket.parent for name in runs}
        runs["killed"].close(keep=True)
        assert all(place.is_dir() for place in places.values())
        mine = Path(short, f"framegate-{os.getuid()}-mine")
        mine.mkdir()
        last = EmbeddedStore(long / "last" / "store", "always").socket.parent
        there = set(Path(short).glob("framegate-*"))
        assert there == {places["alive"], places["new"], last, mine}
        for name in ("alive", "new"):
            runs[name].close(keep=False)


def test_an_old_run_that_a_command_reads_stays_and_no_start_waits_for_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = runs_folder() / "20260101-000000-aaaa"
    folder = RunFolder(path, made_by_us=True)
    folder.write(RunFile("r", "i", ()))
    folder.close(keep=True)
    with read_locked(path):  # for as long as the call takes: one that waited would never end
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
        assert drop_old_runs(0) == 0
    assert read_run(path) is not None
    assert drop_old_runs(0) == 1
    assert not path.exists()


def test_of_runs_without_a_folder_the_last_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folders = []
    for number in range(7):
        path = runs_folder() / f"20260101-00000{number}-aaaa"
        folder = RunFolder(path, made_by_us=True)
        folder.write(RunFile("r", "i", ()))
        folder.store.mkdir()
        (path / "recordings" / "door").mkdir(parents=True)
        folders.append(folder)
    in_use, certified, recorded, others, *newer = folders
    (certified.path / "certificates").mkdir()
    (certified.path / "certificates" / "door-1.json").touch()
    (recorded.path / "recordings" / "door" / "1.mp4").touch()
    (others.path / "mine.mp4").touch()
    for folder in (certified, recorded, others, *newer):
        folder.close(keep=True)
    assert drop_old_runs(2) == 2
    left = {path.name for path in runs_folder().iterdir()}
    assert left == {one.path.name for one in (in_use, certified, recorded, others, *newer[1:])}
    assert [path.name for path in others.path.iterdir()] == ["mine.mp4"]
    assert drop_old_runs(20) == 0
    in_use.close(keep=False)


def test_a_run_that_published_nothing_keeps_what_it_recorded(tmp_path: Path) -> None:
    for name, stays in (("bare", False), ("recorded", True)):
        folder = RunFolder(tmp_path / name, made_by_us=True)
        folder.write(RunFile("r", "i", ()))
        (folder.path / "recordings" / "door").mkdir(parents=True)
        if stays:
            (folder.path / "recordings" / "door" / "1.mp4").touch()
        folder.close(keep=False)
        assert folder.path.exists() == stays


def test_a_folder_of_a_run_and_one_of_a_slot_are_not_taken_for_each_other() -> None:
    """Otherwise sources of the run would be forgotten, or those of the slot leave their fleet."""
    folder = Path("data")
    assert as_slot(RUN, "", folder) == RUN
    with pytest.raises(DataFolderRefused, match=r"a run with sources of its own \(a, b\)"):
        as_slot(RUN, "box1", folder)
    given = replace(RUN, sources=(RunSource("/a.mp4", name="a", since=3),))
    slot = as_slot(given, "box1", folder)
    assert slot == replace(given, sources=(), stays=True, slot="box1")
    with pytest.raises(DataFolderRefused, match="framegate run --slot box1 -d data --store URL"):
        as_slot(slot, "", folder)
