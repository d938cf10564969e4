"""The differences of two runs over the same footage: frames, objects, tracks and episodes.

Frames of the two runs belong together if they have the same time (`pts`; without times, the same
number) in the same epoch. Epochs are counted from the first one of each run, because a run
continues the count of an earlier run in its folder. Objects belong together if they have the same
label and an IoU of at least MIN_IOU. Equal objects have the same label, score and box; their
numbers may differ, as numbers have no meaning beyond a run.

Pure functions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.models.boxes import iou
from framegate.models.matching import MIN_IOU, optimal
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.review.search import Episode

SAME_S: Final = 0.5  # episodes of a rule that begin within this time are the same
_COMPARED: Final = ("label", "direction", "severity", "value", "seconds", "ended_by", "muted")
_UNORDERED_S: Final = 1.0  # by which times of frames can be out of order
_REMEMBERED: Final = 32  # frames among which equal times are counted
_LEAST: Final = 0.001  # of a difference between two numbers of an episode


class FrameDifference(msgspec.Struct, frozen=True, tag="frame", tag_field="kind"):
    """A frame that the two runs have different results for.

    before, after  its position in each run; null: the run has no such frame
    pts       seconds; null if it has none
    lost      objects that only the first run has
    new       objects that only the second run has
    changed   pairs of objects of both runs with other scores or boxes
    """

    source: str
    before: str | None
    after: str | None
    pts: float | None
    lost: tuple[Object, ...] = ()
    new: tuple[Object, ...] = ()
    changed: tuple[tuple[Object, Object], ...] = ()


class TrackDifference(msgspec.Struct, frozen=True, tag="track", tag_field="kind"):
    """Tracks of the first run that are others in the second.

    before, after  their numbers. Without numbers on one side, only the other run has the track.
                   Several numbers: the same things are split differently
    label          the most frequent class of their objects
    """

    source: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    label: str


class EpisodeDifference(msgspec.Struct, frozen=True, tag="episode", tag_field="kind"):
    """An episode that only one run has, or that differs.

    before, after  the episode in each run; null: the run has no such episode
    fields         names of the fields that differ
    """

    source: str
    rule: str
    before: Episode | None
    after: Episode | None
    fields: tuple[str, ...] = ()


class _Compared(msgspec.Struct, frozen=True):
    """The part of a result that is compared."""

    position: Position
    pts: float | None
    objects: tuple[Object, ...]


class SourceComparison:
    """The comparison of one source. One thread.

    both, only_before, only_after  frames of both runs, and of one only
    """

    def __init__(self, source: str, before: Iterable[Result]) -> None:
        """before: all results of the first run, in order; they are read as they are needed."""
        self._source = source
        self._before = iter(before)
        self._epochs_before = _MomentKeys()
        self._epochs_after = _MomentKeys()
        self._tracks = _TrackPairs(source)
        self._waiting: dict[
            _MomentKey, _Compared
        ] = {}  # of the first run, without a partner so far
        self._is_read = False
        self.both = 0
        self.only_before = 0
        self.only_after = 0

    def frames(self, after: Iterable[Result]) -> Iterator[FrameDifference]:
        """Compare the results of the second run, in order; yield the frames that differ."""
        for result in after:
            key = self._epochs_after.key(result)
            frame = _Compared(result.position, result.pts, result.objects)
            yield from self._read_up_to(key)
            known = self._waiting.pop(key, None)
            if known is None:
                self.only_after += 1
                self._tracks.see((), frame.objects, ())
                yield self._alone(None, frame)
                continue
            self.both += 1
            pairs = _pairs(known.objects, frame.objects)
            self._tracks.see(known.objects, frame.objects, pairs)
            difference = self._difference(known, frame, pairs)
            if difference is not None:
                yield difference
        yield from self._read_up_to(None)

    def _read_up_to(self, key: _MomentKey | None) -> Iterator[FrameDifference]:
        """Read the first run until it has a key or is past it, None: to its end.

        Yield the frames that can have no partner any more.
        """
        yield from self._frames_before(key)
        while not self._is_read and (key is None or key not in self._waiting):
            result = next(self._before, None)
            if result is None:
                self._is_read = True
                break
            read = self._epochs_before.key(result)
            self._waiting[read] = _Compared(result.position, result.pts, result.objects)
            if key is not None and read.is_past(key):
                break
            yield from self._frames_before(key)

    def _frames_before(self, key: _MomentKey | None) -> Iterator[FrameDifference]:
        passed = [each for each in self._waiting if key is None or key.is_past(each)]
        for each in passed:
            known = self._waiting.pop(each)
            self.only_before += 1
            self._tracks.see(known.objects, (), ())
            yield self._alone(known, None)

    def tracks(self) -> list[TrackDifference]:
        """Return the tracks that differ, once all frames were compared."""
        return self._tracks.differences()

    def episodes(
        self, before: Sequence[Episode], after: Sequence[Episode]
    ) -> list[EpisodeDifference]:
        """Return the episodes that differ, once all frames were compared."""
        sides = [_by_rule(before, self._epochs_before), _by_rule(after, self._epochs_after)]
        found = []
        for place in sorted(sides[0].keys() | sides[1].keys()):
            pairs = _same_episodes(sides[0].get(place, []), sides[1].get(place, []))
            for pair in sorted(pairs, key=_begins):
                fields = _different_fields(*pair)
                if fields or None in pair:
                    found.append(EpisodeDifference(self._source, place[0], *pair, fields))
        return found

    def _alone(self, before: _Compared | None, after: _Compared | None) -> FrameDifference:
        frame = before or after
        assert frame is not None
        lost = () if before is None else before.objects
        new = () if after is None else after.objects
        return FrameDifference(
            self._source, _position(before), _position(after), frame.pts, lost, new
        )

    def _difference(
        self, before: _Compared, after: _Compared, pairs: Sequence[tuple[int, int]]
    ) -> FrameDifference | None:
        paired = [(before.objects[row], after.objects[column]) for row, column in pairs]
        changed = tuple(pair for pair in paired if pair[0].score != pair[1].score or
                        pair[0].box != pair[1].box)  # fmt: skip
        rows = {row for row, _ in pairs}
        columns = {column for _, column in pairs}
        lost = tuple(each for n, each in enumerate(before.objects) if n not in rows)
        new = tuple(each for n, each in enumerate(after.objects) if n not in columns)
        if not (lost or new or changed):
            return None
        return FrameDifference(
            self._source, _position(before), _position(after), after.pts, lost, new, changed
        )


class _MomentKey(NamedTuple):
    """The identity of a frame in both runs.

    epoch   number of its epoch in its run, from 0
    at      seconds; the number of the frame if it has no time
    again   number of frames before it with the same epoch and time
    """

    epoch: int
    at: float
    again: int

    def is_past(self, other: _MomentKey) -> bool:
        """Return whether no frame like `other` can follow; times are out of order by less."""
        return self.epoch > other.epoch or (
            self.epoch == other.epoch and self.at > other.at + _UNORDERED_S
        )


class _MomentKeys:
    """The keys of a source's frames in a run, in order. Epochs are numbered from 0."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._latest: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)

    def number(self, epoch: int) -> int:
        """Return the number of an epoch; an unknown one is the next."""
        return self._numbers.setdefault(epoch, len(self._numbers))

    def key(self, result: Result) -> _MomentKey:
        """Return the key of the next frame."""
        at = result.pts
        if at is None:
            at = float(result.seq)
        frame = (self.number(result.epoch), at)
        again = self._latest.count(frame)
        self._latest.append(frame)
        return _MomentKey(*frame, again)


def _position(frame: _Compared | None) -> str | None:
    return None if frame is None else str(frame.position)


def _pairs(before: Sequence[Object], after: Sequence[Object]) -> list[tuple[int, int]]:
    """Return the indices of objects that belong together."""
    if not (before and after):
        return []
    overlap = iou(_boxes(before), _boxes(after))
    same = np.array([[ours.label == theirs.label for theirs in after] for ours in before])
    rows, columns = optimal(np.where(same & (overlap >= MIN_IOU), overlap, np.float32(0)))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _boxes(objects: Sequence[Object]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([each.box for each in objects], np.float32).reshape(-1, 4)


class _TrackPairs:
    """Which tracks of the two runs are of the same things.

    Tracks are nodes (run, number); an edge joins two that share an object.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._joined: dict[tuple[int, int], tuple[int, int]] = {}  # towards the root of its group
        self._labels: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)

    def see(
        self, before: Sequence[Object], after: Sequence[Object], pairs: Iterable[tuple[int, int]]
    ) -> None:
        """Learn from a frame."""
        for run, objects in enumerate((before, after)):
            for each in objects:
                if each.track is not None:
                    self._labels[run, each.track][each.label] += 1
                    self._joined.setdefault((run, each.track), (run, each.track))
        for row, column in pairs:
            ours = before[row].track
            theirs = after[column].track
            if ours is not None and theirs is not None:
                self._joined[self._root((0, ours))] = self._root((1, theirs))

    def differences(self) -> list[TrackDifference]:
        """Return the groups that are not one track of each run."""
        groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for track in self._joined:
            groups[self._root(track)].append(track)
        found = []
        for tracks in groups.values():
            before = tuple(sorted(number for run, number in tracks if run == 0))
            after = tuple(sorted(number for run, number in tracks if run == 1))
            if len(before) == len(after) == 1:
                continue
            labels = sum((self._labels[track] for track in tracks), Counter[str]())
            label = labels.most_common(1)[0][0]
            found.append(TrackDifference(self._source, before, after, label))
        return sorted(found, key=lambda each: (each.before, each.after))

    def _root(self, track: tuple[int, int]) -> tuple[int, int]:
        while self._joined[track] != track:
            self._joined[track] = self._joined[self._joined[track]]
            track = self._joined[track]
        return track


RulePlace = tuple[str, int]  # rule, and number of the epoch


def _by_rule(episodes: Sequence[Episode], epochs: _MomentKeys) -> dict[RulePlace, list[Episode]]:
    found: dict[RulePlace, list[Episode]] = defaultdict(list)
    for episode in sorted(episodes, key=lambda each: each.began.media_s):
        found[episode.rule, epochs.number(episode.began.epoch)].append(episode)
    return found


EpisodePair = tuple[Episode | None, Episode | None]


def _same_episodes(before: Sequence[Episode], after: Sequence[Episode]) -> list[EpisodePair]:
    """Return pairs of episodes of a rule, the closest beginnings first, and those without one."""
    begins = [episode.began.media_s for episode in after]
    near = []
    for row, episode in enumerate(before):
        at = episode.began.media_s
        for column in range(bisect_left(begins, at - SAME_S), len(after)):
            if begins[column] > at + SAME_S:
                break
            near.append((abs(begins[column] - at), row, column))
    partners: dict[int, int] = {}
    taken: set[int] = set()
    for _, row, column in sorted(near):
        if row not in partners and column not in taken:
            partners[row] = column
            taken.add(column)
    pairs: list[EpisodePair] = []
    for row, episode in enumerate(before):
        partner = partners.get(row)
        pairs.append((episode, None if partner is None else after[partner]))
    pairs += [(None, episode) for column, episode in enumerate(after) if column not in taken]
    return pairs


def _begins(pair: EpisodePair) -> float:
    episode = pair[0] or pair[1]
    assert episode is not None
    return episode.began.media_s


def _different_fields(before: Episode | None, after: Episode | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    names = [name for name in _COMPARED if _differs(getattr(before, name), getattr(after, name))]
    if _differs(before.began.media_s, after.began.media_s):
        names.insert(0, "began")
    return tuple(names)


def _differs(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) >= _LEAST
    return ours != theirs
