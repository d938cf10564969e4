"""Count the episodes in their database, by bucket of time, source, rule and direction.

Long spans are counted along an index in which the episodes of a kind are adjacent, without a sort.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec

from framegate.pipeline.contracts.episodes import Direction
from framegate.pipeline.review.search import EpisodeFilter

MAX_BUCKETS: Final = 2000
SORTED_S: Final = 7 * 86400.0  # episodes of a longer span are counted along an index, not sorted


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


_LAST_WATCHED: Final = (  # `first` and `last` of a camera that never came are equal
    "SELECT source, max(last) FROM watched WHERE last > first OR coalesce(why, '') = '' GROUP BY 1"
)


def known_sources(database: sqlite3.Connection, since: float) -> list[KnownSource]:
    """Return all sources by name, with the episodes that began after `since`, UNIX seconds."""
    watched = dict(database.execute(_LAST_WATCHED))
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
