"""What the stage `sound` says: what was heard in each window of a source's sound.

A window ends with a block of sound, and is named by it: `<epoch>-<block>`. It is told with the
frame that the block ended with, so that a reader has one clock and one order for both. Every block
that was decoded is told once, as a window or among the lost.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

VERSION: Final = 1

SoundOutcome = Literal["heard", "unchanged", "quiet"]


class SoundLabel(msgspec.Struct, frozen=True):
    """What a window sounds like.

    label  of AudioSet, as "Smoke detector, smoke alarm"
    score  0..1, of its own: a bark is a dog is an animal
    """

    label: str
    score: float


class SoundWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of .975 s.

    block     number of the block with which it ends, from the beginning of the file or connection
    begins_s  seconds, of the clock of the frames' pts
    ends_s    the same
    outcome   heard: the network looked. unchanged: it sounded as when the network last looked, and
              its labels hold. quiet: nothing was louder than the stated level, and there are none
    level_db  of its loudest tenth of a second, decibels of full scale
    labels    that reach the least score and were asked for, the best first
    age_s     seconds since the network last looked
    """

    block: int
    begins_s: float
    ends_s: float
    outcome: SoundOutcome
    level_db: float
    labels: tuple[SoundLabel, ...] = ()
    age_s: float = 0.0


class Sounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the stage says of a frame with which blocks of sound ended.

    v        version of the record
    windows  in the order of their time; none where all was lost
    lost     blocks before these windows that were gone before they were listened to
    model    whose labels they are, as NAME-PRECISION@DIGEST
    """

    v: int
    windows: tuple[SoundWindow, ...]
    lost: int = 0
    model: str = ""

    def score_of(self, label: str) -> float:
        """Return the best score of a label in these windows; 0 where none of them has it."""
        return max(
            (one.score for w in self.windows for one in w.labels if one.label == label), default=0.0
        )
