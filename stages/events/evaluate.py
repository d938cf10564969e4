"""A frame's result into changes of episodes, and the state after it. Pure.

`framegate events replay` and the stage of a run are both this, so a rule that is tried over stored
results tells what it would have told.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from framegate.models.backdrop import is_moved
from framegate.pipeline.config.events import EventsConfig, RuleConfig
from framegate.pipeline.contracts.episodes import Change, Changes, Direction
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import Result, Sounds
from framegate.stages.events.crossings import Crossing, cross
from framegate.stages.events.episodes import advance, change, ended, unknown
from framegate.stages.events.rules import HEARD_MS, Fact, Holding, Rule, Rulebook, source_holding
from framegate.stages.events.state import (
    EventsState,
    KnownView,
    LastHeard,
    Mark,
    Now,
    RuleNote,
    Stretch,
    Track,
)
from framegate.stages.events.tracks import TracksSeen, follow, is_unseen

log = logging.getLogger(__name__)

_replace = msgspec.structs.replace
_PERIOD_MS: Final = 40  # of a frame whose time nobody knows
_TWICE: Final = 2  # pictures in a row that show something else, and the camera was moved
_MOVED: Final = (
    "its camera was moved: it looks elsewhere than its areas and lines were drawn for, and rules "
    "that ask for them stand still; draw them anew, or say another [events] view if they fit"
)
_BACK: Final = "its camera looks where its areas and lines were drawn for again"


class JudgedFrame(NamedTuple):
    """What a frame changed (None: nothing), and what is remembered."""

    changes: Changes | None
    state: EventsState


class RuleJudge:
    """The rules of one source. One thread; all that it remembers is in the state."""

    def __init__(self, config: EventsConfig, source: str) -> None:
        self._book = Rulebook(config, source)
        self._source = source

    def judge(self, result: Result, state: EventsState) -> JudgedFrame:
        """What a result changes. Results come in order of their positions."""
        now, state = _begun(result, state)
        changes = _ChangeList()
        state = self._with_these_rules(state, now, changes)
        if self._book.sounds and result.sounds is not None:
            state = _replace(state, heard=_heard(result.sounds, self._book.sounds, now))
        if result.backdrop is not None:
            state = _replace(state, view=self._viewed(result.backdrop, state.view))
        if not _is_known(result, state):
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
            holdings = zip(book.timed, book.holdings(state, seen, now), strict=True)
            state = self._advanced(holdings, state, seen, now, changes)
        state = _replace(state, tracks=seen.tracks, known_ms=now.known_ms)
        return self._done(now, state, changes, ())

    def end(self, end: End, state: EventsState) -> JudgedFrame:
        """What the end of an epoch changes: of the source, or until its camera is back. While it is
        away the end comes again (End.away_s), and the source's clock goes on by that.
        """
        if state.at is None and end.since:  # it never came
            state = _replace(state, at=Mark(end.epoch, 0, 0.0, end.since))
        if state.at is None:
            return JudgedFrame(None, state)
        now = Now(_RESULT, state.at, state.now_ms, state.known_ms, 0)
        changes = _ChangeList()
        state = self._with_these_rules(state, now, changes)
        if not end.away_s:
            crossed = cross(self._book, state, _NOBODY, state.tracks, now)
            state = self._tell_crossings(crossed.crossings, state, now, changes)
            state = _replace(state, passings=())
        if end.last:
            return self._ended(now, state, changes)
        lost = [rule for rule in self._book.timed if rule.said.state == "lost"]
        new = [(rule, _LOST) for rule in lost if rule.key not in state.stretches]
        state = self._advanced(new, state, _NOBODY, now, changes)
        if end.away_s:
            now, state = _while_away(end.away_s, state)
            seen = _NOBODY._replace(tracks=state.tracks)
            holdings = [
                (rule, _LOST if rule.said.state == "lost" else Holding(maybe=[()]))
                for rule in self._book.timed
            ]
            # As after a break: what is there when the camera is back may be what was there before.
            broken = _replace(state, breaks=state.breaks + 1)
            after = self._advanced(holdings, broken, seen, now, changes)
            state = _replace(after, breaks=state.breaks)
        names = tuple(sorted(rule.name for rule in self._book.rules if rule.said.when != "state"))
        told = changes.told(state.unknown, names, now.at.captured)
        return JudgedFrame(told, _replace(state, unknown=names))

    # -- The parts of it.

    def _with_these_rules(self, state: EventsState, now: Now, changes: _ChangeList) -> EventsState:
        """The state for the rules as they are now; what rules began that are not is ended."""
        book = self._book
        if state.lines != book.lines:
            state = _replace(
                state,
                lines=book.lines,
                tracks=tuple(_with_lines(track, state.lines, book.lines) for track in state.tracks),
                passings=tuple(one for one in state.passings if one.key in book.by_key),
            )
        old = [key for key in state.stretches if key not in book.by_key]
        for key in old:
            note = state.notes.get(key)
            if note is not None:
                rule = _former(key, note)
                stretches = state.stretches[key]
                changes.add(ended(rule, stretches, now, self._source, "rule_changed"))
        if old:
            still_there = {key: held for key, held in state.stretches.items() if key not in old}
            notes = {key: note for key, note in state.notes.items() if key not in old}
            begun = {key: ms for key, ms in state.begun_ms.items() if key not in old}
            state = _replace(state, stretches=still_there, notes=notes, begun_ms=begun)
        return state

    def _viewed(self, backdrop: bytes, view: KnownView | None) -> KnownView | None:
        """What is known of where the camera looks, after another look at that."""
        key = self._book.view
        if view is None or view.key != key:
            return KnownView(key, backdrop) if backdrop else None
        moved = is_moved(view.backdrop, backdrop)
        if moved is None:
            return view
        others = min(view.others + 1, _TWICE) if moved else 0
        now_moved = others >= _TWICE or (moved and view.is_moved)
        if now_moved != view.is_moved:
            say = log.warning if now_moved else log.info
            say("source %s: %s", self._source, _MOVED if now_moved else _BACK)
        return _replace(view, others=others, is_moved=now_moved)

    def _nothing_known(self, now: Now, state: EventsState, changes: _ChangeList) -> JudgedFrame:
        """A frame that says nothing: timers stand, but for rules about the source itself."""
        stretches = dict(state.stretches)
        names = []
        for rule in self._book.rules:
            if rule.said.when == "state":
                continue
            names.append(rule.name)
            if held := stretches.pop(rule.key, ()):
                stretches[rule.key] = unknown(rule, held, now)
        held_on = {key: held for key, held in stretches.items() if held}
        state = _replace(state, stretches=held_on, turned=now.result.outcome != "failed")
        about_source = [rule for rule in self._book.timed if rule.said.when == "state"]
        holdings = [(rule, source_holding(rule, now, state)) for rule in about_source]
        state = self._advanced(holdings, state, _NOBODY, now, changes)
        return self._done(now, state, changes, tuple(sorted(names)))

    def _advanced(
        self,
        holdings: Iterable[tuple[Rule, Holding]],
        state: EventsState,
        seen: TracksSeen,
        now: Now,
        changes: _ChangeList,
    ) -> EventsState:
        """The state after what holds of rules, and what those that come after them ask."""
        stretches, notes = dict(state.stretches), dict(state.notes)
        begun = dict(state.begun_ms)
        tracks = {track.number: track for track in seen.tracks}
        present = {track.number for track in seen.tracks[: len(seen.objects)]}
        reconnect_ms = self._book.reconnect_ms

        def is_gone(rule: Rule, stretch: Stretch) -> bool:
            """What a stretch is about, or how things stand, was not known for too long."""
            if not stretch.subject:
                is_new = now.is_away or stretch.last.epoch != now.at.epoch
                limit_ms = max(rule.gap_ms, reconnect_ms) if is_new else rule.gap_ms
                may_end = is_new or rule.said.state == "heard"  # a sound track may stop
                return may_end and now.ms - stretch.last_ms > limit_ms
            those = [tracks.get(number) for number in stretch.subject]
            return any(
                one is None or is_unseen(one, state, now, rule.gap_ms, reconnect_ms)
                for one in those
            )

        for rule, holding in holdings:
            before = stretches.get(rule.key, ())
            if not (holding.facts or before):
                continue
            judged = advance(
                rule, before, holding, now, self._source, present, is_gone,
                lambda rule: self._may_begin(rule, stretches, begun, now.ms),
            )  # fmt: skip
            if judged.stretches:
                stretches[rule.key] = judged.stretches
            else:
                stretches.pop(rule.key, None)
            if not judged.changes:
                continue
            changes.add(judged.changes)
            told = [stretch.began_ms for stretch in judged.stretches if stretch.is_told]
            if not told:
                notes.pop(rule.key, None)
            elif rule.key not in notes:
                notes[rule.key] = RuleNote(rule.said.when, rule.said.severity, rule.clip)
            if rule.name in self._book.asked and any(c.step == "start" for c in judged.changes):
                begun[rule.key] = max(told, default=now.ms)
        return _replace(state, stretches=stretches, notes=notes, begun_ms=begun)

    def _may_begin(
        self,
        rule: Rule,
        stretches: Mapping[str, tuple[Stretch, ...]],
        begun_ms: Mapping[str, int],
        ms: int,
    ) -> bool:
        """Whether the rule that it comes after, if any, has an episode, or had one of late."""
        after = rule.said.after
        if after is None:
            return True
        key = self._book.asked[after.rule]
        if any(stretch.is_told for stretch in stretches.get(key, ())):
            return True
        return key in begun_ms and ms - begun_ms[key] <= after.within_s * 1000

    def _tell_crossings(
        self, crossings: Sequence[Crossing], state: EventsState, now: Now, changes: _ChangeList
    ) -> EventsState:
        """A crossing is an episode that begins and ends where the line was met."""
        order = {rule.key: number for number, rule in enumerate(self._book.rules)}
        for one in sorted(
            crossings, key=lambda each: (order[each.rule.key], each.passing.met, each.passing.rank)
        ):
            passing, track = one.passing, one.track
            met_ms = now.ms - max(round((now.at.media_s - passing.met.media_s) * 1000), 0)
            if not self._may_begin(one.rule, state.stretches, state.begun_ms, met_ms):
                continue
            stretch = Stretch(
                (track.number,), passing.rank, passing.met, met_ms, passing.met, met_ms,
                track.label, passing.box, passing.models, track.sightings,
                bridged=passing.bridged, earlier=track.earlier,
            )  # fmt: skip
            direction: Direction = "in" if one.is_in else "out"
            step = functools.partial(
                change, one.rule, stretch, now=now, source=self._source, direction=direction
            )
            changes.add([step("start"), step("end", ended_by="over")])
            if one.rule.name in self._book.asked:
                state = _replace(state, begun_ms={**state.begun_ms, one.rule.key: met_ms})
        return state

    def _ended(self, now: Now, state: EventsState, changes: _ChangeList) -> JudgedFrame:
        for rule in self._book.timed:
            stretches = state.stretches.get(rule.key, ())
            changes.add(ended(rule, stretches, now, self._source, "source_ended"))
        return JudgedFrame(changes.told((), ()), EventsState(breaks=state.breaks))

    def _done(
        self, now: Now, state: EventsState, changes: _ChangeList, unknown_now: tuple[str, ...]
    ) -> JudgedFrame:
        told = changes.told(state.unknown, unknown_now)
        return JudgedFrame(told, _replace(state, at=now.at, unknown=unknown_now))


class _ChangeList:
    """Changes of a frame, in the order in which they hold."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def add(self, changes: Iterable[Change]) -> None:
        self._changes += changes

    def told(
        self, before: tuple[str, ...], now: tuple[str, ...], captured: float = 0.0
    ) -> Changes | None:
        """before, now: rules that cannot be judged. captured: as of Changes."""
        if not self._changes and before == now:
            return None
        lost = tuple(name for name in now if name not in before)
        found = tuple(name for name in before if name not in now)
        return Changes(tuple(self._changes), lost, found, captured)


def _begun(result: Result, state: EventsState) -> tuple[Now, EventsState]:
    """The frame with its time, and the state as its clock stands then."""
    last, pts = state.at, result.pts
    is_first = last is None or last.epoch != result.epoch
    if last is None:
        passed_ms = 0
    elif is_first:
        passed_ms = max(round((result.captured - last.captured) * 1000), state.away_ms)
    elif pts is None or state.pts is None:
        passed_ms = _PERIOD_MS
    else:
        passed_ms = max(round(pts * 1000) - round(state.pts * 1000), 0)
    if is_first or last is None:
        media_s = pts or 0.0
    else:
        media_s = pts if pts is not None else last.media_s + passed_ms / 1000
        media_s = max(media_s, last.media_s)
    is_known = _is_known(result, state)
    now_ms = state.now_ms + passed_ms
    known_ms = state.known_ms + (passed_ms if is_known else 0)
    at = Mark(result.epoch, result.seq, round(media_s, 6), round(result.captured, 6))
    # No path goes over a turn: what moved there was the camera.
    is_other = is_first or result.scene != state.scene or (state.turned and is_known)
    breaks = state.breaks + (last is not None and is_other)
    scene = result.scene if result.outcome != "failed" else state.scene
    begun = _replace(
        state, pts=pts if pts is not None else state.pts, now_ms=now_ms, scene=scene, breaks=breaks,
        away_ms=0, turned=state.turned and not is_known,
    )  # fmt: skip
    return Now(result, at, now_ms, known_ms, passed_ms), begun


def _is_known(result: Result, state: EventsState) -> bool:
    """Whether a frame says anything about areas and lines."""
    is_elsewhere = state.view is not None and state.view.is_moved
    return result.outcome != "failed" and result.reason != "moving" and not is_elsewhere


def _while_away(away_s: float, state: EventsState) -> tuple[Now, EventsState]:
    """So many seconds after the last frame of a camera that is away; it never goes back."""
    assert state.at is not None
    away_ms = max(round(away_s * 1000), state.away_ms)
    epoch, seq, media_s, captured = state.at
    passed_s = away_ms / 1000
    at = Mark(epoch, seq, round(media_s + passed_s, 6), round(captured + passed_s, 6))
    now = Now(_RESULT, at, state.now_ms + away_ms, state.known_ms + away_ms, away_ms, True)
    return now, _replace(state, away_ms=away_ms)


def _heard(sounds: Sounds, asked: Collection[str], now: Now) -> LastHeard | None:
    """What was heard in the windows that ended with a frame; None: nobody knows, as they were lost,
    or ended long ago: the rest of a sound track that ends before the pictures comes with the last.
    """
    pts = now.result.pts
    windows = [
        window
        for window in sounds.windows
        if pts is None or (pts - window.ends_s) * 1000 <= HEARD_MS
    ]
    if not windows:
        return None
    scores: dict[str, float] = {}
    for window in windows:
        for one in window.labels:
            if one.label in asked:
                scores[one.label] = max(one.score, scores.get(one.label, 0.0))
    is_new = any(window.outcome == "heard" for window in windows)
    return LastHeard(now.ms, scores, is_new, sounds.model)


def _handed(state: EventsState, seen: TracksSeen) -> EventsState:
    """The state with the stretches of lost tracks given to those that go on with them."""
    if not seen.handed:
        return state
    stretches = {
        key: tuple(_handed_stretch(stretch, seen) for stretch in held)
        for key, held in state.stretches.items()
    }
    return _replace(state, stretches=stretches)


def _handed_stretch(stretch: Stretch, seen: TracksSeen) -> Stretch:
    old = tuple(number for number in stretch.subject if number in seen.handed)
    if not old:
        return stretch
    subject = tuple(sorted(seen.handed.get(number, number) for number in stretch.subject))
    return _replace(stretch, subject=subject, earlier=(*stretch.earlier, *old))


def _with_lines(track: Track, before: Sequence[str], after: Sequence[str]) -> Track:
    """The track with sides of other lines; of those that are new its side is to be learned."""
    sides = dict(zip(before, track.sides, strict=False))
    return _replace(track, sides=tuple(sides.get(key, 0) for key in after))


def _former(key: str, note: RuleNote) -> Rule:
    """A rule that is not there any more, for the ends of its episodes."""
    name, _, version = key.partition("@")
    said = RuleConfig(when=note.when, severity=note.severity)
    return Rule(name, version, said, (0.5, 1.0), -1, note.clip, 0)


_RESULT: Final = Result(
    1, "", 0, 0, None, 0.0, "file", 0.0, 1, 1, "carried", "no", "none", "unchanged", (), (), 0.0, 0
)
"""In place of a result, where an epoch ended."""
_NOBODY: Final = TracksSeen((), (), (), {})
_LOST: Final = Holding([Fact((), True)])


def replay(
    config: EventsConfig, entries: Iterable[Result | tuple[str, End]]
) -> Iterator[tuple[str, Position, Changes]]:
    """What rules tell of stored results: (source, position, changes) of each that changes any.

    entries  results and ends (with the name of their source), those of a source in order; a source
             whose end does not come keeps its episodes open
    """
    judges: dict[str, RuleJudge] = {}
    states: dict[str, EventsState] = {}
    for entry in entries:
        source = entry.source if isinstance(entry, Result) else entry[0]
        if source not in judges:
            judges[source], states[source] = RuleJudge(config, source), EventsState()
        state = states[source]
        if isinstance(entry, Result):
            position = entry.position
            changes, states[source] = judges[source].judge(entry, state)
        else:
            at = state.at or Mark(0, 0, 0.0, 0.0)
            position = Position(at.epoch, at.seq + 1)
            changes, states[source] = judges[source].end(entry[1], state)
        if changes is not None:
            yield source, position, changes
