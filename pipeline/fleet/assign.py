"""Assign sources to slots: a pure function over costs, without hosts, liveness or time.

It is rendezvous hashing (Thaler and Ravishankar, 1998) with weights and with a bound on the load of
each slot. It is sticky: a source keeps its slot as long as that is possible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from framegate.pipeline.fleet.plan import SlotRoom, thousandths

SPREAD: Final = 1.1  # a new source prefers slots below this multiple of their fair load

_U64 = np.uint64


def assign(
    costs: Mapping[str, float],
    rooms: Mapping[str, SlotRoom],
    before: Mapping[str, str],
    spread: bool = False,
) -> dict[str, str]:
    """Return the slot of each source. A source that fits into no slot is missing.

    The result depends neither on the order of the arguments nor on anything else. A source keeps
    its slot from `before`, unless that slot is gone or drained, or holds more than its cores. Then
    the sources with the lowest scores leave it. Other sources are placed, the most costly first:
    into the slot with the best score that stays below SPREAD times its fair load, else into the
    best slot that has room.

    costs   CPU cores of each source, 0 or more
    rooms   all slots
    spread  a slot may also keep no more than SPREAD times its fair load, so that a new slot gets
            sources at once
    """
    loads = _Loads(costs, rooms)
    placed: dict[str, str] = {}
    for slot, names in _by_slot(before, costs, rooms).items():
        for name in loads.stay(slot, names, spread):
            placed[name] = slot
    rest = [name for name in costs if name not in placed]
    for name in sorted(rest, key=lambda name: (-loads.costs[name], name)):
        chosen = loads.place(name)
        if chosen is not None:
            placed[name] = chosen
    return placed


def _by_slot(
    before: Mapping[str, str], costs: Mapping[str, float], rooms: Mapping[str, SlotRoom]
) -> dict[str, list[str]]:
    """Return the sources that may stay, by their slot."""
    by_slot: dict[str, list[str]] = {}
    for name, slot in before.items():
        room = rooms.get(slot)
        if name in costs and room is not None and not room.drained:
            by_slot.setdefault(slot, []).append(name)
    return by_slot


class _Loads:
    """The loads of all open slots, in thousandths of a core, while sources are placed.

    A load never exceeds the cores of its slot.
    """

    def __init__(self, costs: Mapping[str, float], rooms: Mapping[str, SlotRoom]) -> None:
        self.costs = {name: thousandths(cost) for name, cost in costs.items()}
        self._open = sorted(name for name, room in rooms.items() if not room.drained)
        self._index = {name: index for index, name in enumerate(self._open)}
        self._cores = np.array([rooms[name].cores for name in self._open], dtype=np.float64)
        most = [thousandths(rooms[name].cores) for name in self._open]
        self._most = np.array(most, dtype=np.int64)
        fair = sum(self.costs.values()) * self._most / max(1, int(self._most.sum()))
        self._preferred = np.minimum(self._most, np.ceil(SPREAD * fair).astype(np.int64))
        self._loads = np.zeros(len(self._open), dtype=np.int64)
        self._hashes = _hashes(self._open)

    def stay(self, slot: str, names: Iterable[str], spread: bool) -> list[str]:
        """Return the sources that stay in a slot, and add them to its load."""
        names = list(names)
        index = self._index[slot]
        most = int(self._most[index])
        if spread:
            most = int(self._preferred[index])
        if sum(self.costs[name] for name in names) > most:
            names.sort(key=lambda name: (self._scores(name)[index], name))
        staying = []
        for name in names:
            if self._loads[index] + self.costs[name] <= most:
                self._loads[index] += self.costs[name]
                staying.append(name)
        return staying

    def place(self, name: str) -> str | None:
        """Place a source and return its slot; None if no slot has room."""
        after = self._loads + self.costs[name]
        for most in (self._preferred, self._most):
            candidates = np.flatnonzero(after <= most)
            if len(candidates):
                scores = self._scores(name)[candidates]
                index = int(candidates[int(np.argmin(scores))])
                self._loads[index] += self.costs[name]
                return self._open[index]
        return None

    def _scores(self, name: str) -> Any:
        """Return the scores of all open slots for a source, the lowest first in preference.

        A score is exponentially distributed with the cores of the slot as its rate. So a slot has
        the lowest score with a probability in proportion to its cores.
        """
        mixed = _mixed(self._hashes ^ _hashes([name])[0])
        uniform = ((mixed >> _U64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return -np.log(uniform) / self._cores


def _hashes(names: Iterable[str]) -> Any:
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(_U64)


def _mixed(values: Any) -> Any:
    """Return the values with all bits mixed: the finaliser of SplitMix64."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))
