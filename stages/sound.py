"""Sound: what is heard in each window of a source's sound, beside the main path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from framegate.models.sound.yamnet import (
    WINDOW,
    SoundGateSettings,
    SoundNetwork,
    SoundReference,
    labels,
    level_db,
    log_mel,
    passes,
    reference,
)
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import (
    SOUNDS_VERSION,
    SoundLabel,
    SoundOutcome,
    Sounds,
    SoundWindow,
)
from framegate.pipeline.contracts.source import SOUND_RATE, SoundBlock
from framegate.pipeline.contracts.stage import Context, Item, NoState, SoundPort, Stage

_DIGITS: Final = 3  # of a score, and of seconds and decibels


@dataclass(frozen=True)
class SoundOptions:
    """Options of sound, as `[sound]` has them.

    block        samples from the end of a window to the next one's
    least_score  of a label that is told
    labels       that are told; none: all
    quiet_db     decibels of full scale: a window with nothing louder is silence
    most_age_s   seconds after which the network looks again at what sounds as before
    """

    block: int = 7800
    least_score: float = 0.3
    labels: tuple[str, ...] = ()
    quiet_db: float = -55.0
    most_age_s: float = 10.0


class SoundState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a source.

    epoch   of the last block
    block   number of the next one
    known   how it sounded when the network last looked; None: it has not, in this epoch
    labels  that it found then
    """

    epoch: int = 0
    block: int = 0
    known: SoundReference | None = None
    labels: tuple[SoundLabel, ...] = ()


class HeardSounds(Stage[NoState]):
    """What the stage before it heard, in a stream of its own: of the main path's streams only what
    is not read yet is kept.

    In     any record
    Out    its Sounds, where it has any
    """

    State = NoState
    takes_failed = True

    def each(self, item: Item, state: NoState) -> tuple[msgspec.Raw | None, NoState]:
        """Say again what was heard."""
        return item.record.said.get(self.context.before), state


class Sound(Stage[SoundState]):
    """Frames in, `Sounds` out for those with which blocks of sound ended.

    A window is the last .975 s before the end of a block; at the beginning of an epoch, and after a
    gap in the sound, silence stands for what was not there. It keeps no sound: that lies in shared
    memory. So outputs are a function of the file, whatever is killed.

    In     any record with `sound`
    State  how it sounded when the network last looked, and what it found then
    """

    Options = SoundOptions
    State = SoundState
    takes_failed = True  # it listens to what ended with a frame of which nothing else is known
    options: SoundOptions

    def __init__(self, options: SoundOptions, context: Context) -> None:
        super().__init__(options, context)
        self._network = SoundNetwork()
        self._gate = SoundGateSettings(options.quiet_db, options.most_age_s)
        self._told = [
            (i, name)
            for i, name in enumerate(labels())
            if not options.labels or name in options.labels
        ]
        self._back = math.ceil(WINDOW / options.block) - 1  # blocks of a window before its last

    def each(self, item: Item, state: SoundState) -> tuple[Sounds | None, SoundState]:
        """Listen to the blocks that ended with a frame."""
        if item.record.sound is None:
            return None, state
        first, n = item.record.sound
        epoch = item.position.epoch
        if epoch != state.epoch:
            state = SoundState(epoch, first)
        lost = max(0, first - state.block)
        windows: list[SoundWindow] = []
        for number in range(first, first + n):
            try:
                samples, last = self._window(item.source, Position(epoch, number))
            except FrameLost as error:
                if not (error.final or self.context.live(item.source)):
                    raise  # a file's comes again
                lost += 1
                continue
            window, state = self._listen(samples, last, state)
            windows.append(window)
        state = msgspec.structs.replace(state, block=first + n)
        return Sounds(SOUNDS_VERSION, tuple(windows), lost, self._network.name), state

    def _window(self, source: str, position: Position) -> tuple[np.ndarray, SoundBlock]:
        """The samples of the window that ends with a block, float32 (15600,), and that block."""
        port = self.context.sound(source, self.options.block)
        last = port.read(position)
        parts, block = [last.samples], last
        while len(parts) <= self._back and block.follows:
            at = Position(position.epoch, block.number - 1)
            before = self._before(port, source, at)
            if before is None:
                break
            parts.insert(0, before.samples)
            block = before
        heard = np.frombuffer(b"".join(parts), np.float32)[-WINDOW:]
        return np.pad(heard, (WINDOW - len(heard), 0)), last

    def _before(self, port: SoundPort, source: str, position: Position) -> SoundBlock | None:
        """A block before the last; of a camera None if it is gone."""
        try:
            return port.read(position)
        except FrameLost as error:
            if not (error.final or self.context.live(source)):
                raise
            return None

    def _listen(
        self, samples: np.ndarray, last: SoundBlock, state: SoundState
    ) -> tuple[SoundWindow, SoundState]:
        ends_s = last.begins_s + self.options.block / SOUND_RATE
        patch, level = log_mel(samples), level_db(samples)
        passed = passes(patch, level, ends_s, state.known, self._gate)
        if passed is None:
            labels = self._labels(self._network.scores(patch))
            state = msgspec.structs.replace(state, known=reference(patch, ends_s), labels=labels)
        outcome: SoundOutcome = passed or "heard"
        known = state.known if passed == "unchanged" else None
        window = SoundWindow(
            block=last.number,
            begins_s=round(ends_s - WINDOW / SOUND_RATE, _DIGITS),
            ends_s=round(ends_s, _DIGITS),
            outcome=outcome,
            level_db=round(level, 1),
            labels=() if passed == "quiet" else state.labels,
            age_s=0.0 if known is None else round(ends_s - known.at_s, _DIGITS),
        )
        return window, state

    def _labels(self, scores: np.ndarray) -> tuple[SoundLabel, ...]:
        found = [
            SoundLabel(name, round(float(scores[i]), _DIGITS))
            for i, name in self._told
            if scores[i] >= self.options.least_score
        ]
        return tuple(sorted(found, key=lambda one: -one.score))
