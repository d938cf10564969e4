"""Look for episodes in their database: by filter, page by page, as counts, or by SQL.

Readers never wait for who writes, and write nothing themselves. Any thread: one connection each.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from framegate.pipeline.contracts.episodes import (
    Clip,
    Direction,
    EndedBy,
    Moment,
    Severity,
    Step,
    When,
)
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.review.projection import COLUMNS, LONG_S, Gap, open_to_read

SQL_S: Final = 10.0
SQL_BYTES: Final = 16 << 20  # of one value
STEPS: Final = 20_000  # of SQLite's machine between two looks at the clock
MOST_BUCKETS: Final = 2000
SORTED_S: Final = 7 * 86400.0  # of a longer span episodes are not sorted to be counted
MOST_STRETCHES: Final = 5000

EpisodeVerdict = Literal["true", "false", "unsure"]


class Episode(msgspec.Struct, frozen=True):
    """A time in which a rule held, as far as it is known.

    id         `<source>/<rule>/<epoch>-<seq>/<n>`: where it became true, and its rank there
    source     name of the source
    rule       name of the rule
    version    eight hex digits of the digest of the rule with its areas and lines
    when       predicate of the rule
    severity   of the rule
    told       frame at which it was said that it began: it may have had to hold for a while
    began      first frame in which the rule held, or where a line was met
    last       last evidence for it; once it has ended, when that was
    seconds    of the media, from `began` to `last`
    label      class of its object, or label of a sound; null where it has none or several
    tracks     numbers of its objects, a handed-over one after the one before
    value      what its rule measures: how many, how fast, how far apart, a sound's score; or null
    direction  of a crossing, as the line is drawn
    box        of its object as it began, x1, y1, x2, y2 as shares of the picture, 0 to 1
    sightings  frames with evidence in which a network saw it
    held       frames in which it was taken to be there still, without a look
    models     that made the first evidence
    unsure     for longer than the rule bridges nobody knew whether it held
    bridged    what it tells happened in a gap, between two sightings
    ended_by   why it ended; null while it goes on
    clip       what of a recording belongs to it; null for none
    verdict    what somebody said of it; null: nobody has
    """

    id: str
    source: str
    rule: str
    version: str
    when: When
    severity: Severity
    told: Moment
    began: Moment
    last: Moment
    seconds: float
    label: str | None
    tracks: tuple[int, ...]
    value: float | None
    direction: Direction | None
    box: tuple[float, float, float, float] | None
    sightings: int
    held: int
    models: tuple[str, ...]
    unsure: bool
    bridged: bool
    ended_by: EndedBy | None
    clip: Clip | None
    verdict: EpisodeVerdict | None


class EpisodeCursor(NamedTuple):
    """Where a list of episodes goes on: after the one that began then and has this id."""

    began: float
    id: str

    def __str__(self) -> str:
        return f"{self.began!r},{self.id}"

    @classmethod
    def parse(cls, text: str) -> EpisodeCursor:
        """Read `<began>,<id>`; ValueError on anything else."""
        began, _, name = text.partition(",")
        if not name:
            raise ValueError(f"{text[:80]!r} is not a cursor; use the `next` of a response")
        return cls(float(began), name)


@dataclass(frozen=True)
class EpisodeFilter:
    """Which episodes are wanted: of any of these sources, of any of these rules, and so on.

    since, until  UNIX seconds between which they began, both included
    open          only those that go on still
    at            only those that went on at that time, UNIX seconds
    """

    sources: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    open: bool = False
    at: float | None = None

    def where(self) -> tuple[str, list[Any], str]:
        """As SQL: conditions, what they hold, and which index has most of them."""
        parts, held = ["1"], list[Any]()
        plus = "" if self.at is None else "+"  # keeps SQLite from an index
        lists = (("rule", self.rules), ("source", self.sources), ("label", self.labels))
        for column, names in lists:
            if names:
                parts.append(f"{plus}{column} IN ({', '.join('?' * len(names))})")
                held += names
        for sign, moment in ((">=", self.since), ("<=", self.until)):
            if moment is not None:
                parts.append(f"{plus}began_captured {sign} ?")
                held.append(moment)
        if self.open:
            parts.append("ended_by IS NULL")
        if self.at is not None:
            parts.append(f"id IN ({_WENT_ON})")
            held += [self.at] * _WENT_ON.count("?")
            return " AND ".join(parts), held, ""
        index = next((f"by_{column}" for column, names in lists if len(names) == 1), "by_time")
        return " AND ".join(parts), held, f"INDEXED BY {'still_open' if self.open else index}"


# Of what ended, those that are short began not long before, and those that are long are few.
_WENT_ON: Final = f"""
SELECT id FROM episode INDEXED BY by_time
 WHERE began_captured <= ? AND began_captured >= ? - {LONG_S} AND last_captured >= ?
UNION SELECT id FROM episode
 WHERE last_captured - began_captured > {LONG_S} AND last_captured >= ? AND began_captured <= ?
UNION SELECT id FROM episode INDEXED BY still_open WHERE ended_by IS NULL AND began_captured <= ?
"""


_FIELDS: Final = ", ".join(f'e."{name}"' for name in COLUMNS)
_EPISODES: Final = (
    f"SELECT {_FIELDS}, verdict FROM episode e {{}} LEFT JOIN verdict v ON v.episode = e.id"
)


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database to read, also that of an older version, for the length of a block.
    ConfigFaults if there is none; DatabaseRefused.
    """
    if not file.is_file():
        raise ConfigFaults([f"{file}: no such file; a run with rules ([events]) makes it"])
    with closing(open_to_read(file)) as found:
        yield found


def find(
    database: sqlite3.Connection,
    wanted: EpisodeFilter,
    limit: int,
    after: EpisodeCursor | None = None,
    oldest_first: bool = False,
) -> tuple[list[Episode], EpisodeCursor | None]:
    """Return episodes in the order in which they began, the newest first unless it is said, and
    where the list goes on; None: it ends here.
    """
    where, held, index = wanted.where()
    order, sign = ("ASC", ">") if oldest_first else ("DESC", "<")
    if after is not None:
        where += f" AND (began_captured, id) {sign} (?, ?)"
        held += after
    query = (
        f"{_EPISODES.format(index)} WHERE {where}"
        f" ORDER BY began_captured {order}, id {order} LIMIT ?"
    )
    rows = database.execute(query, (*held, limit + 1)).fetchall()
    found = [_episode(row) for row in rows[:limit]]
    more = EpisodeCursor(found[-1].began.captured, found[-1].id) if len(rows) > limit else None
    return found, more


def flat(
    database: sqlite3.Connection, wanted: EpisodeFilter
) -> tuple[dict[str, str], Iterator[tuple[Any, ...]]]:
    """Return all episodes of a filter as rows, the oldest first, and the columns that these have:
    those of the table, and `verdict`, each with its type in SQLite.
    """
    kinds = {row[1]: row[2] for row in database.execute("PRAGMA table_info(episode)")}
    columns = {**{name: kinds[name] for name in COLUMNS}, "verdict": "TEXT"}
    where, held, index = wanted.where()
    query = f"{_EPISODES.format(index)} WHERE {where} ORDER BY began_captured, id"
    return columns, database.execute(query, held)


def one(database: sqlite3.Connection, name: str) -> Episode | None:
    """Return the episode of this id."""
    row = database.execute(f"{_EPISODES.format('')} WHERE e.id = ?", (name,)).fetchone()
    return None if row is None else _episode(row)


def _episode(row: Sequence[Any]) -> Episode:
    flat = dict(zip((*COLUMNS, "verdict"), row, strict=True))
    for name in ("told", "began", "last"):
        flat[name] = {field: flat[f"{name}_{field}"] for field in Moment.__struct_fields__}
    for name in ("tracks", "box", "models"):
        flat[name] = None if flat[name] is None else msgspec.json.decode(flat[name])
    before_s, after_s = flat["clip_before_s"], flat["clip_after_s"]
    flat["clip"] = None if before_s is None else {"before_s": before_s, "after_s": after_s}
    return msgspec.convert(flat, Episode, strict=False)


class EpisodeStep(msgspec.Struct, frozen=True):
    """How an episode came to be what it is: one change of it.

    step       start, update or end
    number     counts the updates from 1; 0 for its start and end
    told       frame at which it was said
    last       UNIX seconds of the last evidence by then
    seconds    of the media, from its beginning to then
    value      what its rule measured then; null for none
    sightings  frames by then in which a network saw it
    held       frames by then without a look
    unsure     for longer than the rule bridges nobody knew whether it held
    """

    step: Step
    number: int
    told: Moment
    last: float
    seconds: float
    value: float | None
    sightings: int
    held: int
    unsure: bool


def steps_of(database: sqlite3.Connection, name: str) -> list[EpisodeStep]:
    """Return the changes of the episode of this id, in order."""
    found = database.execute(
        "SELECT step, number, told_epoch, told_seq, told_media_s, told_captured, last_captured,"
        " seconds, value, sightings, held, unsure FROM change WHERE episode = ?"
        " ORDER BY told_epoch, told_seq, step = 'end', number",
        (name,),
    )
    return [
        EpisodeStep(step, number, Moment(*at), last, seconds, value, sightings, held, bool(unsure))
        for step, number, *at, last, seconds, value, sightings, held, unsure in found
    ]


class EpisodeCount(msgspec.Struct, frozen=True):
    """How many episodes of a rule began in a bucket of time.

    start      UNIX seconds at which the bucket begins, a multiple of its length
    source     name of the source
    rule       name of the rule
    direction  of crossings; null for others
    count      how many
    """

    start: float
    source: str
    rule: str
    direction: Direction | None
    count: int


def counts(
    database: sqlite3.Connection, wanted: EpisodeFilter, bucket_s: float
) -> list[EpisodeCount]:
    """Return how many episodes began, by bucket, source, rule and direction; none where none did.

    ValueError if the span of the filter has more than MOST_BUCKETS buckets.
    """
    if wanted.since is not None and wanted.until is not None:
        buckets = (wanted.until - wanted.since) / bucket_s
        if buckets > MOST_BUCKETS:
            raise ValueError(
                f"{buckets:.0f} buckets of {bucket_s:g} s; allowed are {MOST_BUCKETS}: a shorter "
                "span, or longer buckets"
            )
    bucket = "SELECT CAST(began_captured / ? AS INTEGER)"
    if _is_long(wanted):
        return sorted(_counts_by_kind(database, wanted, bucket, bucket_s), key=_place)
    where, held, index = wanted.where()
    rows = database.execute(
        f"{bucket} AS bucket, source, rule, direction, count(*)"
        f" FROM episode {index} WHERE {where} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
        (bucket_s, *held),
    )
    return [EpisodeCount(row[0] * bucket_s, *row[1:]) for row in rows]


def _is_long(wanted: EpisodeFilter) -> bool:
    """Return whether so many episodes may be counted that to sort them would be slow."""
    if wanted.labels or wanted.open or wanted.at is not None:
        return False
    return wanted.until is None or wanted.until - (wanted.since or 0.0) > SORTED_S


def _counts_by_kind(
    database: sqlite3.Connection, wanted: EpisodeFilter, bucket: str, bucket_s: float
) -> Iterator[EpisodeCount]:
    """Count along an index which has those of a source, rule and direction one after another."""
    since = 0.0 if wanted.since is None else wanted.since
    until = math.inf if wanted.until is None else wanted.until
    for source, rule, direction in _kinds(database):
        if wanted.sources and source not in wanted.sources:
            continue
        if wanted.rules and rule not in wanted.rules:
            continue
        for start, count in database.execute(
            f"{bucket}, count(*) FROM episode INDEXED BY by_kind"
            " WHERE source = ? AND rule = ? AND direction IS ?"
            " AND began_captured >= ? AND began_captured <= ? GROUP BY 1",
            (bucket_s, source, rule, direction, since, until),
        ):
            yield EpisodeCount(start * bucket_s, source, rule, direction, count)


def _place(one: EpisodeCount) -> tuple[float, str, str, str]:
    return one.start, one.source, one.rule, one.direction or ""


def _kinds(database: sqlite3.Connection) -> Iterator[tuple[str, str, Direction | None]]:
    """Which sources, rules and directions there are: each is a leap in the index."""
    said = "SELECT source, rule, direction FROM episode INDEXED BY by_kind WHERE"
    order = "ORDER BY source, rule, direction LIMIT 1"
    found = database.execute(f"{said} source > '' {order}").fetchone()
    while found is not None:
        yield found
        source, rule, direction = found
        leaps = (
            ("source = ? AND rule = ? AND direction > ?", (source, rule, direction or "")),
            ("source = ? AND rule > ?", (source, rule)),
            ("source > ?", (source,)),
        )
        for where, values in leaps:
            found = database.execute(f"{said} {where} {order}", values).fetchone()
            if found is not None:
                break


class SeenStretch(msgspec.Struct, frozen=True):
    """A time of a source, or of one of its rules.

    source  name of the source
    rule    name of the rule; empty: of the source as a whole
    since   UNIX seconds
    until   UNIX seconds; null: it goes on
    """

    source: str
    rule: str
    since: float
    until: float | None


class SeenSpan(msgspec.Struct, frozen=True):
    """What of a span was seen, and what was not.

    watched  times in which frames of a source were published; all others it was away, or no run was
    unknown  times in which a rule could not be judged
    lost     gaps: what rules said there was removed from the store before it was read
    """

    watched: list[SeenStretch]
    unknown: list[SeenStretch]
    lost: list[str]


def gaps(database: sqlite3.Connection) -> list[Gap]:
    """Return what was removed from the store before it was read."""
    rows = database.execute("SELECT source, after, before FROM lost ORDER BY 1, 2")
    return [
        Gap(name, Position.parse(after), Position.parse(before)) for name, after, before in rows
    ]


def seen_in(database: sqlite3.Connection, since: float, until: float) -> SeenSpan:
    """Return what was seen between two times, UNIX seconds, cut to them."""

    def cut(source: str, rule: str, first: float, last: float | None) -> SeenStretch:
        return SeenStretch(
            source, rule, max(first, since), last if last is None else min(last, until)
        )

    watched = database.execute(
        "SELECT source, '', first, last FROM watched WHERE last >= ? AND first <= ?"
        " ORDER BY source, first LIMIT ?",
        (since, until, MOST_STRETCHES),
    )
    unknown = database.execute(
        "SELECT source, rule, since, until FROM unknown WHERE (until IS NULL OR until >= ?)"
        " AND since <= ? ORDER BY source, rule, since LIMIT ?",
        (since, until, MOST_STRETCHES),
    )
    lost = database.execute("SELECT source, after, before FROM lost LIMIT ?", (MOST_STRETCHES,))
    return SeenSpan(
        [cut(*row) for row in watched],
        [cut(*row) for row in unknown],
        [f"{source}: after {after}, before {before}" for source, after, before in lost],
    )


class KnownSource(msgspec.Struct, frozen=True):
    """A source that rules have judged, or that was watched.

    source   name of the source
    watched  UNIX seconds of the last frame that is known to have been published; null: none is
    rules    how many episodes of each rule began, of those that had any
    unknown  rules that cannot be judged now
    """

    source: str
    watched: float | None
    rules: dict[str, int]
    unknown: list[str]


def known_sources(database: sqlite3.Connection, since: float) -> list[KnownSource]:
    """Return all sources by name, with the episodes that began since then, UNIX seconds."""
    watched = dict(database.execute("SELECT source, max(last) FROM watched GROUP BY 1"))
    names = watched.keys() | {name for (name,) in database.execute("SELECT source FROM stream")}
    began, unknown = defaultdict[str, dict[str, int]](dict), defaultdict[str, list[str]](list)
    for source, rule, count in database.execute(
        "SELECT source, rule, count(*) FROM episode INDEXED BY by_time WHERE began_captured >= ?"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        (since,),
    ):
        began[source][rule] = count
    for source, rule in database.execute(
        "SELECT source, rule FROM unknown WHERE until IS NULL ORDER BY 1, 2"
    ):
        unknown[source].append(rule)
    return [
        KnownSource(name, watched.get(name), began[name], unknown[name])
        for name in sorted(names | began.keys())
    ]


# -- By SQL.

_ALLOWED: Final = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
}  # fmt: skip
_REFUSED: Final = {"load_extension", "fts3_tokenizer", "writefile", "edit"}


def guard(database: sqlite3.Connection, limit_s: float = SQL_S) -> None:
    """Have a connection do nothing but read from now on, and nothing after `limit_s`: all else is a
    sqlite3.Error.
    """
    due_mono = time.monotonic() + limit_s
    database.set_authorizer(_judge)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SQL_BYTES)
    database.set_progress_handler(lambda: time.monotonic() > due_mono, STEPS)


def rows(
    database: sqlite3.Connection, sql: str, limit_s: float = SQL_S
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Ask by one SELECT; return the names of its columns, and its rows one by one.

    Whatever else it would do (write, attach, set) is refused. ConfigFaults, also from the rows:
    it is no such statement, names what is not there, or takes longer than `limit_s`.
    """
    guard(database, limit_s)
    with _sql_faults(limit_s):
        found = database.execute(sql)
        if found.description is None:
            raise ConfigFaults(["--sql: nothing is asked; allowed is one SELECT"])
    return [column[0] for column in found.description], _told(found, limit_s)


def _told(found: sqlite3.Cursor, limit_s: float) -> Iterator[tuple[Any, ...]]:
    with _sql_faults(limit_s):
        yield from found


def _judge(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    fine = action in _ALLOWED and not (action == sqlite3.SQLITE_FUNCTION and second in _REFUSED)
    del first
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _sql_faults(limit_s: float) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        why = str(error)
        if why == "interrupted":
            why = f"it takes longer than {limit_s:g} s"
        elif why == "not authorized":
            why = "it does more than to read; allowed is one SELECT"
        raise ConfigFaults([f"--sql: {why}"]) from error
