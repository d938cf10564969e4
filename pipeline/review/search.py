"""Find episodes in their database, by filter and page by page, and the periods that it covers.

Readers do not write and do not wait for the writer. Each thread uses its own connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from framegate.pipeline.contracts.keys import EVENTS
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.traits import Traits
from framegate.pipeline.review.event_database import LONG_S
from framegate.pipeline.review.projection import COLUMNS, Gap

MAX_STRETCHES: Final = 5000
_PAGE: Final = 100  # episodes that `every` reads at once

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


def every(database: sqlite3.Connection, wanted: EpisodeFilter) -> Iterator[Episode]:
    """Yield all episodes of a filter, the oldest first."""
    after: EpisodeCursor | None = None
    while True:
        episodes, after = find(database, wanted, _PAGE, after, oldest_first=True)
        yield from episodes
        if after is None:
            return


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
    """Return the gaps: entries that were removed from the store before they were read."""
    rows = database.execute("SELECT source, stage, after, before FROM lost ORDER BY 1, 2, 3")
    return [
        Gap(name, stage, Position.parse(after), Position.parse(before))
        for name, stage, after, before in rows
    ]


def seen_in(database: sqlite3.Connection, since: float, until: float) -> SeenSpan:
    """Return the newest periods between two times, UNIX seconds, cut to them."""

    def cut(source: str, rule: str, first: float, last: float | None) -> SeenStretch:
        if last is not None:
            last = min(last, until)
        return SeenStretch(source, rule, max(first, since), last)

    watched = database.execute(
        "SELECT * FROM (SELECT source, '', first, last FROM watched WHERE last >= ? AND first <= ?"
        " ORDER BY last DESC LIMIT ?) ORDER BY source, first",
        (since, until, MAX_STRETCHES),
    )
    # A source that leaves before its first frame ends the period with an earlier time.
    unknown = database.execute(
        "SELECT * FROM (SELECT source, rule, since, until FROM unknown"
        " WHERE (until IS NULL OR (until >= ? AND until > since)) AND since <= ?"
        " ORDER BY since DESC LIMIT ?)"
        " ORDER BY source, rule, since",
        (since, until, MAX_STRETCHES),
    )
    lost = database.execute(
        "SELECT source, after, before FROM lost WHERE stage = ? LIMIT ?", (EVENTS, MAX_STRETCHES)
    )
    return SeenSpan(
        [cut(*row) for row in watched],
        [cut(*row) for row in unknown],
        [f"{source}: after {after}, before {before}" for source, after, before in lost],
    )
