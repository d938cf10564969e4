"""Count results, looks, escalations, labels and sound of a source, and read these counters.

The counters change in the store, in the hop that writes the result. `contracts/drops` has those of
dropped frames; `metrics` publishes all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, get_args

import msgspec

from framegate.pipeline.contracts.keys import SOUND
from framegate.pipeline.contracts.results import (
    DegradedReason,
    Escalation,
    Looked,
    Origin,
    Reason,
    Settled,
    SoundOutcome,
)

# -- Counters of results, which change in the hop that publishes a frame. A result counts
# `looked:LOOKED:REASON`. If the heavy model was to be asked, it also counts `escalated:done` or
# `escalated:REASON`. A look at a change that found no object counts `empty_looks`. Each track whose
# label is settled counts `objects:LABEL`. Labels come from a model, so hop.lua limits their number
# and counts the rest as `objects:other`.


LOOKS_PREFIX = "looked:"
LOOK_REASONS_OF_CHANGE: Final[tuple[Reason, ...]] = ("changed", "too_much")
EMPTY_LOOKS = "empty_looks"
ESCALATED = "escalated:"
OBJECTS = "objects:"
OTHER = "other"
MOST_LABELS = 100  # labels of a source that are counted; the same number as in hop.lua
LABEL_LENGTH = 64  # longer labels are cut


class _CountedObject(msgspec.Struct, frozen=True):
    origin: Origin


class _LookedAt(msgspec.Struct, frozen=True):
    looked: Looked
    reason: Reason
    objects: tuple[_CountedObject, ...] = ()
    escalation: Escalation = "none"
    degraded: DegradedReason | None = None
    settled: tuple[Settled, ...] = ()


class _LastWords(msgspec.Struct, frozen=True):
    settled: tuple[Settled, ...] = ()


_FOUND: Final[tuple[Origin, ...]] = ("detected", "escalated")

_decode = msgspec.msgpack.Decoder(_LookedAt).decode
_decode_last = msgspec.msgpack.Decoder(_LastWords).decode


def result_counters(result: bytes) -> tuple[str, ...]:
    """Return the counters that a published result (msgpack) increments, one name per increment.

    The output of a user's stage increments none.
    """
    try:
        look = _decode(result)
    except msgspec.ValidationError:
        return ()
    names = [f"{LOOKS_PREFIX}{look.looked}:{look.reason}"]
    if _is_empty(look):
        names.append(EMPTY_LOOKS)
    if look.escalation != "none":
        names.append(f"{ESCALATED}{look.degraded or look.escalation}")
    return (*names, *_settled(look.settled))


def _is_empty(look: _LookedAt) -> bool:
    """Return True for a look at a change that found no object."""
    if look.reason not in LOOK_REASONS_OF_CHANGE:
        return False
    return not any(shown.origin in _FOUND for shown in look.objects)


def last_counters(said: bytes) -> tuple[str, ...]:
    """Return the counters that the publishing stage's part of an end (msgpack) increments."""
    try:
        return _settled(_decode_last(said).settled)
    except msgspec.ValidationError:
        return ()


def _settled(tracks: Iterable[Settled]) -> tuple[str, ...]:
    return tuple(f"{OBJECTS}{track.label[:LABEL_LENGTH]}" for track in tracks)


def with_prefix(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return the counters whose names start with `prefix`, without it."""
    chosen = [name for name in counters if name.startswith(prefix)]
    return {name.removeprefix(prefix): counters[name] for name in chosen}


def objects_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the number of tracks with a settled label, by label."""
    return with_prefix(counters, OBJECTS)


def in_view(labels: Iterable[str], counters: Mapping[str, int]) -> dict[str, int]:
    """Return the number of objects of a frame for each counted label, including 0.

    labels  labels of the frame's objects; labels beyond the limit count as `other`
    """
    counts = dict.fromkeys(objects_of(counters), 0)
    for label in labels:
        name = label[:LABEL_LENGTH]
        if name not in counts and len(counts) >= MOST_LABELS:
            name = OTHER
        counts[name] = counts.get(name, 0) + 1
    return counts


def looks_of(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the number of frames by kind of look and by reason."""
    frames: dict[str, dict[str, int]] = {}
    for name, n in with_prefix(counters, LOOKS_PREFIX).items():
        if n:
            looked, _, reason = name.partition(":")
            frames.setdefault(looked, {})[reason] = n
    return frames


def share_looked(looks: Mapping[str, Mapping[str, int]]) -> float | None:
    """Return the share of frames, 0..1, with a whole or partial look; None without frames."""
    frames = {looked: sum(reasons.values()) for looked, reasons in looks.items()}
    total = sum(frames.values())
    if not total:
        return None
    return 1 - frames.get("no", 0) / total


def escalations_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the frames for the heavy model: those that are `done`, and others by reason."""
    return with_prefix(counters, ESCALATED)


# -- Counters of sound, which change in the hop of the stage `sound`. `sound_blocks` counts the
# blocks from decode; each of them then counts once as a window with an outcome, or as lost.


SOUND_PREFIX = "sound:"
SOUND_BLOCKS = "sound_blocks"
SOUND_OUTCOMES = (*get_args(SoundOutcome), "lost")


class _CountedWindow(msgspec.Struct, frozen=True):
    outcome: SoundOutcome


class _SoundOutput(msgspec.Struct, frozen=True):
    windows: tuple[_CountedWindow, ...]
    lost: int = 0


_decode_sounds = msgspec.msgpack.Decoder(_SoundOutput).decode


def side_counters(stage: str, output: bytes) -> Mapping[str, int]:
    """Return the increments of counters for the output (msgpack) of a side stage: `sound` only."""
    if stage != SOUND:
        return {}
    sound = _decode_sounds(output)
    outcomes = [window.outcome for window in sound.windows] + ["lost"] * sound.lost
    return {f"{SOUND_PREFIX}{name}": n for name, n in Counter(outcomes).items()}


def sounds_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the blocks of a source's sound by outcome; empty for a source without sound."""
    if SOUND_BLOCKS not in counters:
        return {}
    return {name: counters.get(f"{SOUND_PREFIX}{name}", 0) for name in SOUND_OUTCOMES}
