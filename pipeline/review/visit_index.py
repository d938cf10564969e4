"""The visits of a database as arrays in memory, which grow with it.

The table `searched` has the numbers of each visit, written in the transaction of the visit: the
first search of a process reads them, and decodes no visit. Visits are added with rising rowids,
never changed in what is searched, and removed by age. So a search reads the rows above the last
one, and drops those that are gone.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from framegate.pipeline.contracts.likeness import NUMBERS
from framegate.pipeline.review.visit_search import VisitRows, VisitTable

MAX_VISITS: Final = 1_000_000  # that are searched, the newest
_AT_ONCE: Final = 4096  # rows that are read and kept together
_GROWTH: Final = 1.25
_NAMES: Final = msgspec.json.Decoder(tuple[str, ...])
_NO_SOUNDS: Final = "[]"
_STORED: Final = np.dtype("<f4")

RowIds = npt.NDArray[np.int64]


class VisitIndex:
    """The visits of a database as arrays, about 170 bytes each. Any thread.

    The arrays have room for more visits. Tables that were returned are views of their beginning
    and never change: what is read later is written behind them, or into new arrays.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._older = 0  # visits of the database that are not here
        self._last: tuple[str, float, float] | None = None  # id, began_captured, kept
        self._rowids = np.empty(0, np.int64)
        self._began = np.empty(0, np.float64)
        self._sources = np.empty(0, np.int32)
        self._labels = np.empty(0, np.int32)
        self._numbers = np.empty((NUMBERS, 0), np.float32)
        self._source_numbers: dict[str, int] = {}
        self._label_numbers: dict[str, int] = {}
        self._heard: dict[str, list[int]] = {}  # rowids by the label of a sound
        self._table: VisitTable | None = None

    def read(self, database: sqlite3.Connection) -> tuple[RowIds, VisitTable]:
        """Return the newest MAX_VISITS visits of a database, the oldest first, and their rowids.

        Only rows that came since the last call are read. A call that is interrupted keeps what it
        has read.
        """
        with self._turn:
            # An open cursor keeps one state of the database for all reads, also where a guard
            # refuses BEGIN.
            with closing(database.execute("SELECT 1 FROM visits")) as state:
                state.fetchone()
                if not self._has_last(database):
                    self._clear()
                self._add_new(database)
                self._drop_old(database)
            if self._table is None:
                self._table = self._view()
            return self._rowids[: self._count], self._table

    def _has_last(self, database: sqlite3.Connection) -> bool:
        """Return whether the last visit here is still in its row, so this is the same database."""
        if not self._count:
            return True
        rowid = int(self._rowids[self._count - 1])
        return self._last is not None and _identity(database, rowid) == self._last

    def _add_new(self, database: sqlite3.Connection) -> None:
        after = -1
        if self._count:
            after = int(self._rowids[self._count - 1])
        else:
            before = database.execute(
                "SELECT rowid FROM visits ORDER BY rowid DESC LIMIT 1 OFFSET ?", (MAX_VISITS,)
            ).fetchone()
            if before is not None:
                [after] = before
        first, newest = database.execute(
            "SELECT min(number), max(number) FROM searched WHERE number > ?", (after,)
        ).fetchone()
        if first is None:
            return
        new = newest - first + 1
        if self._count + new > len(self._rowids):
            self._take(np.arange(self._count), int((self._count + new) * _GROWTH))
        rows = database.execute(
            "SELECT number, began, source, label, sounds, numbers FROM searched WHERE number > ?"
            " ORDER BY number",
            (after,),
        )
        while part := rows.fetchmany(_AT_ONCE):
            self._add(part)
        if self._count and self._last is None:
            last = int(self._rowids[self._count - 1])
            self._last = _identity(database, last)

    def _add(self, rows: Sequence[Sequence[Any]]) -> None:
        self._table = None
        start = self._count
        end = start + len(rows)
        rowids, began, sources, labels, sounds, numbers = zip(*rows, strict=True)
        self._rowids[start:end] = rowids
        self._began[start:end] = began
        self._sources[start:end] = _numbered(self._source_numbers, sources)
        self._labels[start:end] = _numbered(self._label_numbers, labels)
        stored = np.frombuffer(b"".join(numbers), _STORED)
        self._numbers[:, start:end] = stored.reshape(len(rows), NUMBERS).T
        for rowid, heard in zip(rowids, sounds, strict=True):
            if heard == _NO_SOUNDS:
                continue
            for sound in _NAMES.decode(heard):
                self._heard.setdefault(sound, []).append(rowid)
        self._count = end
        self._last = None

    def _drop_old(self, database: sqlite3.Connection) -> None:
        """Drop visits that the database has no more, and the oldest above MAX_VISITS."""
        [count] = database.execute("SELECT count(*) FROM visits").fetchone()
        rowids = self._rowids[: self._count]
        if count != self._count + self._older:
            is_kept = np.ones(rowids.size, np.bool_)
            [first] = database.execute("SELECT min(rowid) FROM visits").fetchone()
            if first is not None:
                is_kept = rowids >= first
            if count != np.count_nonzero(is_kept) + self._older:
                ids = database.execute("SELECT rowid FROM visits INDEXED BY visits_by_age")
                there = np.fromiter((row[0] for row in ids), np.int64)
                is_kept = np.isin(rowids, there)
            rows = np.flatnonzero(is_kept)
            self._take(rows, int(rows.size * _GROWTH))
        if self._count > MAX_VISITS:
            rows = np.arange(self._count - MAX_VISITS, self._count)
            self._take(rows, int(MAX_VISITS * _GROWTH))
        self._older = max(0, count - self._count)

    def _take(self, rows: VisitRows, room: int) -> None:
        """Keep some rows, in new arrays with room for `room` visits."""
        self._table = None
        is_shorter = rows.size < self._count
        self._rowids = _moved(self._rowids, rows, room)
        self._began = _moved(self._began, rows, room)
        self._sources = _moved(self._sources, rows, room)
        self._labels = _moved(self._labels, rows, room)
        self._numbers = _moved(self._numbers, rows, room)
        self._count = rows.size
        if is_shorter:
            held = self._rowids[: self._count]
            for sound, heard in self._heard.items():
                self._heard[sound] = np.intersect1d(held, heard).tolist()

    def _view(self) -> VisitTable:
        rowids = self._rowids[: self._count]
        return VisitTable(
            self._began[: self._count],
            self._sources[: self._count],
            tuple(self._source_numbers),
            self._labels[: self._count],
            tuple(self._label_numbers),
            self._numbers[:, : self._count],
            {sound: np.searchsorted(rowids, heard) for sound, heard in self._heard.items()},
        )


def _numbered(numbers: dict[str, int], names: Sequence[str]) -> list[int]:
    """Return the number of each name; a new name gets the next one."""
    for name in dict.fromkeys(names):
        numbers.setdefault(name, len(numbers))
    return [numbers[name] for name in names]


def _moved(values: npt.NDArray[Any], rows: VisitRows, room: int) -> npt.NDArray[Any]:
    """Return an array with some columns of another one, and room for `room` of them."""
    room = max(room, rows.size)
    moved = np.empty((*values.shape[:-1], room), values.dtype)
    moved[..., : rows.size] = values[..., rows]
    return moved


def _identity(database: sqlite3.Connection, rowid: int) -> tuple[str, float, float] | None:
    """Return the id of a visit with its times; None if it is gone."""
    row: tuple[str, float, float] | None = database.execute(
        "SELECT id, began_captured, kept FROM visits WHERE number = ?", (rowid,)
    ).fetchone()
    return row
