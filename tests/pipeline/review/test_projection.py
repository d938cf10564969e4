"""The database of episodes: the same whatever was read twice, killed in between, or read anew."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Changes, Clip, EventEntry
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.contracts.visits import VisitEntry
from framegate.pipeline.recording.index import Index
from framegate.pipeline.review.event_database import DatabaseRefused, opened
from framegate.pipeline.review.projection import MAX_GAPS, Gap, Projection, Watched
from framegate.pipeline.review.projector import Projector, projected, watched
from framegate.pipeline.review.verdicts import verdict_counts
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visits import VisitQuery, search
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.episodes import AS_VERSION_2
from tests.support.host_clocks import SimulatedHost
from tests.support.runs import wait_until
from tests.support.said import BEGAN, Sayer, change, moment, visit
from tests.support.servers import server

TABLES = ("episode", "change", "visits", "unknown", "lost", "stream")


def contents(projection: Projection) -> dict[str, list[Any]]:
    """All rows that follow from the stream; when they were written does not."""
    ask, found = projection.database.execute, {}
    for table in TABLES:
        names = [name for _, name, *_ in ask(f"PRAGMA table_info({table})")]
        columns = ", ".join(f'"{name}"' for name in names if name != "kept")
        found[table] = ask(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3").fetchall()
    return found


def made(seed: int) -> list[EventEntry | VisitEntry]:
    """What rules said of two sources: episodes that overlap, updates, ends of epochs."""
    rng = random.Random(seed)
    found: list[EventEntry | VisitEntry] = []
    for source in ("door", "yard"):
        before, visited, open_now = START, START, list[int]()
        for epoch in (1, 2):
            for seq in range(0, 400, 7):
                changes = []
                over = [b for b in open_now if rng.random() < 0.3]
                for began in over:
                    open_now.remove(began)
                    changes.append(change("end", began, seq, source, epoch=epoch))
                changes += [
                    change("update", b, seq, source, epoch=epoch, number=1 + (seq - b) // 7)
                    for b in open_now
                ]
                if rng.random() < 0.4:
                    open_now.append(seq)
                    changes.append(change("start", seq, seq, source, epoch=epoch))
                unknown = ("empty",) if seq % 70 == 0 else ()
                known = ("empty",) if seq % 70 == 35 else ()
                at, captured = Position(epoch, seq), moment(seq, epoch).captured
                visits = tuple(visit(b, seq, b % 1000, source, epoch) for b in over)
                if visits:
                    found.append(VisitEntry(source, at, visited, visits))
                    visited = at
                if changes or unknown or known:
                    said = Changes(tuple(changes), unknown, known)
                    found.append(EventEntry(source, at, before, captured, said))
                    before = at
            ends = [change("end", b, 400, source, epoch=epoch, ended_by="unseen") for b in open_now]
            open_now.clear()
            found.append(EventEntry(source, Position(epoch, 400), None, None, Changes(tuple(ends))))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_in_any_parts_and_again_is_the_same(tmp_path: Path, seed: int) -> None:
    said = made(seed)
    whole = Projection(None)
    assert whole.take(said) == []
    rng = random.Random(seed)
    for number in range(5):
        file, at = tmp_path / f"{number}.db", 0
        while at < len(said):
            part = Projection(file)  # as after a kill: where it stands is in the file alone
            from_here = max(0, at - rng.randrange(30))
            at = min(len(said), at + rng.randrange(1, 60))
            assert part.take(said[from_here:at]) == []
            part.close()
        part = Projection(file)
        assert contents(part) == contents(whole)
        part.close()
    rows = whole.database.execute(
        "SELECT count(*), sum(step = 'start'), sum(step = 'end') FROM change"
    ).fetchone()
    changes = [c for each in said if isinstance(each, EventEntry) for c in each.changes.changes]
    starts = sum(c.step == "start" for c in changes)
    assert rows == (len(changes), starts, starts)
    assert whole.database.execute("SELECT count(*) FROM episode").fetchone() == (starts,)
    visits = [each for entry in said if isinstance(entry, VisitEntry) for each in entry.visits]
    rows = whole.database.execute("SELECT id, feature FROM visits").fetchall()
    assert len(rows) == len(visits) > 50
    assert dict(rows) == {each.id: each.feature for each in visits}
    for each in search(VisitIndex(), whole.database, VisitQuery(limit=1000)).found:
        began = each.visit.id.replace("/", "/visitor/", 1).rsplit("/", 1)[0]
        assert each.visit.episodes == (f"{began}/0",), "the rule's episode began with the track"


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    said = made(5)
    projection = Projection(tmp_path / "events.db")
    projection.take(said[:40])
    before = contents(projection)
    projection.database.execute("PRAGMA max_page_count = 1")  # as a disk that is full
    with pytest.raises(sqlite3.OperationalError, match="full"):
        projection.take(said[40:])
    projection.database.execute("PRAGMA max_page_count = 1000000")
    assert contents(projection) == before
    projection.take(said[40:])
    whole = Projection(None)
    whole.take(said)
    assert contents(projection) == contents(whole)


def test_of_the_gaps_of_each_stream_the_newest_stay() -> None:
    projection = Projection(None)
    for name in ("door", "yard"):
        for epoch in range(1, 2 * MAX_GAPS + 1):
            before = Position(epoch, 9)  # after the last frame that was read
            projection.take([EventEntry(name, Position(epoch, 10), before, BEGAN, Changes())])
    projection.keep(0, 0.0)
    rows = projection.database.execute("SELECT source, before FROM lost")
    newest = [f"{epoch}-10" for epoch in range(MAX_GAPS + 1, 2 * MAX_GAPS + 1)]
    expected = [(name, before) for name in ("door", "yard") for before in newest]
    assert sorted(rows) == sorted(expected)


def test_only_so_many_and_so_old_ones_stay(tmp_path: Path) -> None:
    file, host = tmp_path / "events.db", SimulatedHost(BEGAN)
    projection = Projection(file, host)
    said = [
        EventEntry("door", Position(1, n), Position(1, n - 1), moment(n).captured,
             Changes((change("start", n, n), change("end", n, n))))
        for n in range(1, 3001)
    ]  # fmt: skip
    said[0] = EventEntry("door", Position(1, 1), START, moment(1).captured, said[0].changes)
    projection.take(said[:2499])
    host.passes(51.0)
    projection.take(said[2499:])
    first, last = said[0].changes.changes[0].episode, said[-1].changes.changes[0].episode
    for name in (first, last):
        projection.database.execute("INSERT INTO verdict VALUES (?, 'true', 1.0, 1.0)", (name,))
    assert projection.keep(0, 0.0) == 0
    assert projection.keep(1000, 0.0) == 2000
    assert projection.keep(0, 52.0) == 0
    assert projection.keep(0, 50.0) == 499
    count = projection.database.execute
    assert count("SELECT count(*) FROM episode").fetchone() == (501,)
    assert count("SELECT count(*) FROM change").fetchone() == (1002,)
    assert count("SELECT episode FROM verdict").fetchall() == [(last,)]
    projection.keep(1, 0.0)
    projection.close()
    assert file.stat().st_size < 300_000, "the file gives its room back"


def test_files_of_others_and_of_newer_ones_are_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseRefused, match=r"foreign\.db: file is not a database"):
        Projection(foreign)
    assert foreign.read_bytes() == b"no database at all" * 100
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(DatabaseRefused, match="a newer Framegate wrote it"):
        Projection(newer)


def test_episodes_of_0_2_are_kept_whatever_their_camera_s_clock_said(
    tmp_path: Path,
) -> None:
    """Nobody noted when they were written: a camera in 1970 or ten years ahead says nothing."""
    file, now = tmp_path / "events.db", BEGAN + 300 * 86_400
    projection = Projection(file)
    for n, source in enumerate(("door", "yard", "gate")):
        said = change("start", n, n, source)
        projection.take([EventEntry(source, Position(1, n), START, BEGAN, Changes((said,)))])
    ask = projection.database.execute
    for source, captured in (("yard", 150.0), ("gate", now + 3650 * 86_400.0)):
        ask("UPDATE episode SET told_captured = ? WHERE source = ?", (captured, source))
    for statement in AS_VERSION_2:
        ask(statement)
    projection.close()
    host = SimulatedHost(now)
    projection = Projection(file, host)
    assert projection.keep(0, 301 * 86_400.0) == 0
    assert projection.keep(0, 299 * 86_400.0) == 1, "the one whose time was plausible"
    host.passes(300 * 86_400.0)
    assert projection.keep(0, 299 * 86_400.0) == 2
    projection.close()


def test_a_database_of_0_2_is_brought_up_to_date_by_a_run(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    projection = Projection(file)
    projection.take(made(1))
    (name, began) = projection.database.execute(
        "SELECT id, began_captured FROM episode LIMIT 1"
    ).fetchone()
    before = {**contents(projection), "visits": []}  # that version had none
    before["stream"] = [row for row in before["stream"] if row[1] == keys.EVENTS]
    for statement in (
        f"INSERT INTO verdict VALUES ('{name}', 'false', 1.0, {began})",
        *AS_VERSION_2,
    ):
        projection.database.execute(statement)
    projection.close()
    written = file.read_bytes()
    with opened(file) as older:
        assert sum(one.false for one in verdict_counts(older, began, began)) == 1
    assert file.read_bytes() == written
    projection = Projection(file)
    assert contents(projection) == before
    told = verdict_counts(projection.database, began, began)
    assert sum(one.false for one in told) == 1
    projection.close()


# -- Beside a run.


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with server(tmp_path / "store") as running:
        yield running


@pytest.fixture
def sayer(store: EmbeddedStore) -> Iterator[Sayer]:
    made = Sayer(store)
    yield made
    made.client.close()


def specs(*names: str) -> list[SourceSpec]:
    return [SourceSpec("", name=name, past=0, credit=4, slots=5, pace="fast") for name in names]


def ids(file: Path) -> list[str]:
    if not file.exists():
        return []
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        try:
            return [name for (name,) in database.execute("SELECT id FROM episode ORDER BY id")]
        except sqlite3.OperationalError:  # it is being made
            return []


def test_a_removed_source_is_read_although_others_change_meanwhile(
    store: EmbeddedStore, sayer: Sayer, tmp_path: Path
) -> None:
    file = tmp_path / "events.db"

    async def follow() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("door", "yard"))
        task = asyncio.create_task(projector.run())
        sayer.say("door", 3, change("start", 3, 3))
        await asyncio.to_thread(wait_until, "it is read", lambda: len(ids(file)) == 1)
        sayer.say("door", 9, change("start", 9, 9))
        for _ in range(20):  # each change ends the reading before it could finish
            projector.take_sources(specs("yard"))
            await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, "the last is read", lambda: len(ids(file)) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())


def test_a_removed_source_that_the_store_forgot_keeps_no_other_unread(
    store: EmbeddedStore, sayer: Sayer, tmp_path: Path
) -> None:
    file = tmp_path / "events.db"

    async def follow() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("door", "gone", "yard"))
        task = asyncio.create_task(projector.run())
        sayer.say("door", 3, change("start", 3, 3))
        await asyncio.to_thread(wait_until, "it is read", lambda: len(ids(file)) == 1)
        sayer.say("door", 9, change("start", 9, 9))
        projector.take_sources(specs("yard"))  # the store has never had "gone"
        await asyncio.to_thread(wait_until, "the last is read", lambda: len(ids(file)) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())


def test_a_projector_follows_a_run_and_goes_on_where_it_was(
    store: EmbeddedStore, sayer: Sayer, tmp_path: Path
) -> None:
    file = tmp_path / "events.db"

    async def first() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("door"))
        task = asyncio.create_task(projector.run())
        sayer.publish("door", 0)
        sayer.say("door", 3, change("start", 3, 3))
        await asyncio.to_thread(wait_until, "it is read", lambda: len(ids(file)) == 1)
        sayer.say("yard", 2, change("start", 2, 2, "yard"))
        projector.take_sources(specs("door", "yard"))
        await asyncio.to_thread(wait_until, "both are", lambda: len(ids(file)) == 2)
        sayer.say("door", 5, change("end", 3, 5))
        sayer.end("yard", 9, change("end", 2, 9, "yard", ended_by="source_ended"))
        sayer.publish("door", 50)
        projector.take_sources(specs("door"))  # yard was removed: what it left is read
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(first())
    sayer.say("door", 7, change("start", 7, 7))

    async def second() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("door", "yard"))
        task = asyncio.create_task(projector.run())
        await asyncio.to_thread(wait_until, "the rest is read", lambda: len(ids(file)) == 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(second())
    read = Projection(file)
    anew = projected(store.url)
    assert contents(read) == contents(anew)
    assert contents(read)["lost"] == []
    assert read.database.execute("SELECT source, epoch, first, last FROM watched").fetchall() == [
        ("door", 1, BEGAN, moment(50).captured)
    ]
    ends = read.database.execute("SELECT id, ended_by FROM episode ORDER BY id").fetchall()
    assert ends == [
        ("door/visitor/1-3/0", "over"),
        ("door/visitor/1-7/0", None),
        ("yard/visitor/1-2/0", "source_ended"),
    ]


def test_what_was_removed_before_it_was_read_is_told(sayer: Sayer) -> None:
    for seq in range(1, 6):
        sayer.say("door", seq, change("start", seq, seq))
    projection = Projection(None)
    for each in sayer.said()[:2]:
        projection.take([each])
    sayer.forget("door", "1-3")
    assert projection.take(sayer.said()) == [], "removed after it was read"
    sayer.say("door", 6, change("start", 6, 6))
    sayer.say("door", 9, change("start", 9, 9))
    sayer.forget("door", "1-9")
    assert projection.take(sayer.said()) == [
        Gap("door", keys.EVENTS, Position(1, 5), Position(1, 9))
    ]
    assert contents(projection)["lost"] == [("door", "events", "1-5", "1-9")]


def test_a_disk_that_takes_nothing_is_waited_for(
    store: EmbeddedStore,
    sayer: Sayer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("framegate.pipeline.review.projector.TRY_AGAIN_S", 0.05)
    file = tmp_path / "events.db"
    Projection(file).close()
    sayer.say("door", 3, change("start", 3, 3))
    holder = sqlite3.connect(file, isolation_level=None)
    monkeypatch.setattr("framegate.pipeline.review.event_database.BUSY_S", 0.05)

    async def follow() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("door"))
        holder.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(projector.run())
        await asyncio.to_thread(wait_until, "it is refused", lambda: "locked" in caplog.text)
        assert ids(file) == []
        holder.execute("ROLLBACK")
        await asyncio.to_thread(wait_until, "it is taken", lambda: len(ids(file)) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())
    holder.close()


def test_a_clip_that_cannot_be_pinned_is_pinned_later(
    store: EmbeddedStore, sayer: Sayer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The episode is stored at once; nobody repeats the change that pins its clip."""
    clip, file = Clip(1.0, 1.0), tmp_path / "events.db"
    obstacle = tmp_path / "recordings" / "pins.db"
    obstacle.mkdir(parents=True)
    sayer.say("door", 3, change("start", 3, 3, clip=clip), change("end", 3, 3, clip=clip))

    async def follow() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("door"))
        task = asyncio.create_task(projector.run())
        await asyncio.to_thread(wait_until, "it is stored", lambda: len(ids(file)) == 1)
        assert "are pinned later" in caplog.text
        obstacle.rmdir()
        sayer.say("door", 9, change("start", 9, 9, clip=clip))
        await asyncio.to_thread(wait_until, "the next is stored", lambda: len(ids(file)) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())
    with closing(Index(tmp_path)) as index:
        assert [pin.why for pin in index.pins()] == ids(file)


def test_clips_of_an_episode_that_was_copied_are_pinned_when_its_source_moves_here(
    store: EmbeddedStore, sayer: Sayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of its clip is recorded here, by a slot that had no file of it when it copied it."""
    monkeypatch.setattr("framegate.pipeline.review.projector.TIDY_S", 0.05)
    file = tmp_path / "events.db"
    for began in (3, 90_000):  # an hour apart
        clip = Clip(1.0, 30.0)
        steps = [change(step, began, began + 9, clip=clip) for step in ("start", "end")]
        sayer.say("door", began + 9, *steps)

    async def follow() -> None:
        projector = Projector(store.url, file, 0, 0.0)
        projector.take_sources(specs("yard"))
        projector.take_fleet(["door", "yard"])
        task = asyncio.create_task(projector.run())
        await asyncio.to_thread(wait_until, "they are copied", lambda: len(ids(file)) == 2)
        projector.take_sources(specs("door", "yard"))
        await asyncio.sleep(0)
        Index(tmp_path).close()  # the recorder begins later than the projector takes the source
        await asyncio.to_thread(wait_until, "one is pinned", lambda: pinned() != [])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def pinned() -> list[str]:
        with closing(Index(tmp_path)) as index:
            return [pin.why for pin in index.pins()]

    asyncio.run(follow())
    assert pinned() == ["door/visitor/1-90000/0"], "the other one was over long before"


def test_what_cannot_be_read_is_told_and_passed_over(
    store: EmbeddedStore, sayer: Sayer, caplog: pytest.LogCaptureFixture
) -> None:
    sayer.say("door", 3, change("start", 3, 3))
    sayer.say("door", 4, unknown="no list")
    sayer.client.xadd(keys.out("door", keys.EVENTS), {"k": "frame", "d": b"\xc1"}, id="1-5")
    sayer.say("door", 6, change("end", 3, 6))
    read = projected(store.url)
    assert read.database.execute("SELECT id, ended_by FROM episode").fetchall() == [
        ("door/visitor/1-3/0", "over")
    ]
    assert contents(read)["lost"] == []
    said = [line for line in caplog.messages if "cannot be read" in line]
    assert [line.partition(":")[0] for line in said] == ["source door"] * 2


def test_which_frames_were_watched(store: EmbeddedStore, sayer: Sayer) -> None:
    assert watched(store.url, ["door"]) == []
    for epoch, seq in ((1, 0), (1, 9), (2, 4), (2, 8)):
        sayer.publish("door", seq, epoch)
    seen = [
        Watched("door", 2, moment(4, 2).captured, moment(8, 2).captured),
        Watched("door", 1, moment(0).captured, moment(9).captured),
    ]
    assert watched(store.url, ["door", "yard"]) == seen


def test_ends_that_are_repeated_while_a_camera_is_away_hide_no_frame(
    store: EmbeddedStore, sayer: Sayer
) -> None:
    def end(source: str, at: str, **facts: Any) -> None:
        said = records.encode(End(records.VERSION, last=False, **facts))
        sayer.client.xadd(keys.results(source), {"k": "end", "d": said}, id=at)

    for seq in range(10):
        sayer.publish("door", seq, 1)
    end("door", "1-10", frames=10, fault="closed: the camera ended the stream")
    for seq in range(11, 14):
        end("door", f"1-{seq}", frames=10, fault="unreachable: refused " + "x" * 300, away_s=seq)
    end("door", "1-14", frames=14, fault="permission: refused", away_s=14.0)  # of another worker
    for seq in range(3):
        end("yard", f"7-{seq}", frames=0, fault="permission: refused", away_s=seq + 1.0, since=50.0)
    [door, yard] = watched(store.url, ["door", "yard"])
    assert door == Watched("door", 1, moment(0).captured, moment(9).captured, "permission: refused")
    assert yard == Watched("yard", 7, 50.0, 50.0, "permission: refused")
    sayer.client.xdel(keys.results("door"), "1-14")
    [door] = watched(store.url, ["door"])
    assert (door.last, len(door.why or "")) == (moment(9).captured, 200)
