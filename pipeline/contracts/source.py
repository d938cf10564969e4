"""Contract of a source of frames: an iterator that is independent of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from framegate.pipeline.contracts.redaction import remember_camera, remember_url


class Form(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Size and colours of a frame in planar YUV 4:2:0; written as a list of these.

    width       pixels across, after rotation
    height      pixels down, after rotation
    matrix      matrix that made YUV of the colours
    full_range  whether luma is 0 to 255 instead of 16 to 235
    """

    width: int
    height: int
    matrix: str = "bt601"
    full_range: bool = False

    @property
    def nbytes(self) -> int:
        """Return the bytes of a frame: Y, then U and V of half the size, rounded up."""
        return self.width * self.height + 2 * (-(-self.width // 2) * -(-self.height // 2))


class Frames(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The frames of a source that are processed; others are skipped and counted separately.

    keyframes  only frames that can be decoded without others
    every      every n-th frame, >= 1
    max_fps    maximum number of frames per second, by their time stamps, > 0
    """

    keyframes: bool = False
    every: int = 1
    max_fps: float | None = None


# When a live source counts as stalled, and its connection as lost: the whole of it.
STALL_S: Final = 5.0
LEAST_STALL_S: Final = 0.5
MOST_STALL_S: Final = 3600.0
STALL_PERIODS: Final = 20


def stalled_at(arrived: Sequence[float], first_came: bool, stall_s: float) -> float:
    """Monotonic time at which a live source stalls if nothing more comes.

    That is `stall_s` or STALL_PERIODS frame periods after the last arrival, whichever is later:
    a camera that sends a frame a minute does not stall between two. Twice `stall_s` for the first.

    arrived  monotonic times of the last arrivals, oldest first, at least one: before the first
             frame, when it was opened
    """
    if not first_came:
        return arrived[-1] + 2 * stall_s
    between = len(arrived) - 1
    period = (arrived[-1] - arrived[0]) / between if between else 0.0
    return arrived[-1] + max(stall_s, STALL_PERIODS * period)


Transport = Literal["tcp", "udp"]


class Request(msgspec.Struct, frozen=True):
    """A request to open a source.

    url        path or URL
    live       a live source: the newest frame has priority; otherwise every frame is processed
    transport  transport of RTSP
    stall_s    of a live source: see `stalled_at`
    sound      samples per block of its sound, at SOUND_RATE; 0: no sound
    """

    url: str
    live: bool = False
    transport: Transport = "tcp"
    stall_s: float = STALL_S
    frames: Frames = Frames()
    sound: int = 0

    def __post_init__(self) -> None:
        """Whichever process gets a URL keeps its secrets out of what it says."""
        if self.live:
            remember_camera(self.url)
        else:
            remember_url(self.url)


SOUND_RATE: Final = 16_000
SOUND_KEPT_S: Final = 64.0  # of a source's sound
SOUND_MOST_S: Final = 24.0  # that a frame carries; a file's decoder waits while as much is unread


class SoundBlock(NamedTuple):
    """A stretch of a source's sound: as many samples in each, mono float32 at SOUND_RATE.

    number    counts the blocks of a connection from 0
    begins_s  seconds, of the clock of the frames' pts
    follows   there is nothing between it and the block before
    samples   as bytes
    """

    number: int
    begins_s: float
    follows: bool
    samples: bytes

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / 4 / SOUND_RATE


class Frame(Protocol):
    """One decoded frame.

    pts           seconds from the container; None if it has none
    arrived_mono  monotonic seconds at which its last packet was read; None for "just now"
    captured      UNIX seconds by the camera's own clock (RTCP); None if it sends none
    key_frame     whether it was encoded without other frames
    sound         blocks of sound that ended with it: since the frame before, up to the next
    nbytes        bytes that `write` fills: Y (H*W), U and V (ceil(H/2)*ceil(W/2) each), contiguous,
                  in this order
    """

    @property
    def pts(self) -> float | None: ...
    @property
    def arrived_mono(self) -> float | None: ...
    @property
    def captured(self) -> float | None: ...
    @property
    def key_frame(self) -> bool: ...
    @property
    def sound(self) -> Sequence[SoundBlock]: ...
    @property
    def form(self) -> Form: ...
    @property
    def nbytes(self) -> int: ...
    def write(self, slot: memoryview) -> None: ...


DecoderGuard = Callable[[], AbstractContextManager[None]]
"""Entered around each call of a decoder, which bad input may crash: then there is one suspect."""


class Source(Protocol):
    """An opened source.

    It is iterated once, in one thread; `close` is called after that thread ended. The iteration
    ends at the end of the file, and raises SourceFault if it cannot continue. None is a sign of
    life: a skipped frame, or no data for a while. A live source ends only with a SourceFault.
    `counts` grows during the iteration (damaged packets, for example).
    """

    @property
    def counts(self) -> Mapping[str, int]: ...
    def __iter__(self) -> Iterator[Frame | None]: ...
    def close(self) -> None: ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A live source that can be cancelled.

    `abandon()`, called from another thread, makes the iteration stop promptly.
    """

    def abandon(self) -> None: ...
