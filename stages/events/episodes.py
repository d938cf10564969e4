"""How what holds in a frame becomes episodes: begun, gone on, over. Pure.

Nothing here depends on anything but the state before and the frame, so frames that are judged again
tell the same changes, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import msgspec

from framegate.pipeline.contracts.episodes import VERSION, Change, Direction, EndedBy, Step
from framegate.stages.events.rules import Fact, Holding, Rule
from framegate.stages.events.state import Mark, Now, PixelBox, Stretch, share_of

_replace = msgspec.structs.replace


class Advanced(msgspec.Struct, frozen=True):
    """What a frame did to the stretches of a rule."""

    stretches: tuple[Stretch, ...]
    changes: list[Change]


def advance(
    rule: Rule,
    stretches: Sequence[Stretch],
    holding: Holding,
    now: Now,
    source: str,
    present: Container[int],
    is_unseen: Callable[[Rule, Stretch], bool],
    may_begin: Callable[[Rule], bool],
) -> Advanced:
    """The stretches of a rule after a frame.

    present    numbers of the tracks of this frame
    is_unseen  whether what a stretch is about is gone for longer than is bridged
    may_begin  whether the rule may begin now
    """
    facts = {fact.subject: fact for fact in holding.facts}
    after: list[Stretch] = []
    changes: list[Change] = []
    for stretch in stretches:
        fact = facts.pop(stretch.subject, None)
        if fact is not None:
            held = _held(rule, stretch, fact, now)
            if stretch.is_told and not rule.said.update_s:
                after.append(held)
                continue
            kept: Stretch | None = held
        elif stretch.subject in holding.maybe or (
            stretch.subject
            and not holding.is_over
            and not all(n in present for n in stretch.subject)
        ):
            if is_unseen(rule, stretch):
                changes += _ended(rule, stretch, now, source, "unseen")
                continue
            kept = _unknown(rule, stretch, now)
        else:
            if rule.said.state == "lost":  # it held until this frame came
                stretch = _replace(stretch, last=now.at, last_ms=now.ms)
            kept = _false(rule, stretch, now)
            if kept is None:
                changes += _ended(rule, stretch, now, source, "over")
        if kept is not None:
            told, kept = _told(rule, kept, fact is not None, now, source)
            changes += told
            after.append(kept)
    # A held box may show first that a track is there; only a sighting tells it.
    began = [fact for fact in facts.values() if fact.sighting or rule.said.when == "inside"]
    if began and may_begin(rule):
        for rank, fact in enumerate(sorted(began, key=lambda one: one.subject)):
            stretch = _began(fact, rank, now)
            told, stretch = _told(rule, stretch, True, now, source)
            changes += told
            after.append(stretch)
    return Advanced(tuple(after), changes)


def unknown(rule: Rule, stretches: Sequence[Stretch], now: Now) -> tuple[Stretch, ...]:
    """The stretches of a rule after a frame of which nothing is known."""
    after = (_unknown(rule, stretch, now) for stretch in stretches)
    return tuple(stretch for stretch in after if stretch is not None)


def ended(
    rule: Rule, stretches: Sequence[Stretch], now: Now, source: str, ended_by: EndedBy
) -> list[Change]:
    """The ends of all episodes among the stretches of a rule."""
    return [
        change for stretch in stretches for change in _ended(rule, stretch, now, source, ended_by)
    ]


def _began(fact: Fact, rank: int, now: Now) -> Stretch:
    track = fact.track
    result = now.result
    return Stretch(
        fact.subject,
        rank,
        now.at,
        now.ms,
        now.at,
        now.ms,
        track.label if track is not None else fact.sound,
        share_of(track.raw, result.width, result.height) if track is not None else None,
        (fact.model,) if fact.model else result.models,
        sightings=int(fact.sighting),
        held=int(not fact.sighting),
        value=fact.value,
    )


def _held(rule: Rule, stretch: Stretch, fact: Fact, now: Now) -> Stretch:
    """The stretch with evidence more; a gap behind it is bridged."""
    is_gap = now.ms - stretch.last_ms > now.frame_ms and stretch.false_ms < 0
    return _replace(
        stretch,
        last=now.at,
        last_ms=now.ms,
        sightings=stretch.sightings + fact.sighting,
        held=stretch.held + (not fact.sighting),
        false_ms=-1,
        bridged=stretch.bridged or is_gap,
        unsure=stretch.unsure
        or stretch.in_doubt
        or (is_gap and now.ms - stretch.last_ms > rule.gap_ms),
        value=fact.value,
        in_doubt=False,
    )


def _unknown(rule: Rule, stretch: Stretch, now: Now) -> Stretch | None:
    """The stretch while nobody knows; one that was not told yet does not wait for long."""
    if now.ms - stretch.last_ms <= rule.gap_ms:
        return stretch
    return _replace(stretch, in_doubt=True) if stretch.is_told else None


def _false(rule: Rule, stretch: Stretch, now: Now) -> Stretch | None:
    """The stretch while it does not hold; None: for so long that it is over."""
    since_ms = stretch.false_ms if stretch.false_ms >= 0 else now.ms
    if now.ms - since_ms >= rule.said.until_s * 1000:
        return None
    return stretch if stretch.false_ms >= 0 else _replace(stretch, false_ms=now.ms)


def _told(
    rule: Rule, stretch: Stretch, holds: bool, now: Now, source: str
) -> tuple[list[Change], Stretch]:
    """What is told of a stretch that goes on, and the stretch once it is."""
    said = rule.said
    if not stretch.is_told:
        least = 1 if said.when == "state" else said.min_sightings
        is_long = now.ms - stretch.began_ms >= said.for_s * 1000
        if not (holds and is_long and stretch.sightings >= least):
            return [], stretch
        stretch = _replace(stretch, number=0, told_ms=now.ms)
        return [change(rule, stretch, "start", now, source)], stretch
    if said.update_s and now.ms - stretch.told_ms >= said.update_s * 1000:
        stretch = _replace(stretch, number=stretch.number + 1, told_ms=now.ms)
        return [change(rule, stretch, "update", now, source)], stretch
    return [], stretch


def _ended(rule: Rule, stretch: Stretch, now: Now, source: str, ended_by: EndedBy) -> list[Change]:
    if not stretch.is_told:
        return []
    return [change(rule, stretch, "end", now, source, ended_by=ended_by)]


def change(
    rule: Rule,
    stretch: Stretch,
    step: Step,
    now: Now,
    source: str,
    *,
    ended_by: EndedBy | None = None,
    direction: Direction | None = None,
) -> Change:
    """A step of an episode, for others to read."""
    return Change(
        v=VERSION,
        episode=f"{source}/{rule.name}/{stretch.began.epoch}-{stretch.began.seq}/{stretch.rank}",
        step=step,
        source=source,
        rule=rule.name,
        version=rule.version,
        when=rule.said.when,
        severity=rule.said.severity,
        told=now.at.moment,
        began=stretch.began.moment,
        last=stretch.last.moment,
        number=stretch.number if step == "update" else 0,
        seconds=_seconds(stretch),
        label=stretch.label,
        tracks=(*stretch.earlier, *stretch.subject),
        value=stretch.value,
        direction=direction,
        box=_box(stretch.box),
        sightings=stretch.sightings,
        held=stretch.held,
        models=stretch.models,
        # An end as unseen is that doubt: it ended with its last evidence, before it.
        unsure=stretch.unsure or (stretch.in_doubt and ended_by != "unseen"),
        bridged=stretch.bridged,
        ended_by=ended_by,
        clip=rule.clip,
    )


def _seconds(stretch: Stretch) -> float:
    """Of the media where it is one epoch, exactly; else by the clock that goes over breaks."""
    if stretch.began.epoch == stretch.last.epoch:
        return round(stretch.last.media_s - stretch.began.media_s, 6)
    return (stretch.last_ms - stretch.began_ms) / 1000


def _box(box: PixelBox | None) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    x1, y1, x2, y2 = (edge / 10_000 for edge in box)
    return x1, y1, x2, y2


def mark(now: Now, back_ms: float) -> Mark:
    """A moment before a frame, between it and the one before."""
    at, back_s = now.at, back_ms / 1000
    return Mark(at.epoch, at.seq, round(at.media_s - back_s, 6), round(at.captured - back_s, 6))
