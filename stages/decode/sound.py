"""The sound track of a source, decoded beside its pictures: mono blocks on the pictures' clock."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import nullcontext
from typing import Any, Final

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet

from framegate.pipeline.contracts.source import SOUND_MOST_S, SOUND_RATE, DecoderGuard, SoundBlock

log = logging.getLogger(__name__)

_GAP_S: Final = 0.1  # stamps of cheap cameras jitter by some hundredths
_AHEAD_S: Final = SOUND_MOST_S / 2  # of sound that may wait for the pictures of its time

Samples = npt.NDArray[np.float32]


class SoundTap:
    """Hears packets, gives blocks. One connection, one thread.

    Out     blocks of `block` samples at SOUND_RATE, mono: of several channels the mean (FFmpeg's
            own mix is louder). They follow each other without a gap, and begin anew where the
            track's time stamps leap by more than a tenth of a second: what was gathered of a block
            before a leap is left out
    counts  sound_damaged: packets that do not decode, or that cannot be resampled;
            sound_dropped: blocks that no frame could carry
    Fails   never: whatever is wrong with the sound, the pictures go on
    """

    def __init__(self, track: AudioStream, block: int, guard: DecoderGuard = nullcontext) -> None:
        """block: samples, > 0."""
        self.counts = {"sound_damaged": 0, "sound_dropped": 0}
        self._track, self._block, self._guard = track, block, guard
        self._most = max(1, int(SOUND_MOST_S * SOUND_RATE / block))
        self._most_ahead = int(_AHEAD_S * SOUND_RATE / block)
        self._cut: deque[SoundBlock] = deque()
        self._number = 0
        self._begin_anew(None, 0.0)

    def _begin_anew(self, form: tuple[str, str, int] | None, at_s: float) -> None:
        self._form = form
        self._resampler = AudioResampler(format="fltp", rate=SOUND_RATE)
        self._from_s = self._until_s = at_s  # of what was decoded since
        self._given = 0  # samples in blocks since
        self._gathered: list[Samples] = []
        self._n_gathered = 0

    def hear(self, packet: Packet[Any]) -> None:
        """Take a packet of any track; those of others are passed over."""
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
            log.debug("sound is left out: %s", type(error).__name__)
            self._form = None

    def take(self, until_s: float | None) -> tuple[SoundBlock, ...]:
        """Give the blocks that end by this time (pts of the pictures; None: all that are there),
        oldest first, and those that ran too far ahead of it.
        """
        n = len(self._cut)
        if until_s is not None:
            ended = (i for i, block in enumerate(self._cut) if self._end_s(block) > until_s)
            n = max(next(ended, n), n - self._most_ahead)
        return self._newest([self._cut.popleft() for _ in range(n)])

    def take_rest(self) -> tuple[SoundBlock, ...]:
        """Give all that is left at the track's end; silence makes the last block whole."""
        if self._n_gathered:
            silence = np.zeros(self._block - self._n_gathered, np.float32)
            self._append(silence)
        return self.take(None)

    def _newest(self, blocks: list[SoundBlock]) -> tuple[SoundBlock, ...]:
        self.counts["sound_dropped"] += max(0, len(blocks) - self._most)
        return tuple(blocks[-self._most :])

    def _end_s(self, block: SoundBlock) -> float:
        return block.begins_s + self._block / SOUND_RATE

    def _add(self, frame: Any) -> None:
        assert isinstance(frame, AudioFrame)
        form = frame.format.name, frame.layout.name, frame.sample_rate
        begins = self._until_s if frame.time is None else frame.time
        if form != self._form or abs(begins - self._until_s) > _GAP_S:
            self._begin_anew(form, begins)
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
            self._number, self._given = self._number + 1, self._given + self._block
            waiting = waiting[self._block :]
        self._gathered, self._n_gathered = [waiting], len(waiting)
