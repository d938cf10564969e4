"""What people say of episodes, and what follows: how many false alerts a camera has a day."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from framegate.pipeline.review.projection import open_database
from framegate.pipeline.review.search import EpisodeFilter, EpisodeVerdict, counts

CONFIDENCE: Final = 0.95
DAY_S: Final = 86400.0


class VerdictCounts(msgspec.Struct, frozen=True):
    """What was said of a rule's episodes of one source, and how many false ones it has a day.

    source    name of the source
    rule      name of the rule
    right     that were judged true
    false     that were judged false
    unsure    of which somebody looked and could not tell
    unjudged  of which nobody has said anything
    days      in which the source was watched and the rule could be judged
    per_day   false ones a day, as far as they were judged; null where nothing was watched
    low       the least that it may be, with a confidence of 95 %: of those judged false
    high      the most, with that confidence, should all that nobody is sure of be false
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
    """Keep what somebody says of an episode, on disk; None takes it back. False if it is not there.

    now: UNIX seconds. Any thread. sqlite3.Error if the disk does not take it.
    """
    with closing(open_database(str(file))) as database:
        database.execute("PRAGMA synchronous = FULL")
        said = "SELECT began_captured FROM episode WHERE id = ?"
        if (found := database.execute(said, (episode,)).fetchone()) is None:
            return False
        if verdict is None:
            database.execute("DELETE FROM verdict WHERE episode = ?", (episode,))
        else:
            row = (episode, verdict, now, *found)
            database.execute("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?)", row)
    return True


def verdict_counts(database: sqlite3.Connection, since: float, until: float) -> list[VerdictCounts]:
    """Return what was said of the episodes that began between two times, UNIX seconds, by source
    and rule.
    """
    said = database.execute(
        "SELECT source, rule, verdict FROM verdict v INDEXED BY judged_by_time"
        " CROSS JOIN episode ON id = v.episode"
        " WHERE v.began >= ? AND v.began <= ?",
        (since, until),
    )
    judged = Counter[tuple[str, str, str]](said.fetchall())
    began = Counter[tuple[str, str]]()
    for each in counts(database, EpisodeFilter(since=since, until=until), until - since + 1):
        began[each.source, each.rule] += each.count
    found, watched = [], _watched_s(database, since, until)
    for (source, rule), count in sorted(began.items()):
        right, false, unsure = (judged[source, rule, word] for word in ("true", "false", "unsure"))
        unjudged = count - right - false - unsure
        unknown = _unknown_s(database, source, rule, since, until)
        days = (watched.get(source, 0.0) - unknown) / DAY_S
        rates: tuple[float | None, float | None, float | None] = (None, None, None)
        if days > 0:
            low, _ = poisson_interval(false)
            _, high = poisson_interval(false + unsure + unjudged)
            rates = (false / days, low / days, high / days)
        found.append(VerdictCounts(source, rule, right, false, unsure, unjudged, days, *rates))
    return found


def _watched_s(database: sqlite3.Connection, since: float, until: float) -> dict[str, float]:
    """Seconds of a span in which sources were watched, by source."""
    said = (
        "SELECT source, sum(min(last, :until) - max(first, :since)) FROM watched"
        " WHERE last > :since AND first < :until GROUP BY source"
    )
    return dict(database.execute(said, {"since": since, "until": until}))


def _unknown_s(
    database: sqlite3.Connection, source: str, rule: str, since: float, until: float
) -> float:
    """Seconds of a span in which the source was watched and the rule could not be judged."""
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
    """Return between which means a count is no surprise: Garwood's exact interval of a Poisson
    mean ("Fiducial limits for the Poisson distribution", Biometrika 28, 1936).
    """
    from scipy.special import gammaincinv  # a tenth of a second, which few need

    tail = (1 - confidence) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - tail))
