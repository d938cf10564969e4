"""The stage sound: labels of each window of a source's sound, beside the main path."""

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
from framegate.pipeline.contracts.stage import Context, Item, NoState, Stage

_DIGITS: Final = 3  # of a score, and of seconds and decibels


@dataclass(frozen=True)
class SoundOptions:
    """Options of sound, as in the table `[sound]`.

    block        samples from one window to the next
    least_score  lowest score of a reported label
    labels       reported labels; empty: all
    quiet_db     decibels of full scale; a window that is nowhere louder counts as silence
    most_age_s   seconds after which the network processes an unchanged sound again
    """

    block: int = 7800
    least_score: float = 0.3
    labels: tuple[str, ...] = ()
    quiet_db: float = -55.0
    most_age_s: float = 10.0


class SoundState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a source.

    epoch   epoch of the last block
    block   number of the next block
    known   the sound at the network's last pass; None: no pass in this epoch so far
    labels  labels of that pass
    """

    epoch: int = 0
    block: int = 0
    known: SoundReference | None = None
    labels: tuple[SoundLabel, ...] = ()


class HeardSounds(Stage[NoState]):
    """The stage that copies the Sounds of the stage before it to a stream of its own.

    Streams of the main path keep records only until they are read.

    In     any record
    Out    its Sounds, if it has any
    """

    State = NoState
    takes_failed = True

    def each(self, item: Item, state: NoState) -> tuple[msgspec.Raw | None, NoState]:
        """Return the Sounds of a record."""
        return item.record.said.get(self.context.before), state


class Sound(Stage[SoundState]):
    """The stage that labels the sound of each block that ended with a frame.

    A window is the last 0.975 s before the end of a block. Before the start of an epoch and before
    a gap in the sound, it contains silence. The samples are in shared memory, not in the state, so
    the outputs depend on the file only, even if a worker is killed.

    In     any record with `sound`
    Out    Sounds
    State  the sound and the labels at the network's last pass
    """

    Options = SoundOptions
    State = SoundState
    takes_failed = True  # sound is independent of the frame's pixels
    options: SoundOptions

    def __init__(self, options: SoundOptions, context: Context) -> None:
        super().__init__(options, context)
        self._network = SoundNetwork()
        self._gate = SoundGateSettings(options.quiet_db, options.most_age_s)
        self._reported = [
            (i, name)
            for i, name in enumerate(labels())
            if not options.labels or name in options.labels
        ]
        self._window_blocks = math.ceil(WINDOW / options.block)

    def each(self, item: Item, state: SoundState) -> tuple[Sounds | None, SoundState]:
        """Label the blocks that ended with a frame."""
        if item.record.sound is None:
            return None, state
        first, count = item.record.sound
        epoch = item.position.epoch
        if epoch != state.epoch:
            state = SoundState(epoch, first)
        lost = max(0, first - state.block)
        windows: list[SoundWindow] = []
        for number in range(first, first + count):
            try:
                samples, last = self._window(item.source, Position(epoch, number))
            except FrameLost as error:
                if not self._is_gone(item.source, error):
                    raise
                lost += 1
                continue
            window, state = self._listen(samples, last, state)
            windows.append(window)
        state = msgspec.structs.replace(state, block=first + count)
        return Sounds(SOUNDS_VERSION, tuple(windows), lost, self._network.name), state

    def _is_gone(self, source: str, error: FrameLost) -> bool:
        """Return False if the block will be read again, as blocks of a file are."""
        return error.final or self.context.live(source)

    def _window(self, source: str, position: Position) -> tuple[np.ndarray, SoundBlock]:
        """Return the samples of the window that ends with a block, float32 (15600,), and the block.

        Raises FrameLost.
        """
        port = self.context.sound(source, self.options.block)
        last = port.read(position)
        parts = [last.samples]
        block = last
        while len(parts) < self._window_blocks and block.follows:
            try:
                block = port.read(Position(position.epoch, block.number - 1))
            except FrameLost as error:
                if not self._is_gone(source, error):
                    raise
                break
            parts.insert(0, block.samples)
        samples = np.frombuffer(b"".join(parts), np.float32)[-WINDOW:]
        return np.pad(samples, (WINDOW - len(samples), 0)), last

    def _listen(
        self, samples: np.ndarray, last: SoundBlock, state: SoundState
    ) -> tuple[SoundWindow, SoundState]:
        ends_s = last.begins_s + self.options.block / SOUND_RATE
        patch = log_mel(samples)
        level = level_db(samples)
        skipped = passes(patch, level, ends_s, state.known, self._gate)
        if skipped is None:
            labels = self._labels(self._network.scores(patch))
            state = msgspec.structs.replace(state, known=reference(patch, ends_s), labels=labels)
        outcome: SoundOutcome = skipped or "heard"
        labels = state.labels
        if outcome == "quiet":
            labels = ()
        age_s = 0.0
        if outcome == "unchanged" and state.known is not None:
            age_s = round(ends_s - state.known.at_s, _DIGITS)
        window = SoundWindow(
            block=last.number,
            begins_s=round(ends_s - WINDOW / SOUND_RATE, _DIGITS),
            ends_s=round(ends_s, _DIGITS),
            outcome=outcome,
            level_db=round(level, 1),
            labels=labels,
            age_s=age_s,
        )
        return window, state

    def _labels(self, scores: np.ndarray) -> tuple[SoundLabel, ...]:
        """Return the labels to report, highest score first."""
        reported = [
            SoundLabel(name, round(float(scores[i]), _DIGITS))
            for i, name in self._reported
            if scores[i] >= self.options.least_score
        ]
        return tuple(sorted(reported, key=lambda label: -label.score))
