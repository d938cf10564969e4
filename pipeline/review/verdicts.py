"""Store users' verdicts about episodes, and estimate the false alerts per day from them."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.review.episode_counts import counts
from framegate.pipeline.review.event_database import open_database, open_to_read
from framegate.pipeline.review.kept_pictures import drop_picture
from framegate.pipeline.review.search import EpisodeFilter, EpisodeVerdict

CONFIDENCE: Final = 0.95
DAY_S: Final = 86400.0


class VerdictCounts(msgspec.Struct, frozen=True):
    """The verdicts about a rule's episodes of one source, and its false alerts per day.

    An episode that a filter muted is no alert, unless it was judged true.

    source    name of the source
    rule      name of the rule
    right     number of episodes judged true
    false     number of episodes judged false
    unsure    number of episodes that a user saw and could not judge
    unjudged  number of episodes without a verdict
    days      days in which the source was watched and the state of the rule was known
    per_day   episodes judged false, per day; null if the source was not watched
    low       lower bound of false alerts per day, with a confidence of 95 %
    high      upper bound with the same confidence, if all unsure and unjudged episodes are false
    """

    source: str
    rule: str
    right: int
    false: int
    unsure: int
    unjudged: int
    days: float
    per_day: float | None
    low: float | None
    high: float | None


def judge(file: Path, episode: str, verdict: EpisodeVerdict | None, now: float) -> bool:
    """Store the verdict about an episode durably; None removes it. Any thread.

    now  UNIX seconds

    Returns False if there is no such episode. DatabaseRefused; sqlite3.Error if the disk fails.
    """
    with closing(open_database(str(file))) as database:
        database.execute("PRAGMA synchronous = FULL")
        select = "SELECT began_captured FROM episode WHERE id = ?"
        began = database.execute(select, (episode,)).fetchone()
        if began is None:
            return False
        if verdict is None:
            database.execute("DELETE FROM verdict WHERE episode = ?", (episode,))
            drop_picture(database, episode)
        else:
            row = (episode, verdict, now, *began)
            database.execute("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?)", row)
    return True


class JudgedEpisode(NamedTuple):
    """An episode of an object of a class that a user judged true or false.

    tracks       numbers of its objects
    first, last  frames in which it began, and of its last evidence
    is_presence  whether its rule states only that the object is in an area; other rules also state
                 how it moves or for how long, or a relation to another object
    is_true      the verdict
    """

    source: str
    label: str
    tracks: tuple[int, ...]
    first: Position
    last: Position
    is_presence: bool
    is_true: bool


def judged_episodes(file: Path) -> list[JudgedEpisode]:
    """Return the episodes with a class and a clear verdict; none if there is no database.

    DatabaseRefused; sqlite3.Error.
    """
    if not file.is_file():
        return []
    with closing(open_to_read(file)) as database:
        rows = database.execute(
            "SELECT source, label, tracks, \"when\" = 'inside' AND value IS NULL,"
            " began_epoch, began_seq, last_epoch, last_seq, verdict"
            " FROM verdict v JOIN episode ON id = v.episode"
            " WHERE verdict IN ('true', 'false') AND label IS NOT NULL"
            " ORDER BY source, began_epoch, began_seq, id"
        ).fetchall()
    return [
        JudgedEpisode(
            source,
            label,
            tuple(msgspec.json.decode(tracks)),
            Position(*moments[:2]),
            Position(*moments[2:]),
            bool(is_presence),
            verdict == "true",
        )
        for source, label, tracks, is_presence, *moments, verdict in rows
    ]


def verdict_counts(database: sqlite3.Connection, since: float, until: float) -> list[VerdictCounts]:
    """Return the verdicts about episodes that began between two times, by source and rule.

    since, until  UNIX seconds
    """
    verdicts = database.execute(
        "SELECT source, rule, verdict FROM verdict v INDEXED BY judged_by_time"
        " CROSS JOIN episode ON id = v.episode"
        " WHERE v.began >= ? AND v.began <= ? AND (muted IS NULL OR verdict = 'true')",
        (since, until),
    )
    judged = Counter[tuple[str, str, str]](verdicts.fetchall())
    began = Counter[tuple[str, str]]()
    for each in counts(database, EpisodeFilter(since=since, until=until), until - since + 1):
        began[each.source, each.rule] += each.count
    watched_s = _watched_s(database, since, until)
    all_counts = []
    for (source, rule), count in sorted(began.items()):
        right = judged[source, rule, "true"]
        false = judged[source, rule, "false"]
        unsure = judged[source, rule, "unsure"]
        unjudged = count - right - false - unsure
        unknown_s = _unknown_s(database, source, rule, since, until)
        days = (watched_s.get(source, 0.0) - unknown_s) / DAY_S
        rates: tuple[float | None, float | None, float | None] = (None, None, None)
        if days > 0:
            low, _ = poisson_interval(false)
            _, high = poisson_interval(false + unsure + unjudged)
            rates = (false / days, low / days, high / days)
        all_counts.append(VerdictCounts(source, rule, right, false, unsure, unjudged, days, *rates))
    return all_counts


def _watched_s(database: sqlite3.Connection, since: float, until: float) -> dict[str, float]:
    """Return the seconds of a span in which each source was watched."""
    query = (
        "SELECT source, sum(min(last, :until) - max(first, :since)) FROM watched"
        " WHERE last > :since AND first < :until GROUP BY source"
    )
    return dict(database.execute(query, {"since": since, "until": until}))


def _unknown_s(
    database: sqlite3.Connection, source: str, rule: str, since: float, until: float
) -> float:
    """Return the seconds of a span in which the source was watched and the rule's state unknown."""
    span = {"source": source, "rule": rule, "since": since, "until": until}
    (unknown,) = database.execute(
        "SELECT coalesce(sum(max(0, min(w.last, coalesce(u.until, w.last), :until)"
        " - max(w.first, u.since, :since))), 0) FROM unknown u, watched w"
        " WHERE w.source = :source AND w.last > :since AND w.first < :until"
        " AND u.source = :source AND u.rule = :rule AND u.since < :until"
        " AND coalesce(u.until, :until) > :since",
        span,
    ).fetchone()
    return float(unknown)


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Garwood's exact confidence interval of a Poisson mean, given a count.

    "Fiducial limits for the Poisson distribution", Biometrika 28, 1936.
    """
    from scipy.special import gammaincinv  # its import takes 0.1 s, and few processes need it

    tail = (1 - confidence) / 2
    low = 0.0
    if count:
        low = float(gammaincinv(count, tail))
    return low, float(gammaincinv(count + 1, 1 - tail))
