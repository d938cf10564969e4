"""Derive the starts, updates and ends of episodes from the conditions of each frame.

Pure functions of the state and the frame, so a replay gives the same changes byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import msgspec

from framegate.pipeline.contracts.episodes import VERSION, Change, Direction, EndedBy, Step
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.traits import Traits
from framegate.stages.events.conditions import Fact, Holding
from framegate.stages.events.muting import Assessment
from framegate.stages.events.rulebook import Rule
from framegate.stages.events.state import Now, PixelBox, Stretch, share_of

_replace = msgspec.structs.replace


class Advanced(msgspec.Struct, frozen=True):
    """The periods of a rule after a frame, and the changes of its episodes."""

    stretches: tuple[Stretch, ...]
    changes: list[Change]


def advance(
    rule: Rule,
    stretches: Sequence[Stretch],
    holding: Holding,
    now: Now,
    source: str,
    rank: int,
    present: Container[int],
    is_unseen: Callable[[Rule, Stretch], bool],
    may_begin: Callable[[Rule], bool],
    assess: Callable[[Rule, Stretch], Assessment],
) -> Advanced:
    """Return the periods of a rule after a frame.

    rank       of the first period that begins in this frame
    present    numbers of the tracks in this frame
    is_unseen  returns whether the subject of a period is gone for longer than the rule bridges
    may_begin  returns whether the rule may begin now
    assess     returns the traits of a period's object, and the filter that mutes its episode
    """
    facts = {fact.subject: fact for fact in holding.facts}
    after: list[Stretch] = []
    changes: list[Change] = []
    # Each period is true now, unknown, or false. A fact that belongs to no period begins one.
    for stretch in stretches:
        fact = facts.pop(stretch.subject, None)
        if fact is not None:
            continued = _with_evidence(rule, stretch, fact, now)
            if stretch.is_told and not rule.config.update_s:
                after.append(continued)
                continue
            kept: Stretch | None = continued
        elif _is_unknown(stretch, holding, present):
            if is_unseen(rule, stretch):
                changes += _ended(rule, stretch, now, source, "unseen")
                continue
            kept = _unknown(rule, stretch, now)
        else:
            if rule.config.state == "lost" and stretch.false_ms < 0:  # lost until this frame
                stretch = _replace(stretch, last=now.at, last_ms=now.ms)
            kept = _false(rule, stretch, now)
            if kept is None:
                changes += _ended(rule, stretch, now, source, "over")
        if kept is not None:
            published, kept = _published(rule, kept, fact is not None, now, source, assess)
            changes += published
            after.append(kept)
    # A period of `inside` may begin with a carried box; its start is published after a detection.
    new = [fact for fact in facts.values() if fact.sighting or rule.config.when == "inside"]
    if new and may_begin(rule):
        in_order = sorted(new, key=lambda each: each.subject)
        for number, fact in enumerate(in_order, rank):
            begun = _begun(fact, number, now)
            published, stretch = _published(rule, begun, True, now, source, assess)
            changes += published
            after.append(stretch)
    return Advanced(tuple(after), changes)


def unknown(rule: Rule, stretches: Sequence[Stretch], now: Now) -> tuple[Stretch, ...]:
    """Return the periods of a rule after a frame in which nothing is known."""
    after = (_unknown(rule, stretch, now) for stretch in stretches)
    return tuple(stretch for stretch in after if stretch is not None)


def ended(
    rule: Rule, stretches: Sequence[Stretch], now: Now, source: str, ended_by: EndedBy
) -> list[Change]:
    """Return the ends of all open episodes of a rule."""
    changes: list[Change] = []
    for stretch in stretches:
        changes += _ended(rule, stretch, now, source, ended_by)
    return changes


def _is_unknown(stretch: Stretch, holding: Holding, present: Container[int]) -> bool:
    if stretch.subject in holding.maybe:
        return True
    if not stretch.subject or holding.is_over:
        return False
    return not all(number in present for number in stretch.subject)


def _begun(fact: Fact, rank: int, now: Now) -> Stretch:
    label = fact.label
    box = None
    if fact.track is not None:
        label = fact.track.label
        box = share_of(fact.track.raw, now.result.width, now.result.height)
    models = now.result.models
    if fact.model:
        models = (fact.model,)
    return Stretch(
        fact.subject,
        rank,
        now.at,
        now.ms,
        now.at,
        now.ms,
        label,
        box,
        models,
        sightings=int(fact.sighting),
        held=int(not fact.sighting),
        value=fact.value,
    )


def _with_evidence(rule: Rule, stretch: Stretch, fact: Fact, now: Now) -> Stretch:
    """Return the period with more evidence. A gap before it is bridged."""
    silent_ms = now.ms - stretch.last_ms
    is_gap = silent_ms > now.frame_ms and stretch.false_ms < 0
    is_long_gap = is_gap and silent_ms > rule.gap_ms
    return _replace(
        stretch,
        last=now.at,
        last_ms=now.ms,
        sightings=stretch.sightings + fact.sighting,
        held=stretch.held + (not fact.sighting),
        false_ms=-1,
        bridged=stretch.bridged or is_gap,
        unsure=stretch.unsure or stretch.in_doubt or is_long_gap,
        value=fact.value,
        in_doubt=False,
    )


def _unknown(rule: Rule, stretch: Stretch, now: Now) -> Stretch | None:
    """Return the period while its state is unknown. An unpublished one ends after `gap_s`."""
    if now.ms - stretch.last_ms <= rule.gap_ms:
        return stretch
    if not stretch.is_told:
        return None
    return _replace(stretch, in_doubt=True)


def _false(rule: Rule, stretch: Stretch, now: Now) -> Stretch | None:
    """Return the period while the rule is false, or None after `until_s`."""
    if stretch.false_ms < 0:
        stretch = _replace(stretch, false_ms=now.ms)
    if now.ms - stretch.false_ms >= rule.config.until_s * 1000:
        return None
    return stretch


def _published(
    rule: Rule,
    stretch: Stretch,
    is_true: bool,
    now: Now,
    source: str,
    assess: Callable[[Rule, Stretch], Assessment],
) -> tuple[list[Change], Stretch]:
    """Return the start or update that is due, and the period after it."""
    config = rule.config
    if not stretch.is_told:
        min_sightings = config.min_sightings
        if config.when == "state":
            min_sightings = 1
        is_long = now.ms - stretch.began_ms >= config.for_s * 1000
        if not (is_true and is_long and stretch.sightings >= min_sightings):
            return [], stretch
        assessment = assess(rule, stretch)
        stretch = _replace(stretch, number=0, told_ms=now.ms, muted=assessment.muted)
        start = change(rule, stretch, "start", now, source, traits=assessment.traits)
        return [start], stretch
    if config.update_s and now.ms - stretch.told_ms >= config.update_s * 1000:
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
    traits: Traits | None = None,
) -> Change:
    """Return a change of an episode in its public form."""
    number = 0
    if step == "update":
        number = stretch.number
    # The end `unseen` says that the state is unknown since the last evidence, so the doubt after
    # that evidence does not count again.
    is_in_doubt = stretch.in_doubt and ended_by != "unseen"
    return Change(
        v=VERSION,
        episode=f"{source}/{rule.name}/{stretch.began.epoch}-{stretch.began.seq}/{stretch.rank}",
        step=step,
        source=source,
        rule=rule.name,
        version=rule.version,
        when=rule.config.when,
        severity=rule.config.severity,
        told=now.at.moment,
        began=stretch.began.moment,
        last=stretch.last.moment,
        number=number,
        seconds=_seconds(stretch),
        label=stretch.label,
        tracks=(*stretch.earlier, *stretch.subject),
        value=stretch.value,
        direction=direction,
        box=_box(stretch.box),
        sightings=stretch.sightings,
        held=stretch.held,
        models=stretch.models,
        unsure=stretch.unsure or is_in_doubt,
        bridged=stretch.bridged,
        ended_by=ended_by,
        clip=rule.clip,
        muted=stretch.muted,
        traits=traits,
    )


def _seconds(stretch: Stretch) -> float:
    """Return the duration: media time within an epoch, else the clock that spans breaks."""
    if stretch.began.epoch == stretch.last.epoch:
        return round(stretch.last.media_s - stretch.began.media_s, 6)
    return (stretch.last_ms - stretch.began_ms) / 1000


def _box(box: PixelBox | None) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    x1, y1, x2, y2 = (edge / 10_000 for edge in box)
    return x1, y1, x2, y2


def moment_before(now: Now, back_ms: float) -> StoredMoment:
    """Return the moment `back_ms` before a frame, which is after the frame before it."""
    back_s = back_ms / 1000
    media_s = round(now.at.media_s - back_s, 6)
    return StoredMoment(now.at.epoch, now.at.seq, media_s, round(now.at.captured - back_s, 6))
