"""The time of a source, in media and on its own clock, which also runs while a camera is away."""

from __future__ import annotations

from typing import Final

import msgspec

from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Result
from framegate.stages.events.state import EventsState, Now

_replace = msgspec.structs.replace
_PERIOD_MS: Final = 40  # duration of a frame without a time stamp
_NO_RESULT: Final = Result(
    1, "", 0, 0, None, 0.0, "file", 0.0, 1, 1, "carried", "no", "none", "unchanged", (), (), 0.0, 0
)


def begun(result: Result, state: EventsState) -> tuple[Now, EventsState]:
    """Return the frame with its time, and the state with its clock at that time."""
    last = state.at
    pts = result.pts
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
    elif pts is None:
        media_s = last.media_s + passed_ms / 1000
    else:
        media_s = max(pts, last.media_s)
    is_frame_known = is_known(result, state)
    now_ms = state.now_ms + passed_ms
    known_ms = state.known_ms + passed_ms * is_frame_known
    at = StoredMoment(result.epoch, result.seq, round(media_s, 6), round(result.captured, 6))
    # A path ends when the camera was turned, because then the camera moved and not the objects.
    is_break = is_first or result.scene != state.scene or (state.turned and is_frame_known)
    breaks = state.breaks
    broke_ms = state.broke_ms
    if last is not None and is_break:
        breaks += 1
        broke_ms = now_ms
    scene = state.scene
    if result.outcome != "failed":
        scene = result.scene
    if pts is None:
        pts = state.pts
    state = _replace(
        state, pts=pts, now_ms=now_ms, scene=scene, breaks=breaks,
        broke_ms=broke_ms, away_ms=0, turned=state.turned and not is_frame_known,
        size=(result.width, result.height),
    )  # fmt: skip
    return Now(result, at, now_ms, known_ms, passed_ms), state


def is_known(result: Result, state: EventsState) -> bool:
    """Return whether a frame has information about areas and lines."""
    is_elsewhere = state.view is not None and state.view.is_moved
    return result.outcome != "failed" and result.reason != "moving" and not is_elsewhere


def while_away(away_s: float, state: EventsState) -> tuple[Now, EventsState]:
    """Return the time `away_s` after the last frame of an absent camera. It never decreases."""
    assert state.at is not None
    away_ms = max(round(away_s * 1000), state.away_ms)
    epoch, seq, media_s, captured = state.at
    passed_s = away_ms / 1000
    at = StoredMoment(epoch, seq, round(media_s + passed_s, 6), round(captured + passed_s, 6))
    result = _no_result(state)
    now = Now(result, at, state.now_ms + away_ms, state.known_ms + away_ms, away_ms, True)
    return now, _replace(state, away_ms=away_ms)


def at_end(at: StoredMoment, state: EventsState) -> Now:
    """Return the time of the end of an epoch. at: moment of its last frame"""
    return Now(_no_result(state), at, state.now_ms, state.known_ms, 0)


def _no_result(state: EventsState) -> Result:
    width, height = state.size
    return _replace(_NO_RESULT, width=width, height=height)
