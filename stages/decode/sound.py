"""The sound track of a source, decoded beside its pictures: mono blocks on the pictures' clock."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import nullcontext
from typing import Any, Final

import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet

from framegate.pipeline.contracts.source import SOUND_MOST_S, SOUND_RATE, DecoderGuard, SoundBlock

log = logging.getLogger(__name__)

_GAP_S: Final = 0.1  # cheap cameras' time stamps jitter by some hundredths of a second
_AHEAD_S: Final = SOUND_MOST_S / 2  # of sound that may wait for pictures of its time

Samples = npt.NDArray[np.float32]


class SoundTap:
    """Decodes sound packets into blocks. One connection, one thread.

    Blocks  `block` samples each at SOUND_RATE, mono: the mean of several channels (FFmpeg's own mix
            is louder). They follow each other without a gap. Where the track's time stamps leap by
            more than a tenth of a second, a new series begins and an incomplete block is dropped
    counts  sound_damaged: packets that cannot be decoded or resampled;
            sound_dropped: blocks that no frame could carry
    Errors  none: the pictures continue without the sound

    Invariant: `_cut` holds the complete blocks that were not taken, as far as a frame can still
    carry them, and `_gathered` fewer samples than a block. The next block begins `_given` samples
    after `_from_s`.
    """

    def __init__(self, track: AudioStream, block: int, guard: DecoderGuard = nullcontext) -> None:
        """block: number of samples, > 0."""
        self.counts = {"sound_damaged": 0, "sound_dropped": 0}
        self._track = track
        self._block = block
        self._guard = guard
        self._max_taken = max(1, int(SOUND_MOST_S * SOUND_RATE / block))
        self._max_ahead = int(_AHEAD_S * SOUND_RATE / block)
        self._cut: deque[SoundBlock] = deque()
        self._number = 0
        self._restart(None, 0.0)

    def _restart(self, form: tuple[str, str, int] | None, at_s: float) -> None:
        self._form = form
        self._resampler = AudioResampler(format="fltp", rate=SOUND_RATE)
        self._from_s = at_s  # of the first sample since the restart
        self._until_s = at_s  # of the last one
        self._given = 0  # samples in complete blocks
        self._gathered: list[Samples] = []
        self._n_gathered = 0

    def hear(self, packet: Packet[Any]) -> None:
        """Take a packet of any track, and ignore those of other tracks."""
        if packet.stream is not self._track:
            return
        try:
            with self._guard():
                frames = packet.decode()
            for frame in frames:
                self._add(frame)
            if not packet.size and self._form is not None:  # the track's end
                self._gather(self._resampler.resample(None))
        except (av.error.FFmpegError, ValueError) as error:
            self.counts["sound_damaged"] += 1
            log.debug("sound is dropped: %s", type(error).__name__)
            self._form = None

    def take(self, until_s: float | None) -> tuple[SoundBlock, ...]:
        """Return the blocks that end by this time (pts of the pictures; None: all blocks), oldest
        first, and those that are too far ahead of it.
        """
        n = len(self._cut)
        if until_s is not None:
            ended = (i for i, block in enumerate(self._cut) if self._end_s(block) > until_s)
            n = max(next(ended, n), n - self._max_ahead)
        return self._newest([self._cut.popleft() for _ in range(n)])

    def take_rest(self) -> tuple[SoundBlock, ...]:
        """Return all blocks at the track's end; silence completes the last one."""
        if self._n_gathered:
            silence = np.zeros(self._block - self._n_gathered, np.float32)
            self._append(silence)
        return self.take(None)

    def _newest(self, blocks: list[SoundBlock]) -> tuple[SoundBlock, ...]:
        self.counts["sound_dropped"] += max(0, len(blocks) - self._max_taken)
        return tuple(blocks[-self._max_taken :])

    def _end_s(self, block: SoundBlock) -> float:
        return block.begins_s + self._block / SOUND_RATE

    def _add(self, frame: Any) -> None:
        assert isinstance(frame, AudioFrame)
        form = frame.format.name, frame.layout.name, frame.sample_rate
        begins = self._until_s if frame.time is None else frame.time
        if form != self._form or abs(begins - self._until_s) > _GAP_S:
            self._restart(form, begins)
        self._until_s += frame.samples / frame.sample_rate
        self._gather(self._resampler.resample(frame))

    def _gather(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self._append(frame.to_ndarray().mean(axis=0, dtype=np.float32))

    def _append(self, samples: Samples) -> None:
        self._gathered.append(samples)
        self._n_gathered += len(samples)
        if self._n_gathered < self._block:
            return
        waiting = np.concatenate(self._gathered)
        while len(waiting) >= self._block:
            begins_s = self._from_s + self._given / SOUND_RATE
            data = waiting[: self._block].tobytes()
            self._cut.append(SoundBlock(self._number, begins_s, self._given > 0, data))
            if len(self._cut) > self._max_taken + self._max_ahead:  # `take` would drop it
                self._cut.popleft()
                self.counts["sound_dropped"] += 1
            self._number += 1
            self._given += self._block
            waiting = waiting[self._block :]
        self._gathered = [waiting]
        self._n_gathered = len(waiting)
