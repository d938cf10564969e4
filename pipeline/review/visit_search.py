"""Search visits by words, by example, and by marks. Pure functions of arrays.

The words are closed: VOCABULARY lists them, and a term that is none of them is refused. Each term
gives each visit a strength from 0 to 1, of which at least HALF is a match. The first results are
those whose weakest term is strongest.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.likeness import (
    COLOURS,
    KINDS,
    NAMES,
    NUMBERS,
    Likeness,
    numbers_of,
)
from framegate.pipeline.contracts.visits import Visit

HALF: Final = 0.5
_SAMPLE: Final = 20_000  # visits from which the standard deviations are taken
_AT_ONCE: Final = 4096  # visits that fit a core's cache
_CONSTANT: Final = 1e-6  # a number with a smaller standard deviation says nothing
DAY_S: Final = 86400
DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
VOCABULARY: Final = (
    "a class, such as car or person; vehicle; a colour: " + ", ".join(COLOURS) + "; left, right, "
    "up, down (it moves that way in the picture); stays (it does not move away), stops (it stands "
    "still for 2 s or longer), passes (it never stops); from or to left, right, top or bottom (of "
    "the picture); fast, slow, large, small (of its class); longer than or shorter than 30s; after "
    "22:00, before 06:00, a day of the week; at SOURCE; heard SOUND; and not before any of these"
)
VEHICLES: Final = ("car", "bus", "truck", "motorcycle", "train")

StrengthArray = npt.NDArray[np.float32]
VisitRows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class VisitTable:
    """Visits as arrays, one row for each, the oldest first.

    began    float64 (N,)  capture time of the first frame, UNIX seconds
    sources  number of the source of each visit in `source_names`
    labels   number of the class of each visit in `label_names`
    numbers  float32 (NUMBERS, N)  numbers of contracts.likeness, each in one contiguous row
    sounds   rows of the visits during which a sound was heard, by its label
    """

    began: npt.NDArray[np.float64]
    sources: npt.NDArray[np.int32]
    source_names: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    label_names: tuple[str, ...]
    numbers: npt.NDArray[np.float32]
    sounds: Mapping[str, VisitRows]

    def __post_init__(self) -> None:
        rows = len(self.began)
        if self.numbers.shape != (NUMBERS, rows):
            raise ValueError(f"numbers must be ({NUMBERS}, {rows}), got {self.numbers.shape}")
        for name in ("began", "sources", "labels"):
            if getattr(self, name).shape != (rows,):
                raise ValueError(f"{name} must have {rows} values")

    def __len__(self) -> int:
        return len(self.began)

    def number(self, name: str) -> StrengthArray:
        """Return the values of a number by its name in likeness.NAMES, float32 (N,)."""
        values: StrengthArray = self.numbers[NAMES.index(name)]
        return values

    def of_sources(self, sources: Collection[str]) -> tuple[npt.NDArray[np.intp], VisitTable]:
        """Return the rows of the visits of some sources, and the table of only these."""
        names = tuple(self.source_names)
        is_wanted = np.array([name in sources for name in names], np.bool_)
        is_kept = is_wanted[self.sources]
        rows = np.flatnonzero(is_kept)
        new_rows = np.cumsum(is_kept) - 1
        others = set(names).difference(sources)
        return rows, VisitTable(
            self.began[rows],
            self.sources[rows],
            tuple(_without(name, others) for name in names),
            self.labels[rows],
            self.label_names,
            self.numbers[:, rows],
            {sound: new_rows[heard[is_kept[heard]]] for sound, heard in self.sounds.items()},
        )


def _without(name: str, names: Collection[str]) -> str:
    """Return the name, or "" if it is one of these."""
    if name in names:
        return ""
    return name


def table_of(visits: Sequence[Visit]) -> VisitTable:
    """Return visits as arrays."""
    source_names = tuple(sorted({visit.source for visit in visits}))
    label_names = tuple(sorted({visit.label for visit in visits}))
    rows = [numbers_of(visit) for visit in visits]
    heard: dict[str, list[int]] = {}
    for row, visit in enumerate(visits):
        for sound in visit.sounds:
            heard.setdefault(sound, []).append(row)
    return VisitTable(
        np.array([visit.began.captured for visit in visits], np.float64),
        np.array([source_names.index(visit.source) for visit in visits], np.int32),
        source_names,
        np.array([label_names.index(visit.label) for visit in visits], np.int32),
        label_names,
        np.ascontiguousarray(np.array(rows, np.float32).reshape(len(visits), NUMBERS).T),
        {sound: np.array(rows, np.intp) for sound, rows in heard.items()},
    )


# -- Words.


Term = Callable[[VisitTable], StrengthArray]


def by_words(table: VisitTable, text: str) -> StrengthArray:
    """Return the strength of each visit for a text such as "car, left, stops, after 22:00".

    float32 (N,), 0 to 1: that of its weakest term. ConfigFaults with the vocabulary.
    """
    strength = np.ones(len(table), np.float32)
    for word in text.split(","):
        phrase = " ".join(word.lower().split())
        if not phrase:
            continue
        term = phrase.removeprefix("not ")
        each = _strength(table, term)
        if term != phrase:
            each = 1 - each
        np.minimum(strength, each, out=strength)
    return strength


def _strength(table: VisitTable, term: str) -> StrengthArray:
    if term in _TERMS:
        return _TERMS[term](table)
    if term in COLOURS:
        # A colour that covers a third of the object is the colour of the object.
        strength: StrengthArray = np.minimum(table.number(term) * np.float32(1.5), 1)
        return strength
    labels = [name.lower() for name in table.label_names]
    if term in KINDS and term not in labels:
        return np.zeros(len(table), np.float32)
    if term in labels:
        return _is(table.labels == labels.index(term))
    for pattern, read in _PATTERNS:
        match = pattern.fullmatch(term)
        if match is not None:
            return read(table, match)
    known = [*_TERMS, *COLOURS, *labels, *DAYS]
    raise ConfigFaults(
        [f"{term[:40]!r} is not a known word{did_you_mean(term, known)}; known are: {VOCABULARY}"]
    )


def _is(which: npt.NDArray[np.bool_]) -> StrengthArray:
    return which.astype(np.float32)


def _soft(value: StrengthArray, half: float, scale: float) -> StrengthArray:
    """Return 0.5 where a value is `half`, rising to 1 `scale` above it, falling to 0 below."""
    strength: StrengthArray = np.clip(0.5 + 0.5 * (value - half) / scale, 0, 1)
    return strength


def _moves(table: VisitTable, name: str, sign: int) -> StrengthArray:
    """Return how much visits move in a direction: within 45 degrees of it is a match."""
    return _soft(sign * table.number(name), 0.7071, 0.2929)


def _stays(table: VisitTable) -> StrengthArray:
    """Return how much visits stay: they move by less than about their own size."""
    size = np.exp(np.maximum(table.number("width"), table.number("height")))
    net = np.hypot(table.number("move_x"), table.number("move_y"))
    return 1 - _soft((net / size).astype(np.float32), 1.0, 1.0)


def _stops(table: VisitTable) -> StrengthArray:
    return np.where(table.number("stops") > 0, 0.75 + 0.25 * _long(table), 0).astype(np.float32)


_LONG: Final = math.log1p(60.0)  # a minute


def _long(table: VisitTable) -> StrengthArray:
    share: StrengthArray = np.clip(table.number("stood") / np.float32(_LONG), 0, 1)
    return share


def _among_class(table: VisitTable, name: str, sign: int) -> StrengthArray:
    """Return how much a number of each visit is among the highest quarter of its class.

    sign  -1: among the lowest quarter
    """
    values = sign * table.number(name)
    strength = np.zeros(len(table), np.float32)
    for label in range(len(table.label_names)):
        rows = np.flatnonzero(table.labels == label)
        if rows.size:
            own = values[rows]
            quarter, most = np.quantile(own, (0.75, 0.95))
            strength[rows] = _soft(own, quarter, max(most - quarter, 1e-6))
    return strength


def _vehicle(table: VisitTable) -> StrengthArray:
    numbers = [n for n, name in enumerate(table.label_names) if name in VEHICLES]
    return _is(np.isin(table.labels, numbers))


_TERMS: Final[Mapping[str, Term]] = {
    "vehicle": _vehicle,
    "left": lambda table: _moves(table, "heading_x", -1),
    "right": lambda table: _moves(table, "heading_x", 1),
    "up": lambda table: _moves(table, "heading_y", -1),
    "down": lambda table: _moves(table, "heading_y", 1),
    "stays": _stays,
    "stops": _stops,
    "passes": lambda table: _is(table.number("stops") == 0),
    "fast": lambda table: _among_class(table, "speed", 1),
    "slow": lambda table: _among_class(table, "speed", -1),
    "large": lambda table: _among_class(table, "height", 1),
    "small": lambda table: _among_class(table, "height", -1),
}
_EDGES: Final = {"left": ("x", -1), "right": ("x", 1), "top": ("y", -1), "bottom": ("y", 1)}


def _place(table: VisitTable, match: re.Match[str]) -> StrengthArray:
    """Return how near the begin or the end of visits is to an edge: in its third is a match."""
    end = {"from": "begin", "to": "end"}[match[1]]
    axis, sign = _EDGES[match[2]]
    value = table.number(f"{end}_{axis}")
    return _soft(sign * (value - 0.5), 1 / 6, 1 / 3)


def _lasts(table: VisitTable, match: re.Match[str]) -> StrengthArray:
    seconds = float(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]]
    is_longer = table.number("seconds") > np.log1p(seconds)
    return _is(is_longer == (match[1] == "longer"))


def _at_time(table: VisitTable, match: re.Match[str]) -> StrengthArray:
    """Return which visits began after or before a time of their day, in this machine's zone."""
    limit_s = int(match[2]) * 3600 + int(match[3]) * 60
    day_s, _ = _local(table.began)
    return _is((day_s >= limit_s) == (match[1] == "after"))


def _on_day(table: VisitTable, match: re.Match[str]) -> StrengthArray:
    _, days = _local(table.began)
    return _is(days == DAYS.index(match[1]))


def _local(began: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the second of the day and the day of the week, 0 for Monday, in this zone.

    The offset of the zone is looked up once for each hour in which visits began.
    """
    seconds = began.astype(np.int64)
    if not seconds.size:
        return seconds, seconds
    first_hour = int(seconds.min()) // 3600
    hours = seconds // 3600 - first_hour
    offsets = np.zeros(int(hours.max()) + 1, np.int64)
    for hour in np.flatnonzero(np.bincount(hours)).tolist():
        offsets[hour] = time.localtime((first_hour + hour) * 3600).tm_gmtoff
    seconds = seconds + offsets[hours]
    return seconds % DAY_S, (seconds // DAY_S + 3) % 7  # 1 January 1970 was a Thursday


def _at_source(table: VisitTable, match: re.Match[str]) -> StrengthArray:
    names = [name.lower() for name in table.source_names]
    if match[1] not in names:
        near = did_you_mean(match[1], names)
        raise ConfigFaults([f"at {match[1][:40]}: no source has this name{near}"])
    return _is(table.sources == names.index(match[1]))


def _heard(table: VisitTable, match: re.Match[str]) -> StrengthArray:
    """Return during which visits a sound was heard whose label contains the text."""
    strength = np.zeros(len(table), np.float32)
    for label, rows in table.sounds.items():
        if match[1] in label.lower():
            strength[rows] = 1
    return strength


_PATTERNS: Final = (
    (re.compile(r"(from|to) (left|right|top|bottom)"), _place),
    (re.compile(r"(longer|shorter) than (\d+(?:\.\d+)?) ?([smh])"), _lasts),
    (re.compile(r"(after|before) ([01]?\d|2[0-3]):([0-5]\d)"), _at_time),
    (re.compile(rf"(?:on )?({'|'.join(DAYS)})"), _on_day),
    (re.compile(r"at (\S+)"), _at_source),
    (re.compile(r"heard (.+)"), _heard),
)


# -- Marks and order.


def by_likeness(table: VisitTable, likeness: Likeness) -> StrengthArray:
    """Return the likeness of each visit, float32 (N,), 0 to 1."""
    totals = np.array(likeness.weights, np.float32) @ table.numbers + np.float32(likeness.bias)
    strength: StrengthArray = 1 / (1 + np.exp(-np.clip(totals, -60, 60)))
    return strength


def by_example(table: VisitTable, row: int) -> StrengthArray:
    """Return how near each visit is to one of them, float32 (N,), 0 to 1.

    The distance is that of the numbers, each in units of its standard deviation.
    """
    sample = table.numbers[:, :: max(1, len(table) // _SAMPLE)]
    scale = sample.std(1)
    inverse = np.where(scale < _CONSTANT, 0, 1 / np.maximum(scale, _CONSTANT)).astype(np.float32)
    example = table.numbers[:, row : row + 1]
    apart = np.empty(len(table), np.float32)
    for start in range(0, len(table), _AT_ONCE):
        part = table.numbers[:, start : start + _AT_ONCE] - example
        part *= inverse[:, None]
        apart[start : start + _AT_ONCE] = np.einsum("ij,ij->j", part, part)
    strength: StrengthArray = np.exp(-apart / NUMBERS)
    return strength


def best_rows(table: VisitTable, strength: StrengthArray, limit: int) -> list[int]:
    """Return the rows of the strongest visits, at least HALF; of equal ones the newest first."""
    matching = np.flatnonzero(strength >= HALF)
    if matching.size > limit:
        at_least = np.partition(strength[matching], -limit)[-limit]
        matching = matching[strength[matching] >= at_least]
    order = np.lexsort((-table.began[matching], -strength[matching]))
    rows: list[int] = matching[order[:limit]].tolist()
    return rows
