"""Episodes are found by filter and page by page; SQL reads and does nothing else."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from framegate.pipeline.contracts.episodes import Changes, Clip, EventEntry
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.review.episode_counts import counts, known_sources
from framegate.pipeline.review.event_database import opened
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.review.search import Episode, EpisodeCursor, EpisodeFilter, episode_of, find
from framegate.pipeline.review.user_sql import guard, rows
from tests.support.said import change, moment


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Sixty episodes of two sources and three rules; several begin at the same moment."""
    projection = Projection(tmp_path / "events.db")
    for source in ("door", "yard"):
        before = START
        for seq in range(1, 31):
            rule = ("visitor", "people", "parked")[seq % 3]
            label = None if rule == "people" else "car" if seq % 2 else "person"
            began = seq // 2 * 2
            said = [change("start", began, seq, source, rule, seq % 2, label=label)]
            if seq < 29:
                told = {"label": label, "clip": Clip(5.0, 2.0), "value": seq / 4}
                said.append(change("end", began, seq, source, rule, seq % 2, **told))
            position = Position(1, seq)
            captured = moment(seq).captured
            projection.take([EventEntry(source, position, before, captured, Changes(tuple(said)))])
            before = position
    projection.close()
    with opened(tmp_path / "events.db") as found:
        yield found


def all_of(
    database: sqlite3.Connection, wanted: EpisodeFilter, page: int, oldest: bool
) -> list[str]:
    found, after = find(database, wanted, page, None, oldest)
    names = [episode.id for episode in found]
    while after is not None:
        assert len(found) == page
        after = EpisodeCursor.parse(str(after))
        found, after = find(database, wanted, page, after, oldest)
        names += [episode.id for episode in found]
    return names


FILTERS = [
    (EpisodeFilter(), lambda _: True),
    (EpisodeFilter(sources=("door",)), lambda e: e.source == "door"),
    (EpisodeFilter(rules=("visitor", "parked")), lambda e: e.rule in ("visitor", "parked")),
    (EpisodeFilter(labels=("car",), sources=("yard",)),
     lambda e: (e.label, e.source) == ("car", "yard")),
    (EpisodeFilter(rules=("people",), since=moment(8).captured),
     lambda e: e.rule == "people" and e.began.seq >= 8),
    (EpisodeFilter(until=moment(12).captured), lambda e: e.began.seq <= 12),
    (EpisodeFilter(open=True), lambda e: e.ended_by is None),
    (EpisodeFilter(rules=("nobody",)), lambda _: False),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FILTERS)))
@pytest.mark.parametrize("page", [1, 7, 100])
def test_pages_are_what_a_filter_leaves_in_order(
    database: sqlite3.Connection, number: int, page: int
) -> None:
    wanted, fits = FILTERS[number]
    everything = find(database, EpisodeFilter(), 1000)[0]
    assert len(everything) == 60
    left = sorted((e for e in everything if fits(e)), key=lambda e: (e.began.captured, e.id))
    names = [episode.id for episode in left]
    assert all_of(database, wanted, page, oldest=True) == names
    assert all_of(database, wanted, page, oldest=False) == names[::-1]


def test_what_went_on_at_a_time_is_found_however_long_it_lasted(tmp_path: Path) -> None:
    draw, projection, spans = random.Random(7), Projection(tmp_path / "events.db"), {}
    ends = [0, 1, 35_999, 36_000, 36_001]  # frames; an hour is where long ones begin
    for n in range(300):
        began = draw.randrange(0, 100_000)
        frames = draw.choice([*ends, draw.randrange(0, 200_000)])
        rank = n % 2
        said = [change("start", began, began, rank=n)]
        if draw.random() < 0.8:
            said.append(change("end", began, began + frames, rank=n))
            spans[said[0].episode] = (began, began + frames)
        else:
            spans[said[0].episode] = (began, None)
        source = ("door", "yard")[rank]
        projection.take([EventEntry(source, Position(1, n + 1), None, None, Changes(tuple(said)))])
    projection.close()
    with opened(tmp_path / "events.db") as found:
        for at in [0, 40_000, 99_999, 150_000, 350_000, *(began for began, _ in spans.values())]:
            names = all_of(found, EpisodeFilter(at=moment(at).captured), 50, oldest=True)
            assert set(names) == {
                name for name, (began, last) in spans.items()
                if began <= at and (last is None or last >= at)
            }, at  # fmt: skip
        wanted = EpisodeFilter(at=moment(50_000).captured, open=True, rules=("visitor",))
        names = all_of(found, wanted, 7, oldest=False)
        assert set(names) == {
            name for name, (began, last) in spans.items() if began <= 50_000 and last is None
        }  # fmt: skip


@pytest.mark.parametrize("number", range(len(FILTERS)))
@pytest.mark.parametrize("past_s", [0.0, 1e6])
def test_counts_are_what_a_filter_leaves_however_long_the_span(
    database: sqlite3.Connection, number: int, past_s: float
) -> None:
    """Of a long span they are counted another way."""
    wanted, keeps = FILTERS[number]
    first = wanted.since or moment(0).captured
    last = (wanted.until or moment(40).captured) + (0 if wanted.until else past_s)
    span = replace(wanted, since=first - (past_s if wanted.since is None else 0), until=last)
    told = counts(database, span, 5.0 if not past_s else 2e3)
    everything, _ = find(database, EpisodeFilter(), 1000)
    kept = Counter((e.source, e.rule, e.direction) for e in everything if keeps(e))
    seen = Counter[tuple[str, str, str | None]]()
    for each in told:
        seen[each.source, each.rule, each.direction] += each.count
    assert seen == kept
    places = [(each.start, each.source, each.rule, each.direction or "") for each in told]
    assert places == sorted(set(places))


def test_sources_are_known_with_what_their_rules_told(database: sqlite3.Connection) -> None:
    door, yard = known_sources(database, moment(0).captured)
    assert (door.source, door.watched, door.unknown) == ("door", None, [])
    assert door.rules == yard.rules == {"parked": 10, "people": 10, "visitor": 10}
    door, _ = known_sources(database, moment(28).captured)
    assert door.rules == {"parked": 1, "people": 1, "visitor": 1}


def test_a_guarded_connection_reads_and_does_nothing_else(database: sqlite3.Connection) -> None:
    guard(database)
    assert len(find(database, EpisodeFilter(), 100)[0]) == 60
    for sql in ("DELETE FROM verdict", "PRAGMA query_only = 0", "ATTACH ':memory:' AS x"):
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            database.execute(sql)
    guard(database, 0.0)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        database.execute("SELECT count(*) FROM episode a, episode b, episode c").fetchone()


def test_an_episode_is_what_was_said_last(database: sqlite3.Connection) -> None:
    found = episode_of(database, "door/visitor/1-6/0")
    assert found == Episode(
        id="door/visitor/1-6/0", source="door", rule="visitor", version="0a1b2c3d", when="inside",
        severity="alert", told=moment(6), began=moment(6), last=moment(6), seconds=0.0,
        label="person", tracks=(6,), value=1.5, direction=None, box=(0.1, 0.2, 0.3, 0.6),
        sightings=1, held=0, models=("light-int8@00000000",), unsure=False, bridged=False,
        ended_by="over", clip=Clip(5.0, 2.0), muted=None, traits=None, verdict=None,
    )  # fmt: skip
    assert episode_of(database, "door/visitor/1-6/9") is None


def test_sql_reads(database: sqlite3.Connection) -> None:
    names, found = rows(database, "SELECT rule, count(*) AS n FROM episode GROUP BY 1 ORDER BY 1")
    assert names == ["rule", "n"]
    assert list(found) == [("parked", 20), ("people", 20), ("visitor", 20)]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DELETE FROM episode", "allowed is one SELECT"),
        ("ATTACH '/tmp/x.db' AS x", "allowed is one SELECT"),
        ("PRAGMA user_version = 7", "allowed is one SELECT"),
        ("CREATE TEMP TABLE x (y)", "allowed is one SELECT"),
        ("SELECT load_extension('x')", "not authorized to use function: load_extension"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT colour FROM episode", "no such column: colour"),
        ("SELECT length(zeroblob(1000000000))", "too big"),
        ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
         "takes longer than 0.05 s"),
        ("", "the statement is empty"),
    ],
)  # fmt: skip
def test_sql_that_does_more_or_takes_too_long_is_refused(
    database: sqlite3.Connection, sql: str, says: str
) -> None:
    with pytest.raises(ConfigFaults, match="--sql: ") as refused:
        list(rows(database, sql, limit_s=0.05)[1])
    assert says in str(refused.value)


def test_there_may_be_no_database(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigFaults, match=r"events\.db: no such file; a run makes it"),
        opened(tmp_path / "events.db"),
    ):
        pass


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize(
    "wanted",
    [
        EpisodeFilter(),
        EpisodeFilter(sources=("door",)),
        EpisodeFilter(rules=("visitor",)),
        EpisodeFilter(labels=("car",)),
        EpisodeFilter(sources=("door",), rules=("visitor",), labels=("car",)),
        EpisodeFilter(rules=("visitor", "people"), since=1.0, until=2e9),
    ],
)
def test_a_page_is_read_along_an_index(
    database: sqlite3.Connection, wanted: EpisodeFilter, oldest: bool
) -> None:
    """Nothing is sorted, and what other filters leave out is seen in the index itself."""
    asked: list[str] = []
    database.set_trace_callback(asked.append)
    find(database, wanted, 10, oldest_first=oldest)
    database.set_trace_callback(None)
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]
    assert any("USING INDEX by_" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
