"""Find episodes in their database: by filter, page by page, as counts, or by SQL.

Readers do not write and do not wait for the writer. Each thread uses its own connection.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from framegate.pipeline.contracts.episodes import (
    Clip,
    Direction,
    EndedBy,
    Severity,
    Step,
    When,
)
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.traits import Traits
from framegate.pipeline.review.projection import COLUMNS, LONG_S, Gap, open_to_read

SQL_S: Final = 10.0
SQL_BYTES: Final = 16 << 20  # of one value
STEPS: Final = 20_000  # of SQLite's virtual machine between two checks of the time
MAX_BUCKETS: Final = 2000
SORTED_S: Final = 7 * 86400.0  # episodes of a longer span are counted along an index, not sorted
MAX_STRETCHES: Final = 5000

EpisodeVerdict = Literal["true", "false", "unsure"]


class Episode(msgspec.Struct, frozen=True):
    """A period in which a rule was true, as far as results show it.

    id         `<source>/<rule>/<epoch>-<seq>/<n>`: the frame in which it began, and its rank there
    source     name of the source
    rule       name of the rule
    version    eight hex digits of the digest of the rule with its areas and lines
    when       predicate of the rule
    severity   severity of the rule
    told       frame at which its start was published; a rule may have to be true for a while first
    began      first frame in which the rule was true, or in which a line was crossed
    last       frame of the last evidence; for an ended episode, frame of its end
    seconds    media time from `began` to `last`
    label      class of its object, or label of a sound; null if it has none or several
    tracks     numbers of its tracks; a track that continues another follows it
    value      measurement of the rule: number, speed, distance or a sound's score; or null
    direction  direction of a crossing, relative to the line as drawn
    box        box of its object at the beginning, x1, y1, x2, y2 as shares of the picture, 0 to 1
    sightings  frames with evidence from a network
    held       frames with evidence carried over from earlier frames
    models     models of the first evidence
    unsure     whether the state of the rule was unknown for longer than the rule bridges
    bridged    whether the evidence has a gap between two detections
    ended_by   reason of its end; null while it is open
    clip       seconds of a recording before and after it that are kept; null for none
    muted      filter that muted it, NAME/DIGEST; null for none. The verdict true brings it back
    traits     what was known about its object at its start, as in `Traits`; null for nothing
    verdict    verdict of a user; null for none
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
    muted: str | None
    traits: Traits | None
    verdict: EpisodeVerdict | None


class EpisodeCursor(NamedTuple):
    """The position in a list of episodes after the episode that began at `began` and has `id`."""

    began: float
    id: str

    def __str__(self) -> str:
        return f"{self.began!r},{self.id}"

    @classmethod
    def parse(cls, text: str) -> EpisodeCursor:
        """Parse `<began>,<id>`. ValueError if the text has another form."""
        began, _, name = text.partition(",")
        if not name:
            raise ValueError(f"{text[:80]!r} is not a cursor; use the `next` of a response")
        return cls(float(began), name)


@dataclass(frozen=True)
class EpisodeFilter:
    """A filter of episodes. An empty tuple or None selects all.

    sources, rules, labels  names, any of which matches
    since, until            UNIX seconds between which an episode began, both included
    open                    only open episodes
    at                      only episodes that were open at this time, UNIX seconds
    muted                   False: without the muted ones; True: only these; None: all. An episode
                            that was judged true is not muted any more
    """

    sources: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    open: bool = False
    at: float | None = None
    muted: bool | None = False

    def where(self) -> tuple[str, list[Any], str]:
        """Return the condition in SQL, its values, and the clause that selects the best index."""
        parts = ["1"]
        values: list[Any] = []
        # With `at`, the list of ids selects: a plus keeps SQLite from using another index.
        plus = ""
        if self.at is not None:
            plus = "+"
        lists = (("rule", self.rules), ("source", self.sources), ("label", self.labels))
        for column, names in lists:
            if names:
                parts.append(f"{plus}{column} IN ({', '.join('?' * len(names))})")
                values += names
        for sign, moment in ((">=", self.since), ("<=", self.until)):
            if moment is not None:
                parts.append(f"{plus}began_captured {sign} ?")
                values.append(moment)
        if self.open:
            parts.append("ended_by IS NULL")
        if self.muted is not None:
            parts.append(_MUTED[self.muted])
        if self.at is not None:
            parts.append(f"id IN ({_OPEN_AT})")
            values += [self.at] * _OPEN_AT.count("?")
            return " AND ".join(parts), values, ""
        index = next((f"by_{column}" for column, names in lists if len(names) == 1), "by_time")
        if self.open:
            index = "still_open"
        elif self.muted:
            index = "muted_ones"
        return " AND ".join(parts), values, f"INDEXED BY {index}"


_IS_RIGHT: Final = "EXISTS (SELECT 1 FROM verdict r WHERE r.episode = id AND r.verdict = 'true')"
_MUTED: Final = {
    True: f"muted NOTNULL AND NOT {_IS_RIGHT}",
    False: f"(muted IS NULL OR {_IS_RIGHT})",
}
# Three parts, each of which reads few rows: short episodes began at most LONG_S before; there are
# few long ones; and few are open.
_OPEN_AT: Final = f"""
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
    """Open a database to read during a block. It may be of an older version.

    ConfigFaults if the file is missing; DatabaseRefused.
    """
    if not file.is_file():
        raise ConfigFaults([f"{file}: no such file; a run makes it"])
    with closing(open_to_read(file)) as database:
        yield database


def find(
    database: sqlite3.Connection,
    wanted: EpisodeFilter,
    limit: int,
    after: EpisodeCursor | None = None,
    oldest_first: bool = False,
) -> tuple[list[Episode], EpisodeCursor | None]:
    """Return at most `limit` episodes in the order of their beginnings, and the next cursor.

    The newest come first unless oldest_first. The cursor is None if there are no more episodes.
    """
    where, values, index = wanted.where()
    order = "DESC"
    sign = "<"
    if oldest_first:
        order = "ASC"
        sign = ">"
    if after is not None:
        where += f" AND (began_captured, id) {sign} (?, ?)"
        values += after
    query = (
        f"{_EPISODES.format(index)} WHERE {where}"
        f" ORDER BY began_captured {order}, id {order} LIMIT ?"
    )
    rows = database.execute(query, (*values, limit + 1)).fetchall()
    episodes = [_episode(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return episodes, None
    last = episodes[-1]
    return episodes, EpisodeCursor(last.began.captured, last.id)


def flat(
    database: sqlite3.Connection, wanted: EpisodeFilter
) -> tuple[dict[str, str], Iterator[tuple[Any, ...]]]:
    """Return all episodes of a filter as rows, oldest first, and their columns.

    The columns are those of the table and `verdict`, each with its SQLite type.
    """
    kinds = {row[1]: row[2] for row in database.execute("PRAGMA table_info(episode)")}
    columns = {name: kinds[name] for name in COLUMNS}
    columns["verdict"] = "TEXT"
    where, values, index = wanted.where()
    query = f"{_EPISODES.format(index)} WHERE {where} ORDER BY began_captured, id"
    return columns, database.execute(query, values)


def episode_of(database: sqlite3.Connection, name: str) -> Episode | None:
    """Return the episode with this id, or None."""
    row = database.execute(f"{_EPISODES.format('')} WHERE e.id = ?", (name,)).fetchone()
    if row is None:
        return None
    return _episode(row)


def _episode(row: Sequence[Any]) -> Episode:
    fields = dict(zip((*COLUMNS, "verdict"), row, strict=True))
    for name in ("told", "began", "last"):
        fields[name] = {part: fields[f"{name}_{part}"] for part in Moment.__struct_fields__}
    for name in ("tracks", "box", "models", "traits"):
        if fields[name] is not None:
            fields[name] = msgspec.json.decode(fields[name])
    fields["clip"] = None
    before_s = fields["clip_before_s"]
    if before_s is not None:
        fields["clip"] = {"before_s": before_s, "after_s": fields["clip_after_s"]}
    return msgspec.convert(fields, Episode, strict=False)


class EpisodeStep(msgspec.Struct, frozen=True):
    """A change of an episode.

    step       start, update or end
    number     number of the update, from 1; 0 for start and end
    told       frame at which the change was published
    last       time of the last evidence before the change, UNIX seconds
    seconds    media time from the beginning of the episode to its last evidence
    value      measurement of the rule; null for none
    sightings  frames so far with evidence from a network
    held       frames so far with evidence carried over from earlier frames
    unsure     whether the state of the rule was unknown for longer than the rule bridges
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
    """Return the changes of the episode with this id, in order."""
    rows = database.execute(
        "SELECT step, number, told_epoch, told_seq, told_media_s, told_captured, last_captured,"
        " seconds, value, sightings, held, unsure FROM change WHERE episode = ?"
        " ORDER BY told_epoch, told_seq, step = 'end', number",
        (name,),
    )
    return [
        EpisodeStep(step, number, Moment(*at), last, seconds, value, sightings, held, bool(unsure))
        for step, number, *at, last, seconds, value, sightings, held, unsure in rows
    ]


class EpisodeCount(msgspec.Struct, frozen=True):
    """The number of episodes of a rule that began in a bucket of time.

    start      begin of the bucket, UNIX seconds, a multiple of its length
    source     name of the source
    rule       name of the rule
    direction  direction of crossings; null for other rules
    count      number of episodes
    """

    start: float
    source: str
    rule: str
    direction: Direction | None
    count: int


def counts(
    database: sqlite3.Connection, wanted: EpisodeFilter, bucket_s: float
) -> list[EpisodeCount]:
    """Return the numbers of episodes that began, by bucket, source, rule and direction.

    There are no counts of 0. ValueError if the span of the filter has more than MAX_BUCKETS
    buckets. `wanted.muted` must not be True.
    """
    if wanted.since is not None and wanted.until is not None:
        buckets = (wanted.until - wanted.since) / bucket_s
        if buckets > MAX_BUCKETS:
            raise ValueError(
                f"{buckets:.0f} buckets of {bucket_s:g} s; allowed are {MAX_BUCKETS}: use a "
                "shorter span, or longer buckets"
            )
    # The muted ones, which are few, are subtracted: the index by which all are counted need not
    # have them.
    every = replace(wanted, muted=None)
    bucket = "SELECT CAST(began_captured / ? AS INTEGER)"
    if _is_long(wanted):
        counted = _counts_by_kind(database, every, bucket, bucket_s)
    else:
        counted = _counts_of(database, every, bucket, bucket_s)
    muted: dict[_CountKey, int] = {}
    if wanted.muted is False:
        muted_ones = _counts_of(database, replace(wanted, muted=True), bucket, bucket_s)
        muted = {_key(each): each.count for each in muted_ones}
    left = (
        msgspec.structs.replace(each, count=each.count - muted.get(_key(each), 0))
        for each in counted
    )
    return sorted((each for each in left if each.count), key=_order)


_CountKey = tuple[float, str, str, Direction | None]


def _key(count: EpisodeCount) -> _CountKey:
    return count.start, count.source, count.rule, count.direction


def _counts_of(
    database: sqlite3.Connection, wanted: EpisodeFilter, bucket: str, bucket_s: float
) -> Iterator[EpisodeCount]:
    where, values, index = wanted.where()
    rows = database.execute(
        f"{bucket} AS bucket, source, rule, direction, count(*)"
        f" FROM episode {index} WHERE {where} GROUP BY 1, 2, 3, 4",
        (bucket_s, *values),
    )
    for row in rows:
        yield EpisodeCount(row[0] * bucket_s, *row[1:])


def _is_long(wanted: EpisodeFilter) -> bool:
    """Return whether the filter may select more episodes than SQLite sorts in a short time."""
    if wanted.labels or wanted.open or wanted.at is not None:
        return False
    return wanted.until is None or wanted.until - (wanted.since or 0.0) > SORTED_S


def _counts_by_kind(
    database: sqlite3.Connection, wanted: EpisodeFilter, bucket: str, bucket_s: float
) -> Iterator[EpisodeCount]:
    """Count along an index in which the episodes of a source, rule and direction are adjacent."""
    since = wanted.since or 0.0
    until = math.inf
    if wanted.until is not None:
        until = wanted.until
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


def _order(count: EpisodeCount) -> tuple[float, str, str, str]:
    return count.start, count.source, count.rule, count.direction or ""


def _kinds(database: sqlite3.Connection) -> Iterator[tuple[str, str, Direction | None]]:
    """Yield the sources, rules and directions of all episodes.

    Each costs at most three searches in the index, so the number of episodes does not matter.
    """
    select = "SELECT source, rule, direction FROM episode INDEXED BY by_kind WHERE"
    order = "ORDER BY source, rule, direction LIMIT 1"
    row = database.execute(f"{select} source > '' {order}").fetchone()
    while row is not None:
        yield row
        # The next kind: the next direction of the rule, else the next rule, else the next source.
        source, rule, direction = row
        searches = (
            ("source = ? AND rule = ? AND direction > ?", (source, rule, direction or "")),
            ("source = ? AND rule > ?", (source, rule)),
            ("source > ?", (source,)),
        )
        for where, values in searches:
            row = database.execute(f"{select} {where} {order}", values).fetchone()
            if row is not None:
                break


class SeenStretch(msgspec.Struct, frozen=True):
    """A period of a source, or of one of its rules.

    source  name of the source
    rule    name of the rule; empty: the whole source
    since   begin, UNIX seconds
    until   end, UNIX seconds; null: it is not over
    """

    source: str
    rule: str
    since: float
    until: float | None


class SeenSpan(msgspec.Struct, frozen=True):
    """The periods of a span for which episodes are known.

    watched  periods in which frames of a source were published; outside them the source was lost,
             or no run was active
    unknown  periods in which the state of a rule was unknown
    lost     gaps: output of rules that was removed from the store before it was read
    """

    watched: list[SeenStretch]
    unknown: list[SeenStretch]
    lost: list[str]


def gaps(database: sqlite3.Connection) -> list[Gap]:
    """Return the gaps: output of rules that was removed from the store before it was read."""
    rows = database.execute("SELECT source, after, before FROM lost ORDER BY 1, 2")
    return [
        Gap(name, Position.parse(after), Position.parse(before)) for name, after, before in rows
    ]


def seen_in(database: sqlite3.Connection, since: float, until: float) -> SeenSpan:
    """Return the periods between two times, UNIX seconds, cut to them."""

    def cut(source: str, rule: str, first: float, last: float | None) -> SeenStretch:
        if last is not None:
            last = min(last, until)
        return SeenStretch(source, rule, max(first, since), last)

    watched = database.execute(
        "SELECT source, '', first, last FROM watched WHERE last >= ? AND first <= ?"
        " ORDER BY source, first LIMIT ?",
        (since, until, MAX_STRETCHES),
    )
    unknown = database.execute(
        "SELECT source, rule, since, until FROM unknown WHERE (until IS NULL OR until >= ?)"
        " AND since <= ? ORDER BY source, rule, since LIMIT ?",
        (since, until, MAX_STRETCHES),
    )
    lost = database.execute("SELECT source, after, before FROM lost LIMIT ?", (MAX_STRETCHES,))
    return SeenSpan(
        [cut(*row) for row in watched],
        [cut(*row) for row in unknown],
        [f"{source}: after {after}, before {before}" for source, after, before in lost],
    )


class KnownSource(msgspec.Struct, frozen=True):
    """A source with episodes or published frames.

    source   name of the source
    watched  time of the last frame known to be published, UNIX seconds; null: none is known
    rules    number of episodes that began, by rule, without the muted ones; rules without episodes
             are left out
    unknown  rules whose state is unknown now
    """

    source: str
    watched: float | None
    rules: dict[str, int]
    unknown: list[str]


def known_sources(database: sqlite3.Connection, since: float) -> list[KnownSource]:
    """Return all sources by name, with the episodes that began after `since`, UNIX seconds."""
    watched = dict(database.execute("SELECT source, max(last) FROM watched GROUP BY 1"))
    names = watched.keys() | {name for (name,) in database.execute("SELECT source FROM stream")}
    began = defaultdict[str, dict[str, int]](dict)
    unknown = defaultdict[str, list[str]](list)
    every = _began_by_rule(database, EpisodeFilter(since=since, muted=None))
    muted = _began_by_rule(database, EpisodeFilter(since=since, muted=True))
    for (source, rule), count in every.items():
        left = count - muted.get((source, rule), 0)
        if left:
            began[source][rule] = left
    for source, rule in database.execute(
        "SELECT source, rule FROM unknown WHERE until IS NULL ORDER BY 1, 2"
    ):
        unknown[source].append(rule)
    return [
        KnownSource(name, watched.get(name), began[name], unknown[name])
        for name in sorted(names | began.keys())
    ]


def _began_by_rule(
    database: sqlite3.Connection, wanted: EpisodeFilter
) -> dict[tuple[str, str], int]:
    """Return the numbers of episodes by source and rule, in this order."""
    where, values, index = wanted.where()
    rows = database.execute(
        f"SELECT source, rule, count(*) FROM episode {index} WHERE {where} GROUP BY 1, 2"
        " ORDER BY 1, 2",
        values,
    )
    return {(source, rule): count for source, rule, count in rows}


# -- By SQL.

_ALLOWED: Final = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
}  # fmt: skip
_REFUSED: Final = {"load_extension", "fts3_tokenizer", "writefile", "edit"}


def guard(database: sqlite3.Connection, limit_s: float = SQL_S) -> None:
    """Restrict a connection: from now on it only reads, and only for `limit_s` seconds.

    Other statements, and later ones, raise sqlite3.Error.
    """
    due_mono = time.monotonic() + limit_s
    database.set_authorizer(_authorize)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SQL_BYTES)
    database.set_progress_handler(lambda: time.monotonic() > due_mono, STEPS)


def rows(
    database: sqlite3.Connection, sql: str, limit_s: float = SQL_S
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Run a SELECT. Return the names of its columns, and an iterator of its rows.

    ConfigFaults, also from the iterator: the statement is not a single SELECT, has a fault, or
    takes longer than `limit_s`.
    """
    guard(database, limit_s)
    with _sql_faults(limit_s):
        cursor = database.execute(sql)
        if cursor.description is None:
            raise ConfigFaults(["--sql: the statement is empty; allowed is one SELECT"])
    return [column[0] for column in cursor.description], _rows_of(cursor, limit_s)


def _rows_of(cursor: sqlite3.Cursor, limit_s: float) -> Iterator[tuple[Any, ...]]:
    with _sql_faults(limit_s):
        yield from cursor


def _authorize(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    is_refused_function = action == sqlite3.SQLITE_FUNCTION and name in _REFUSED
    if action in _ALLOWED and not is_refused_function:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _sql_faults(limit_s: float) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        if reason == "interrupted":
            reason = f"the statement takes longer than {limit_s:g} s"
        elif reason == "not authorized":
            reason = "the statement does more than read; allowed is one SELECT"
        raise ConfigFaults([f"--sql: {reason}"]) from error
