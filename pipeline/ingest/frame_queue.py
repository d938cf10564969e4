"""The decoded frames of a camera that wait for the pipeline: how many, how long, and which go.

Pure; who uses it locks.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from framegate.pipeline.contracts.source import SOUND_MOST_S, Frame, SoundBlock

MOST_WAIT_S: Final = 1.0  # for the pipeline
MOST_HELD_S: Final = 3.0  # for an epoch: the store's log reaches the disk once a second, or later
# A camera with B-frames sends two to four pictures at once, a Wi-Fi link those of some tenths of a
# second. Decoded pictures are large: 3 MB at 1080p, 12 MB at 4K.
LEAST_FRAMES: Final = 8
MOST_BYTES: Final = 24 << 20
MOST_FRAMES: Final = 64

_FASTER: Final = 2.0  # than the camera's own pace: then frames came as a burst


class Drops(NamedTuple):
    """Frames that were not given, and how many of these a burst brought beyond the bound."""

    dropped: int = 0
    burst: int = 0


NO_DROPS: Final = Drops()


class TakenFrame(NamedTuple):
    """A frame, the drops right before it, and the sound that it carries: theirs and its own."""

    frame: Frame
    dropped: int
    burst: int
    sound: tuple[SoundBlock, ...]


class FrameQueue:
    """The frames of one connection that wait, oldest first. All times are monotonic seconds.

    A queue that empties within MOST_WAIT_S is a burst, and loses nothing. A frame that has waited
    longer shows that the pipeline is behind: the newest frame then replaces all others, and each
    later one replaces it until it is taken, so results are of now. At most LEAST_FRAMES wait, or
    more if they take no more than MOST_BYTES; beyond that the oldest gives way.

    unheard  blocks of sound that no frame carries, because a frame would have had too many
    nbytes   of the frames that wait
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Frame, float]] = deque()  # and when each began to wait
        self._is_behind = False
        self._drops = NO_DROPS
        self._sound: deque[SoundBlock] = deque()  # of dropped frames
        self._pace = _FramePace()
        self._is_held = False
        self.unheard = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Frame | None:
        """Return the frame that is taken next."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def first_expires_s(self) -> float:
        """Return when the first frame will have waited for as long as it may; there must be one."""
        most_s = MOST_HELD_S if self._is_held else MOST_WAIT_S
        return self._waiting[0][1] + most_s

    def hold(self) -> None:
        """Let frames wait until `release`: none can be taken, as their epoch is awaited. That says
        nothing about the pipeline, so only those that have waited for MOST_HELD_S give way.
        """
        self._is_held, self._is_behind = True, False

    def release(self, now: float) -> None:
        """Let frames be taken; they wait for the pipeline from now on."""
        self.expire(now)
        self._is_held = False
        self._waiting = deque((frame, now) for frame, _ in self._waiting)

    def put(self, frame: Frame, came_s: float) -> None:
        """Append a frame that came now, and drop what must give way."""
        self._pace.see(came_s)
        self._waiting.append((frame, came_s))
        self.nbytes += frame.nbytes
        if self._is_behind:
            self._drop(len(self._waiting) - 1)
        self.expire(came_s)
        excess = len(self._waiting) - _most_frames(frame.nbytes)
        if excess > 0:
            self._drop(excess, is_burst=self._is_burst())

    def expire(self, now: float) -> None:
        """Drop what has waited too long, if something newer is there."""
        if self._is_held:
            while len(self._waiting) > 1 and now > self.first_expires_s:
                self._drop(1)
        elif self._waiting and now > self.first_expires_s:
            self._is_behind = True
            self._drop(len(self._waiting) - 1)

    def take(self) -> TakenFrame:
        """Take the first frame; there must be one."""
        frame, _ = self._waiting.popleft()
        self.nbytes -= frame.nbytes
        self._keep_sound(frame)
        taken = TakenFrame(frame, *self._drops, tuple(self._sound))
        self._sound.clear()
        self._drops = NO_DROPS
        self._is_behind = False
        return taken

    def clear(self) -> Drops:
        """Drop all that waits; return it with the drops before."""
        self._drop(len(self._waiting))
        self.unheard += len(self._sound)
        self._sound.clear()
        drops, self._drops = self._drops, NO_DROPS
        return drops

    def _drop(self, n: int, *, is_burst: bool = False) -> None:
        for _ in range(n):
            frame, _ = self._waiting.popleft()
            self.nbytes -= frame.nbytes
            self._keep_sound(frame)
        dropped, burst = self._drops
        self._drops = Drops(dropped + n, burst + n * is_burst)

    def _keep_sound(self, frame: Frame) -> None:
        """Keep the sound of a frame that leaves, for the next that is taken: no more than a frame
        carries.
        """
        self._sound += frame.sound
        while self._sound and len(self._sound) * self._sound[0].seconds > SOUND_MOST_S:
            self._sound.popleft()
            self.unheard += 1

    def _is_burst(self) -> bool:
        """Return whether the frames that wait came faster than the camera makes them.

        The camera's pace is that of its time stamps, or, where these are of the arrival, that of
        its frames since it was connected.
        """
        (first, first_came_s), (last, last_came_s) = self._waiting[0], self._waiting[-1]
        usual_s = (len(self._waiting) - 1) * self._pace.period_s
        if first.pts is not None and last.pts is not None:
            usual_s = max(usual_s, last.pts - first.pts)
        return (last_came_s - first_came_s) * _FASTER < usual_s


class _FramePace:
    """The average time between two frames of a connection."""

    def __init__(self) -> None:
        self._first_s = self._last_s = 0.0
        self._frames = 0

    def see(self, came_s: float) -> None:
        """Note that a frame came."""
        if not self._frames:
            self._first_s = came_s
        self._last_s = came_s
        self._frames += 1

    @property
    def period_s(self) -> float:
        """Return seconds between two frames; 0 before there are two."""
        return (self._last_s - self._first_s) / max(1, self._frames - 1)


def _most_frames(nbytes: int) -> int:
    """Return how many frames of so many bytes may wait."""
    return max(LEAST_FRAMES, min(MOST_FRAMES, MOST_BYTES // max(1, nbytes)))
