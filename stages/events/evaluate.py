"""Evaluate all rules of a source on a result. Pure functions of the result and the state.

The stage of a run and `framegate events replay` both use this module, so a rule that is tried on
stored results gives the changes that a run would have given.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from framegate.models.backdrop import is_moved
from framegate.pipeline.config.events import EventsConfig, RuleConfig
from framegate.pipeline.contracts.episodes import Change, Changes, Direction
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.visits import Visit
from framegate.stages.events.conditions import (
    Fact,
    Holding,
    holdings_of,
    last_heard,
    source_holding,
)
from framegate.stages.events.crossings import Crossing, cross
from framegate.stages.events.episodes import advance, change, ended, unknown
from framegate.stages.events.muting import Mutes
from framegate.stages.events.rulebook import Rule, Rulebook
from framegate.stages.events.source_clock import at_end, begun, is_known, while_away
from framegate.stages.events.state import (
    EventsState,
    KnownView,
    Now,
    RuleNote,
    Stretch,
    Track,
)
from framegate.stages.events.tracks import FOOT, TracksSeen, follow, is_unseen

log = logging.getLogger(__name__)

_replace = msgspec.structs.replace
_MOST_EARLIER: Final = 32  # numbers of earlier tracks that a period keeps: the first, the newest
_MOST_BEGINNINGS: Final = 3  # earlier crossings that are kept: several objects cross at once
_LEAST_LIKENESS: Final = 0.5  # of a visit if the rule has no min_score
_MOVED_THUMBNAILS: Final = 2  # consecutive thumbnails of another view: the camera was moved
_MOVED: Final = (
    "the camera was moved, so its areas and lines do not fit and their rules are paused; "
    "draw the areas and lines again, or change [events] view if they still fit"
)
_BACK: Final = "the camera has the view for which its areas and lines were drawn again"


class JudgedFrame(NamedTuple):
    """The changes of episodes in a frame, with its visits (None: neither), and the state after."""

    changes: Changes | None
    state: EventsState


class RuleJudge:
    """The rules of one source. All memory is in the state. One thread."""

    def __init__(self, config: EventsConfig, source: str) -> None:
        self._book = Rulebook(config, source)
        self._source = source
        self.mutes = Mutes()
        """The filters that mute episodes. Which of them applied is part of the changes."""

    def is_idle(self, state: EventsState) -> bool:
        """Return whether there has been no rule since the source began, so nothing is evaluated."""
        return not self._book.rules and state.at is None

    def judge(self, result: Result, state: EventsState) -> JudgedFrame:
        """Evaluate the rules on a result. Results must be in the order of their positions."""
        now, state = begun(result, state)
        changes = _ChangeList()
        state = self._with_these_rules(state, now, changes)
        state = self._tell_alike(result.visits, state, now, changes)
        if self._book.sounds and result.sounds is not None:
            state = _replace(state, heard=last_heard(result.sounds, self._book.sounds, now))
        if result.backdrop is not None:
            state = _replace(state, view=self._viewed(result.backdrop, state.view))
        if not is_known(result, state):
            return self._nothing_known(now, state, changes)
        book = self._book
        seen, gone = follow(state, now, book.gap_ms, book.reconnect_ms, book.handover)
        state = _handed(state, seen)
        if book.wires:
            crossed = cross(book, state, seen, gone, now)
            if crossed.passings or state.passings:
                state = _replace(state, passings=crossed.passings)
            seen = seen._replace(tracks=crossed.tracks)
            state = self._tell_crossings(crossed.crossings, state, now, changes)
        if book.timed:
            holdings = zip(book.timed, holdings_of(book, state, seen, now), strict=True)
            state = self._advanced(holdings, state, seen, now, changes)
        state = _replace(state, tracks=seen.tracks, known_ms=now.known_ms)
        return self._done(now, state, changes, self._unanswered(result))

    def end(self, end: End, state: EventsState, visits: Sequence[Visit] = ()) -> JudgedFrame:
        """Evaluate the rules at the end of an epoch, and on the visits that end with it.

        While a camera is away, the end is repeated with a growing `End.away_s`, which advances the
        source's clock.
        """
        if self.is_idle(state):
            return JudgedFrame(None, state)
        if state.at is None and end.since:  # the camera never connected
            state = _replace(state, at=StoredMoment(end.epoch, 0, 0.0, end.since))
        if state.at is None:
            return JudgedFrame(None, state)
        now = at_end(state.at, state)
        changes = _ChangeList()
        state = self._with_these_rules(state, now, changes)
        state = self._tell_alike(visits, state, now, changes)
        if not end.away_s:
            crossed = cross(self._book, state, _NO_TRACKS, state.tracks, now)
            state = self._tell_crossings(crossed.crossings, state, now, changes)
            state = _replace(state, passings=())
        if end.last:
            return self._ended(now, state, changes)
        if not state.away_ms:  # later, a rule that becomes active begins at the present time
            new = [
                (rule, self._if_due(rule, _LOST, now))
                for rule in self._book.timed
                if rule.config.state == "lost" and rule.key not in state.stretches
            ]
            state = self._advanced(new, state, _NO_TRACKS, now, changes)
        if end.away_s:
            now, state = while_away(end.away_s, state)
            seen = _NO_TRACKS._replace(tracks=state.tracks)
            holdings = []
            for rule in self._book.timed:
                holding = Holding(maybe=[()])
                if rule.config.state == "lost":
                    holding = _LOST
                holdings.append((rule, self._if_due(rule, holding, now)))
            # As after a break: objects that are present when the camera is back may be the same.
            broken = _replace(state, breaks=state.breaks + 1)
            after = self._advanced(holdings, broken, seen, now, changes)
            state = _replace(after, breaks=state.breaks)
        unknown_now = [
            rule.name
            for rule in self._book.rules
            if rule.config.when != "state" or rule.config.state == "reported"
        ]
        names = tuple(sorted(unknown_now))
        published = changes.published(state.unknown, names, now.at.captured)
        return JudgedFrame(published, _replace(state, unknown=names))

    def _with_these_rules(self, state: EventsState, now: Now, changes: _ChangeList) -> EventsState:
        """Return the state for the current rules. Episodes of removed rules end."""
        book = self._book
        if state.lines != book.lines:
            state = _replace(
                state,
                lines=book.lines,
                tracks=tuple(_with_lines(track, state.lines, book.lines) for track in state.tracks),
                passings=tuple(each for each in state.passings if each.key in book.by_key),
            )
        position = (now.at.epoch, now.at.seq)
        # A camera that is away stays at one position, where an episode that begins again would get
        # the id of the one that ended: the rule or the profile can change there.
        taken = {name: each for name, each in state.ended.items() if each[:2] == position}
        if taken != state.ended:
            state = _replace(state, ended=taken)
        if not state.begun_ms.keys() <= book.by_key.keys():
            kept = {key: ms for key, ms in state.begun_ms.items() if key in book.by_key}
            earlier = {key: each for key, each in state.earlier_ms.items() if key in kept}
            state = _replace(state, begun_ms=kept, earlier_ms=earlier)
        removed = [key for key in state.stretches if key not in book.by_key]
        if not removed:
            return state
        stretches = dict(state.stretches)
        notes = dict(state.notes)
        for key in removed:
            ending = stretches.pop(key)
            note = notes.pop(key, None)
            if note is not None:
                rule = _removed_rule(key, note)
                changes.add(ended(rule, ending, now, self._source, "rule_changed"))
                taken = _taken(taken, rule.name, ending, now)
        return _replace(state, stretches=stretches, notes=notes, ended=taken)

    def _viewed(self, backdrop: bytes, view: KnownView | None) -> KnownView | None:
        """Return the known view after another thumbnail."""
        key = self._book.view
        if view is None or view.key != key:
            if not backdrop:
                return None
            return KnownView(key, backdrop)
        shows_other = is_moved(view.backdrop, backdrop)
        if shows_other is None:
            return view
        others = 0
        if shows_other:
            others = min(view.others + 1, _MOVED_THUMBNAILS)
        now_moved = others >= _MOVED_THUMBNAILS or (shows_other and view.is_moved)
        if now_moved and not view.is_moved:
            log.warning("source %s: %s", self._source, _MOVED)
        elif view.is_moved and not now_moved:
            log.info("source %s: %s", self._source, _BACK)
        return _replace(view, others=others, is_moved=now_moved)

    def _nothing_known(self, now: Now, state: EventsState, changes: _ChangeList) -> JudgedFrame:
        """Evaluate a frame without information: rules about the source, and ones not active."""
        stretches = dict(state.stretches)
        names = []
        holdings = []
        for rule in self._book.rules:
            if rule.config.when == "state":
                holding = self._if_due(rule, source_holding(rule, now, state), now)
                holdings.append((rule, holding))
                continue
            names.append(rule.name)
            if not self._book.is_due(rule, now.at.captured):
                holdings.append((rule, Holding(is_over=True)))
                continue
            after = unknown(rule, stretches.pop(rule.key, ()), now)
            if after:
                stretches[rule.key] = after
        state = _replace(state, stretches=stretches, turned=now.result.outcome != "failed")
        state = self._advanced(holdings, state, _NO_TRACKS, now, changes)
        names += self._unanswered(now.result)
        return self._done(now, state, changes, tuple(sorted(names)))

    def _if_due(self, rule: Rule, holding: Holding, now: Now) -> Holding:
        """Return the result of a rule; one that is not active is over, as in `holdings_of`."""
        if self._book.is_due(rule, now.at.captured):
            return holding
        return Holding(is_over=True)

    def _unanswered(self, result: Result) -> tuple[str, ...]:
        """Return the rules about events of the camera, in order, if it does not answer."""
        if result.camera_events is not None:
            return ()
        return self._book.reported

    def _advanced(
        self,
        holdings: Iterable[tuple[Rule, Holding]],
        state: EventsState,
        seen: TracksSeen,
        now: Now,
        changes: _ChangeList,
    ) -> EventsState:
        """Return the state after the results of rules, in the order of their `after`."""
        stretches = dict(state.stretches)
        notes = dict(state.notes)
        begun_ms = dict(state.begun_ms)
        taken = state.ended
        tracks = {track.number: track for track in seen.tracks}
        present = {track.number for track in seen.tracks[: len(seen.objects)]}
        reconnect_ms = self._book.reconnect_ms

        def is_gone(rule: Rule, stretch: Stretch) -> bool:
            """Return whether the subject of a period is unknown for too long."""
            if not stretch.subject:
                return _is_source_unknown(rule, stretch, now, reconnect_ms)
            for number in stretch.subject:
                track = tracks.get(number)
                if track is None or is_unseen(track, state, now, rule.gap_ms, reconnect_ms):
                    return True
            return False

        for rule, holding in holdings:
            before = stretches.get(rule.key, ())
            if not (holding.facts or before):
                continue
            _, _, rank = taken.get(rule.name, (0, 0, 0))
            judged = advance(
                rule, before, holding, now, self._source, rank, present, is_gone,
                lambda rule: self._may_begin(rule, stretches, begun_ms, {}, now.ms),
                lambda rule, stretch: self.mutes.assess(rule, stretch, tracks, now),
            )  # fmt: skip
            if judged.stretches:
                stretches[rule.key] = judged.stretches
            else:
                stretches.pop(rule.key, None)
            if not judged.changes:
                continue
            changes.add(judged.changes)
            if any(each.step == "end" for each in judged.changes):
                taken = _taken(taken, rule.name, before, now)
            open_since = [stretch.began_ms for stretch in judged.stretches if stretch.is_told]
            if not open_since:
                notes.pop(rule.key, None)
            elif rule.key not in notes:
                notes[rule.key] = RuleNote(rule.config.when, rule.config.severity, rule.clip)
            has_start = any(each.step == "start" for each in judged.changes)
            if has_start and rule.name in self._book.referred:
                begun_ms[rule.key] = max(open_since, default=now.ms)
        return _replace(state, stretches=stretches, notes=notes, begun_ms=begun_ms, ended=taken)

    def _may_begin(
        self,
        rule: Rule,
        stretches: Mapping[str, tuple[Stretch, ...]],
        begun_ms: Mapping[str, int],
        earlier_ms: Mapping[str, tuple[int, ...]],
        ms: int,
    ) -> bool:
        """Return whether the rule in its `after`, if any, has an episode or recently had one.

        ms  time at which the rule would begin; for a crossing, it is before the frame
        """
        after = rule.config.after
        if after is None:
            return True
        key = self._book.referred.get(after.rule, "")
        if any(stretch.is_told for stretch in stretches.get(key, ())):
            return True
        if key not in begun_ms:
            return False
        beginnings = (begun_ms[key], *earlier_ms.get(key, ()))
        return any(0 <= ms - each <= after.within_s * 1000 for each in beginnings)

    def _tell_crossings(
        self, crossings: Sequence[Crossing], state: EventsState, now: Now, changes: _ChangeList
    ) -> EventsState:
        """Publish each crossing as an episode that begins and ends at the intersection."""
        order = {rule.key: number for number, rule in enumerate(self._book.rules)}

        def position(crossing: Crossing) -> tuple[int, StoredMoment, int]:
            return order[crossing.rule.key], crossing.passing.met, crossing.passing.rank

        for crossing in sorted(crossings, key=position):
            rule = crossing.rule
            passing = crossing.passing
            track = crossing.track
            met_ms = now.ms - max(round((now.at.media_s - passing.met.media_s) * 1000), 0)
            begun_ms = state.begun_ms
            earlier_ms = state.earlier_ms
            if not self._may_begin(rule, state.stretches, begun_ms, earlier_ms, met_ms):
                continue
            stretch = Stretch(
                (track.number,), passing.rank, passing.met, met_ms, passing.met, met_ms,
                track.label, passing.box, passing.models, track.sightings,
                bridged=passing.bridged, earlier=track.earlier,
            )  # fmt: skip
            direction: Direction = "out"
            if crossing.is_in:
                direction = "in"
            assessment = self.mutes.assess(rule, stretch, {track.number: track}, now)
            stretch = _replace(stretch, muted=assessment.muted)
            step = functools.partial(
                change, rule, stretch, now=now, source=self._source, direction=direction
            )
            start = step("start", traits=assessment.traits)
            changes.add([start, step("end", ended_by="over")])
            if rule.name in self._book.referred:
                state = _with_crossing(state, rule.key, met_ms)
        return state

    def _tell_alike(
        self, visits: Sequence[Visit], state: EventsState, now: Now, changes: _ChangeList
    ) -> EventsState:
        """Publish each visit that is like the marked ones as an episode from its begin to its end.

        A visit ends once, so it gives one episode of a rule. The track is its rank, because several
        visits can begin in the same frame and end in others.
        """
        for rule, likeness in self._book.alike:
            for visit in visits:
                value = likeness.of(visit)
                is_alike = value >= (rule.config.min_score or _LEAST_LIKENESS)
                if not (is_alike and rule.is_about(visit.label) and visit.path):
                    continue
                if not self._book.is_due(rule, visit.last.captured):
                    continue
                if not self._may_begin(rule, state.stretches, state.begun_ms, {}, now.ms):
                    continue
                stretch = _stretch_of(visit, value, now)
                step = functools.partial(change, rule, stretch, now=now, source=self._source)
                changes.add([step("start"), step("end", ended_by="over")])
                if rule.name in self._book.referred:
                    state = _replace(state, begun_ms={**state.begun_ms, rule.key: now.ms})
        return state

    def _ended(self, now: Now, state: EventsState, changes: _ChangeList) -> JudgedFrame:
        for rule in self._book.timed:
            stretches = state.stretches.get(rule.key, ())
            changes.add(ended(rule, stretches, now, self._source, "source_ended"))
        captured = now.at.captured if state.unknown else 0.0
        published = changes.published(state.unknown, (), captured)
        return JudgedFrame(published, EventsState(breaks=state.breaks))

    def _done(
        self, now: Now, state: EventsState, changes: _ChangeList, unknown_now: tuple[str, ...]
    ) -> JudgedFrame:
        published = changes.published(state.unknown, unknown_now)
        return JudgedFrame(published, _replace(state, at=now.at, unknown=unknown_now))


class _ChangeList:
    """The changes of a frame in their order."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def add(self, changes: Iterable[Change]) -> None:
        self._changes += changes

    def published(
        self, before: tuple[str, ...], now: tuple[str, ...], captured: float = 0.0
    ) -> Changes | None:
        """Return the output of the stage, or None without a change.

        before, now  rules that cannot be judged
        captured     see Changes
        """
        if not self._changes and before == now:
            return None
        lost = tuple(name for name in now if name not in before)
        regained = tuple(name for name in before if name not in now)
        return Changes(tuple(self._changes), lost, regained, captured)


def _with_crossing(state: EventsState, key: str, ms: int) -> EventsState:
    """Return the state after a crossing, at `ms`, of a rule that an `after` refers to."""
    earlier_ms = dict(state.earlier_ms)
    if key in state.begun_ms:
        beginnings = (state.begun_ms[key], *earlier_ms.get(key, ()))
        earlier_ms[key] = beginnings[:_MOST_BEGINNINGS]
    return _replace(state, begun_ms={**state.begun_ms, key: ms}, earlier_ms=earlier_ms)


def _handed(state: EventsState, seen: TracksSeen) -> EventsState:
    """Return the state with the periods of lost tracks passed to the tracks that continue them."""
    if not seen.handed:
        return state
    stretches = {}
    for key, before in state.stretches.items():
        stretches[key] = tuple(_handed_stretch(stretch, seen) for stretch in before)
    return _replace(state, stretches=stretches)


def _handed_stretch(stretch: Stretch, seen: TracksSeen) -> Stretch:
    old = tuple(number for number in stretch.subject if number in seen.handed)
    if not old:
        return stretch
    subject = tuple(sorted(seen.handed.get(number, number) for number in stretch.subject))
    earlier = (*stretch.earlier, *old)
    if len(earlier) > _MOST_EARLIER:
        earlier = (earlier[0], *earlier[1 - _MOST_EARLIER :])
    return _replace(stretch, subject=subject, earlier=earlier)


def _is_source_unknown(rule: Rule, stretch: Stretch, now: Now, reconnect_ms: int) -> bool:
    """Return whether the state of the source is unknown for too long for a period to continue."""
    is_interrupted = now.is_away or stretch.last.epoch != now.at.epoch
    limit_ms = rule.gap_ms
    if is_interrupted:
        limit_ms = max(rule.gap_ms, reconnect_ms)
    # The sound may stop, and the camera may stop to answer.
    may_end = is_interrupted or rule.config.state in ("heard", "reported")
    return may_end and now.ms - stretch.last_ms > limit_ms


def _taken(
    before: Mapping[str, tuple[int, int, int]], rule: str, ending: Sequence[Stretch], now: Now
) -> dict[str, tuple[int, int, int]]:
    """Return `EventsState.ended` after a frame in which these periods of a rule end."""
    position = (now.at.epoch, now.at.seq)
    ranks = [
        stretch.rank
        for stretch in ending
        if stretch.is_told and (stretch.began.epoch, stretch.began.seq) == position
    ]
    if not ranks:
        return dict(before)
    return {**before, rule: (*position, max(ranks) + 1)}


def _with_lines(track: Track, before: Sequence[str], after: Sequence[str]) -> Track:
    """Return the track with the sides of other lines; the side of a new line is unknown."""
    sides = dict(zip(before, track.sides, strict=False))
    return _replace(track, sides=tuple(sides.get(key, 0) for key in after))


def _stretch_of(visit: Visit, value: float, now: Now) -> Stretch:
    """Return a visit as a period in which a rule was true. value: its likeness."""
    width, height = visit.size
    foot = visit.path[0]
    left, top = foot.x - width / 2, foot.y - height
    edges = [min(max(edge, 0.0), 1.0) for edge in (left, top, left + width, foot.y)]
    x1, y1, x2, y2 = [round(edge * 10_000) for edge in edges]
    began = StoredMoment(*msgspec.structs.astuple(visit.began))
    last = StoredMoment(*msgspec.structs.astuple(visit.last))
    return Stretch(
        (visit.track,),
        visit.track,
        began,
        now.ms - max(round((now.at.media_s - began.media_s) * 1000), 0),
        last,
        now.ms - max(round((now.at.media_s - last.media_s) * 1000), 0),
        visit.label,
        (x1, y1, x2, y2),
        now.result.models,
        sightings=visit.looks,
        value=value,
    )


def _removed_rule(key: str, note: RuleNote) -> Rule:
    """Return a rule that was removed, for the ends of its episodes."""
    name, _, version = key.partition("@")
    config = RuleConfig(when=note.when, severity=note.severity)
    return Rule(name, version, config, FOOT, -1, note.clip, 0)


_NO_TRACKS: Final = TracksSeen((), (), (), {})
_LOST: Final = Holding([Fact((), True)])
