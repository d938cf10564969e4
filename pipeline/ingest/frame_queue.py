"""Queue the decoded frames of a camera, and drop frames when the pipeline is behind.

`contracts/drops` names the reasons. The caller locks.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple

from framegate.pipeline.contracts.drops import NO_DROPS, Drops
from framegate.pipeline.contracts.source import SOUND_MOST_S, CameraEvent, Frame, SoundBlock

MAX_WAIT_S: Final = 1.0  # for the pipeline
MAX_EPOCH_WAIT_S: Final = 3.0  # for an epoch: the store syncs its log once a second, or later
# A camera with B-frames sends two to four pictures at once; a Wi-Fi link delivers those of some
# tenths of a second together. Decoded pictures are large: 3 MB at 1080p, 12 MB at 4K.
MIN_FRAMES: Final = 8
MAX_BYTES: Final = 24 << 20
MAX_FRAMES: Final = 64
CATCH_UP_S: Final = 5.0  # for the frames of held packets, which come at once
_FASTER: Final = 2.0  # frames that arrive at this multiple of the camera's pace are a burst


class TakenFrame(NamedTuple):
    """A frame, the drops right before it, and the sound and camera events of these and its own."""

    frame: Frame
    dropped: int
    burst: int
    sound: tuple[SoundBlock, ...]
    camera_events: tuple[CameraEvent, ...] | None


class FrameQueue:
    """The queued frames of one connection, oldest first. All times are monotonic seconds.

    A queue that empties within MAX_WAIT_S is a burst and loses nothing. A frame that waited longer
    shows that the pipeline is behind: from then on each new frame replaces all others until a frame
    is taken, so results are current. After frames of held packets, no frame expires until the queue
    was empty or CATCH_UP_S have passed: their number shows nothing about the pipeline.

    At most MIN_FRAMES are queued, or up to MAX_FRAMES if they take no more than MAX_BYTES; beyond
    that the oldest frame is dropped.

    unheard  blocks of sound that were dropped because a frame would have carried too many
    nbytes   total size of the queued frames
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Frame, float]] = deque()  # with the start of the wait
        self._is_behind = False
        self._drops = NO_DROPS
        self._sound: deque[SoundBlock] = deque()  # of dropped frames
        self._camera_events: dict[CameraEvent, None] = {}  # of dropped frames, in order
        self._pace = _FramePace()
        self._awaits_epoch = False
        self._catches_up_until = -math.inf
        self.unheard = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Return whether one more frame drops no other."""
        first = self.first
        return first is None or len(self._waiting) < _max_frames(first.nbytes)

    @property
    def first(self) -> Frame | None:
        """Return the frame that is taken next, None if there is none."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def first_expires_s(self) -> float:
        """Return when the first frame will have waited too long. The queue must not be empty."""
        max_s = MAX_EPOCH_WAIT_S if self._awaits_epoch else MAX_WAIT_S
        return max(self._waiting[0][1] + max_s, self._catches_up_until)

    def await_epoch(self) -> None:
        """Keep frames until `begin_epoch`: none can be taken while their epoch is awaited.

        That wait does not show that the pipeline is behind, so a frame is dropped only after
        MAX_EPOCH_WAIT_S.
        """
        self._awaits_epoch = True
        self._is_behind = False

    def begin_epoch(self, now: float) -> None:
        """Allow frames to be taken; their wait for the pipeline starts now."""
        self.expire(now)
        self._awaits_epoch = False
        self._waiting = deque((frame, now) for frame, _ in self._waiting)

    def put(self, frame: Frame, arrived: float, *, was_held: bool = False) -> None:
        """Append a frame that arrived now, and drop frames beyond the bounds.

        was_held  its packet was held, and is decoded now
        """
        self._pace.see(arrived)
        if was_held:
            self._is_behind = False
            self._catches_up_until = arrived + CATCH_UP_S
        self._waiting.append((frame, arrived))
        self.nbytes += frame.nbytes
        if self._is_behind:
            self._drop(len(self._waiting) - 1)
        self.expire(arrived)
        excess = len(self._waiting) - _max_frames(frame.nbytes)
        if excess > 0:
            self._drop(excess, is_burst=self._is_burst())

    def expire(self, now: float) -> None:
        """Drop the frames that waited too long, but never the newest."""
        if self._awaits_epoch:
            while len(self._waiting) > 1 and now > self.first_expires_s:
                self._drop(1)
        elif self._waiting and now > self.first_expires_s:
            self._is_behind = True
            self._drop(len(self._waiting) - 1)

    def take(self) -> TakenFrame:
        """Take the first frame. The queue must not be empty."""
        frame, _ = self._waiting.popleft()
        self.nbytes -= frame.nbytes
        self._keep_sound(frame)
        taken = TakenFrame(frame, *self._drops, tuple(self._sound), self._events_with(frame))
        self._sound.clear()
        self._camera_events.clear()
        self._drops = NO_DROPS
        self._is_behind = False
        if not self._waiting:
            self._catches_up_until = -math.inf
        return taken

    def clear(self) -> Drops:
        """Drop all frames; return these and all earlier unreported drops."""
        self._drop(len(self._waiting))
        self.unheard += len(self._sound)
        self._sound.clear()
        self._camera_events.clear()
        drops, self._drops = self._drops, NO_DROPS
        return drops

    def _drop(self, n: int, *, is_burst: bool = False) -> None:
        gone = n
        for _ in range(n):
            frame, _ = self._waiting.popleft()
            self.nbytes -= frame.nbytes
            gone += len(frame.undecoded)
            self._keep_sound(frame)
            for undecoded in frame.undecoded:
                self._camera_events.update(dict.fromkeys(undecoded.camera_events or ()))
            self._camera_events.update(dict.fromkeys(frame.camera_events or ()))
        dropped, burst = self._drops
        self._drops = Drops(dropped + gone, burst + gone * is_burst)

    def _keep_sound(self, frame: Frame) -> None:
        """Keep the sound of a frame that leaves for the next frame that is taken, but no more than
        a frame may carry.
        """
        self._sound += frame.sound
        while self._sound and len(self._sound) * self._sound[0].seconds > SOUND_MOST_S:
            self._sound.popleft()
            self.unheard += 1

    def _events_with(self, frame: Frame) -> tuple[CameraEvent, ...] | None:
        """Return the camera events of a frame and of the dropped frames before it."""
        if not self._camera_events:
            return frame.camera_events
        return tuple(self._camera_events | dict.fromkeys(frame.camera_events or ()))

    def _is_burst(self) -> bool:
        """Return whether the queued frames arrived faster than the camera makes them.

        The camera's pace is that of its time stamps and, where these are times of arrival, the
        average since it was connected.
        """
        first, first_arrived = self._waiting[0]
        last, last_arrived = self._waiting[-1]
        usual_s = (len(self._waiting) - 1) * self._pace.period_s
        if first.pts is not None and last.pts is not None:
            usual_s = max(usual_s, last.pts - first.pts)
        return (last_arrived - first_arrived) * _FASTER < usual_s


class _FramePace:
    """The average time between the frames of a connection."""

    def __init__(self) -> None:
        self._first = 0.0
        self._last = 0.0
        self._frames = 0

    def see(self, arrived: float) -> None:
        """Note a frame's arrival."""
        if not self._frames:
            self._first = arrived
        self._last = arrived
        self._frames += 1

    @property
    def period_s(self) -> float:
        """Return seconds between two frames; 0 before there are two."""
        return (self._last - self._first) / max(1, self._frames - 1)


def _max_frames(nbytes: int) -> int:
    """Return how many frames of this size may be queued."""
    return max(MIN_FRAMES, min(MAX_FRAMES, MAX_BYTES // max(1, nbytes)))
