"""`framegate fsck`: a folder as a run left it is consistent; each way to spoil it is found."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.fsck.check import findings_of, fsck
from framegate.pipeline.fsck.check_folder import strayed_visits
from framegate.pipeline.fsck.snapshot import (
    Discrepancy,
    EpisodeTables,
    FolderSnapshot,
    RecordingFacts,
    SourceFacts,
    StageFacts,
)
from framegate.pipeline.recording.index_tables import ASIDE
from framegate.pipeline.run.ended import read_locked
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.runs.test_recording_runs import WALKED
from tests.support.commands import Command, framegate
from tests.support.episodes import AS_VERSION_2, WALK
from tests.support.recorded import write_both
from tests.support.runs import wait_until

pytestmark = pytest.mark.whole_run

CONSISTENT, INCONSISTENT, USAGE = 0, 1, 2
FRAMES = 225


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results, episodes, visits, and a recording whose clips are pinned."""
    user = tmp_path_factory.mktemp("fsck")
    write_both(user / "gate.mp4", FRAMES / 25, sound=None)
    (user / "walk.py").write_text(WALK, encoding="utf-8")
    (user / "pipeline.toml").write_text(
        WALKED.replace("[stages.cache]", "[stages.windows]"), encoding="utf-8"
    )
    ended = framegate(user, "run", "gate.mp4", "-d", "data")
    assert ended.code == CONSISTENT, ended.err
    return user / "data"


@pytest.fixture(scope="module")
def snapshot(folder: Path) -> FolderSnapshot:
    before = tree(folder)
    checked = fsck(folder)
    assert tree(folder) == before, "a check changes nothing"
    assert checked.findings == []
    assert len(checked.snapshot.sources[0].results.frames) == FRAMES
    assert checked.snapshot.episodes is not None
    assert len(checked.snapshot.episodes.episodes) > 3
    assert checked.snapshot.recordings is not None
    assert len(checked.snapshot.recordings.files) > 1
    return checked.snapshot


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# -- the checks, on a snapshot that is spoilt in one place


Change = Callable[[SourceFacts], SourceFacts]


def counters(**more: int) -> Change:
    def change(source: SourceFacts) -> SourceFacts:
        grown = {name: source.counters.get(name, 0) + n for name, n in more.items()}
        return replace(source, counters={**source.counters, **grown})

    return change


def stage(name: str, **values: Position) -> Change:
    def change(source: SourceFacts) -> SourceFacts:
        facts: StageFacts = replace(source.stages[name], **values)
        return replace(source, stages={**source.stages, name: facts})

    return change


def without_result(seq: int) -> Change:
    def change(source: SourceFacts) -> SourceFacts:
        left = tuple(frame for frame in source.results.frames if frame.seq != seq)
        results = replace(source.results, frames=left, added=len(left) + 1)
        return replace(counters(published=-1, decoded=-1)(source), results=results)

    return change


def ends(**values: Any) -> Change:
    def change(source: SourceFacts) -> SourceFacts:
        ends = {
            at: msgspec.structs.replace(end, **values) for at, end in source.results.ends.items()
        }
        return replace(source, results=replace(source.results, ends=ends))

    return change


def events_without(number: int) -> Change:
    def change(source: SourceFacts) -> SourceFacts:
        return replace(source, events=source.events[:number] + source.events[number + 1 :])

    return change


SPOILT: Mapping[str, tuple[Change, Sequence[str]]] = {
    "a published frame was not counted": (
        counters(published=-1),
        ["decoded frames", "published frames"],
    ),
    "a frame is in flight that nobody decoded": (
        lambda source: replace(source, waiting=frozenset({Position(1, FRAMES + 1)})),
        ["decoded frames"],
    ),
    "a dropped frame was published": (
        counters(**{"dropped:replaced": 1}),
        ["decoded frames"],
    ),
    "a look was counted for another": (
        counters(**{"looked:whole:changed": -1, "looked:no:unchanged": 1}),
        ["counter looked:no:unchanged", "counter looked:whole:changed"],
    ),
    "a result is missing": (without_result(100), ["frames without a result"]),
    "the first result is missing": (without_result(0), ["frames without a result"]),
    "a result names another position": (
        lambda source: replace(source, unreadable={Position(1, 7): "it says 1-8"}),
        ["result 1-7"],
    ),
    "the publisher stands behind its results": (
        stage("cache", position=Position(1, 100)),
        ["position of cache"],
    ),
    "a stage stands behind what it emitted": (
        stage("walk", last=Position(1, FRAMES + 1)),
        ["position of walk"],
    ),
    "a stage is ahead of decode": (
        stage("walk", position=Position(1, FRAMES + 1)),
        ["position of walk"],
    ),
    "a side stage's state is ahead": (
        stage("events", emitted=Position(2, 0)),
        ["position of events"],
    ),
    "an epoch was never allocated": (lambda source: replace(source, epoch=0), ["last epoch"] * 6),
    "another run owns it": (lambda source: replace(source, run="other"), ["owner"]),
    "an end counts other frames": (ends(frames=FRAMES + 1), ["frames of end"]),
    "an end counts dropped frames": (ends(dropped=1), ["end 1-225"]),
    "an end counts damage": (ends(counts={"damaged": 3}), ["counter damaged"]),
    "an entry of events is missing": (events_without(2), ["events: the entry before", "events"]),
    "the start of an episode is missing": (events_without(0), ["events: the entry", "events"]),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_in_a_store_is_found(snapshot: FolderSnapshot, name: str) -> None:
    change, expected = SPOILT[name]
    findings = findings_of(replace(snapshot, sources=(change(snapshot.sources[0]),)))
    assert [finding.kind for finding in findings] == ["fault"] * len(expected), findings
    for finding, words in zip(findings, expected, strict=True):
        assert finding.subject.startswith(f"source gate: {words}"), finding
        assert finding.found != finding.expected
        assert finding.advice


def test_a_camera_may_have_holes_that_were_counted(snapshot: FolderSnapshot) -> None:
    def lossy(source: SourceFacts) -> SourceFacts:
        return counters(decoded=1, **{"dropped:replaced": 1})(without_result(100)(source))

    assert findings_of(replace(snapshot, sources=(lossy(snapshot.sources[0]),))) == []


# -- a folder that is spoilt, and repaired


def sql(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def first(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def torn(file: Path) -> None:
    with file.open("r+b") as held:
        held.seek(100)
        held.write(b"\xff" * 200)


def subjects(findings: Sequence[Discrepancy], kind: str = "fault") -> list[str]:
    return [finding.subject for finding in findings if finding.kind == kind]


def undated(snapshot: FolderSnapshot) -> RecordingFacts:
    """The recordings, without when rows were written: of an adopted file that is its own time."""
    assert snapshot.recordings is not None
    rows = [msgspec.structs.replace(row, written=0.0) for row in snapshot.recordings.rows]
    return replace(snapshot.recordings, rows=tuple(rows))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "data")
    return tmp_path / "data"


def test_rows_that_contradict_their_origin_are_rebuilt(
    copy: Path, snapshot: FolderSnapshot
) -> None:
    index = copy / "recordings" / "index.db"
    clip = first(copy, "recordings/gate/*/*/*.mp4")
    clip.rename(f"{clip}.open")
    sql(index, f"DELETE FROM segment WHERE path LIKE '%{clip.name}'", "UPDATE segment SET pts = 0")
    sql(copy / "recordings" / "pins.db", "DELETE FROM pin WHERE why LIKE '%/1-33/0'")
    sql(
        copy / "events.db",
        "DELETE FROM episode WHERE id LIKE '%/1-0/0'",
        "UPDATE episode SET label = 'cat' WHERE id LIKE '%/1-33/0'",
        "DELETE FROM visits WHERE track = 1",
    )
    (copy / "run.new").write_text("{", encoding="utf-8")
    found = fsck(copy).findings
    assert subjects(found, "unfinished") == [
        "files of interrupted writes",
        f"recording {clip.relative_to(copy / 'recordings')}.open",
    ]
    rows = [subject for subject in subjects(found) if subject.startswith("row of recording")]
    assert len(rows) == len(list(copy.glob("recordings/gate/*/*/*.mp4")))
    assert {*subjects(found)} - {*rows} == {
        "episode gate/visitor/1-0/0",
        "episode gate/visitor/1-33/0",
        "visit gate/1-1/1",
    }
    repaired = fsck(copy, repairs=True)
    assert repaired.findings == []
    assert repaired.snapshot.episodes == snapshot.episodes
    assert undated(repaired.snapshot) == undated(snapshot)
    assert not (copy / "run.new").exists()


def test_a_visit_that_a_limit_removed_is_not_missing() -> None:
    """A limit of 100 has kept the newest visits, and all episodes, which are fewer."""
    visits = {f"v{n}": {"began_captured": float(n)} for n in range(151)}
    newest = {f"v{n}": visits[f"v{n}"] for n in range(50, 151)}
    episodes = {"e": {"began_captured": 0.0}}
    streamed = EpisodeTables(episodes, visits=visits)
    stored = EpisodeTables(episodes, visits=newest)
    facts = FolderSnapshot(200.0, None, {}, "", (), (), (), streamed, stored, None)
    assert strayed_visits(facts) == {}
    changed = {**newest, "v60": {**newest["v60"], "label": "cat"}}
    del changed["v100"]
    stored = EpisodeTables(episodes, visits=changed)
    facts = replace(facts, episodes=stored, streamed=EpisodeTables(episodes, visits=newest))
    assert list(strayed_visits(facts)) == ["v60", "v100"]


def test_marks_of_clips_are_made_again_and_rows_keep_when_they_were_written(copy: Path) -> None:
    """A file that is dated by its own time would go at once if this host's clock was wrong then."""
    index = copy / "recordings" / "index.db"
    sql(index, "UPDATE segment SET pinned = 1, written = 12345.0")
    for file in copy.glob("recordings/gate/*/*/*.mp4"):
        os.utime(file, (1.0, 1.0))
    assert subjects(fsck(copy).findings)
    repaired = fsck(copy, repairs=True)
    assert repaired.findings == []
    assert repaired.snapshot.recordings is not None
    assert {row.written for row in repaired.snapshot.recordings.rows} == {12345.0}


def test_damaged_databases_are_moved_aside_and_made_again(
    copy: Path, snapshot: FolderSnapshot
) -> None:
    files = ["events.db", "recordings/index.db", "recordings/pins.db"]
    for name in files:
        torn(copy / name)
    assert sorted(subjects(fsck(copy).findings)) == files
    repaired = fsck(copy, repairs=True)
    assert repaired.findings == []
    assert repaired.snapshot.episodes == snapshot.episodes
    assert undated(repaired.snapshot) == undated(snapshot)
    for name in files:
        assert (copy / f"{name}{ASIDE}").is_file()


def test_a_verdict_and_its_picture_go_with_an_episode_that_no_stream_has(copy: Path) -> None:
    strange = "gate/visitor/1-1/9"
    sql(
        copy / "events.db",
        "CREATE TEMP TABLE strange AS SELECT * FROM episode LIMIT 1",
        f"UPDATE strange SET id = '{strange}'",
        "INSERT INTO episode SELECT * FROM strange",
        f"INSERT INTO verdict VALUES ('{strange}', 'true', 1.0, 1.0)",
        f"INSERT INTO picture (owner, jpeg) VALUES ('{strange}', x'00')",
    )
    assert set(subjects(fsck(copy).findings)) == {f"episode {strange}"}
    assert fsck(copy, repairs=True).findings == []
    with closing(sqlite3.connect(copy / "events.db")) as database:
        for table, owner in (("verdict", "episode"), ("picture", "owner")):
            left = database.execute(f"SELECT 1 FROM {table} WHERE {owner} = ?", (strange,))
            assert left.fetchall() == []


def overwrite_events(folder: Path, *positions: str) -> None:
    """Replace the content of entries of the events, whose positions stay."""
    store = EmbeddedStore(folder / "store", "always")
    store.start()
    with redis.Redis.from_url(store.url) as client:
        stream = "fg:{gate}:out:events"
        entries = client.xrange(stream)
        client.delete(stream)
        for at, fields in entries:
            if at.decode() in positions:
                fields[b"d"] = b"\xc1"
            client.xadd(stream, fields, id=at)
    store.stop()


def test_unreadable_entries_of_events_cost_no_episode_verdict_or_pin(
    copy: Path, snapshot: FolderSnapshot
) -> None:
    sql(
        copy / "events.db",
        "INSERT INTO verdict SELECT id, 'false', 1.0, began_captured FROM episode LIMIT 1",
    )
    overwrite_events(copy, "1-1", "1-58", "1-98")  # all of an episode, and the end of another
    found = fsck(copy).findings
    assert {finding.part for finding in found} == {None}, "nothing to rebuild from a damaged stream"
    repaired = fsck(copy, repairs=True).snapshot
    assert repaired.episodes == snapshot.episodes
    assert undated(repaired) == undated(snapshot)
    with closing(sqlite3.connect(copy / "events.db")) as database:
        assert database.execute("SELECT verdict FROM verdict").fetchall() == [("false",)]


def test_clips_of_episodes_that_only_a_damaged_database_had_stay_pinned(
    copy: Path, snapshot: FolderSnapshot
) -> None:
    store = EmbeddedStore(copy / "store", "always")
    store.start()
    with redis.Redis.from_url(store.url) as client:
        client.xtrim("fg:{gate}:out:events", maxlen=2, approximate=False)
    store.stop()
    torn(copy / "events.db")
    for _ in range(2):
        repaired = fsck(copy, repairs=True).snapshot
        assert repaired.episodes is not None
        assert len(repaired.episodes.episodes) == 2
        assert undated(repaired).pins == undated(snapshot).pins


def test_episodes_of_0_2_are_checked_and_not_moved_aside(copy: Path) -> None:
    """Their verdicts are nowhere else. They lack traits and visits, which these streams have."""
    file = copy / "events.db"
    sql(
        file,
        "INSERT INTO verdict SELECT id, 'false', 1.0, began_captured FROM episode LIMIT 1",
        *AS_VERSION_2,
    )
    assert {each.part for each in fsck(copy).findings} == {"episodes"}, "the rows differ"
    assert fsck(copy, repairs=True).findings == []
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT verdict FROM verdict").fetchall() == [("false",)]


def test_a_database_in_which_a_killed_run_made_no_tables_is_unfinished(
    copy: Path, snapshot: FolderSnapshot
) -> None:
    for file in copy.glob("events.db*"):
        file.unlink()
    (copy / "events.db").touch()
    found = fsck(copy).findings
    assert subjects(found) == []
    assert subjects(found, "unfinished") == ["source gate: events.db"] * 2, "of both streams"
    repaired = fsck(copy, repairs=True)
    assert repaired.findings == []
    assert repaired.snapshot.episodes == snapshot.episodes


def test_the_command_says_it_and_exits_with_it(copy: Path, tmp_path: Path) -> None:
    assert "data: consistent" in framegate(tmp_path, "fsck", "data").out
    store = EmbeddedStore(copy / "store", "always")
    store.start()
    with redis.Redis.from_url(store.url) as client:
        client.xdel("fg:{gate}:results", "1-100")
    store.stop()
    first(copy, "recordings/gate/*/*/*.mp4").unlink()
    found = framegate(tmp_path, "fsck", "data", "--json")
    assert found.code == INCONSISTENT
    findings = [json.loads(line) for line in found.out.splitlines()]
    assert [each["subject"] for each in findings] == [
        "source gate: frames without a result",
        "recordings/index.db",
    ]
    repaired = framegate(tmp_path, "fsck", "data", "--repair")
    assert repaired.code == INCONSISTENT, "nothing else has that result"
    assert "repaired: recordings/index.db: 1 rows without a file" in repaired.out
    assert "1 fault;" in repaired.out
    nowhere = framegate(tmp_path, "fsck", "nowhere")
    assert nowhere.code == USAGE
    assert "nowhere" in nowhere.err


def test_entries_that_cannot_be_read_are_findings(copy: Path) -> None:
    store = EmbeddedStore(copy / "store", "always")
    store.start()
    with redis.Redis.from_url(store.url) as client:
        client.xadd("fg:{gate}:results", {"k": "end", "d": b"\xc1"}, id="2-0")
        client.hset("fg:{gate}:at:decode", "s", b"\xc1")
    store.stop()
    found = fsck(copy).findings
    assert "source gate: result 2-0" in subjects(found)


def test_a_folder_that_another_command_reads_is_not_repaired(copy: Path) -> None:
    with read_locked(copy):
        assert fsck(copy).findings == []
        with pytest.raises(ConfigFaults, match="another command reads this folder"):
            fsck(copy, repairs=True)


def test_an_active_run_is_refused_and_a_killed_one_is_finished(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("walk.py", "pipeline.toml", "gate.mp4"):
        shutil.copy(folder.parent / name, tmp_path)
    data = tmp_path / "data"
    words = ("run", "gate.mp4", "-d", "data", "--pace", "realtime")
    with Command(tmp_path, *words) as run:
        wait_until("a file grows", lambda: [*data.glob("recordings/gate/1/*/*.open")])
        checker = tmp_path / "checker"
        checker.mkdir()
        refused = framegate(checker, "fsck", str(data))
        run.process.kill()
    assert refused.code == USAGE
    assert "a run uses this folder" in refused.err
    wait_until("its workers have gone", lambda: not is_used(data))
    killed = fsck(data)
    assert subjects(killed.findings) == []
    left = subjects(killed.findings, "unfinished")
    assert any(subject.endswith(".mp4.open") for subject in left), left
    repaired = fsck(data, repairs=True)
    assert [finding.part for finding in repaired.findings if finding.part] == []
    assert not [*data.glob("recordings/gate/1/*/*.open")]


def is_used(data: Path) -> bool:
    """Return whether a process has a file of the folder open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink().is_relative_to(data):
                return True
    return False
