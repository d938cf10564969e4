"""Contract of a source of frames: an iterator that is independent of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from framegate.pipeline.contracts.redaction import remember_camera, remember_url


class Form(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The size and colours of a frame in planar YUV 4:2:0; encoded as a list.

    width       pixels across, after rotation
    height      pixels down, after rotation
    matrix      matrix that converted RGB to YUV
    full_range  whether luma is 0 to 255 instead of 16 to 235
    """

    width: int
    height: int
    matrix: str = "bt601"
    full_range: bool = False

    @property
    def nbytes(self) -> int:
        """Return the bytes of a frame: Y, then U and V of half its width and height, rounded up."""
        luma = self.width * self.height
        chroma = -(-self.width // 2) * -(-self.height // 2)
        return luma + 2 * chroma


class Frames(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The frames of a source that are processed; others are skipped and counted separately.

    keyframes  only frames that can be decoded without others
    every      every n-th frame, >= 1
    max_fps    maximum number of frames per second, by their time stamps, > 0
    """

    keyframes: bool = False
    every: int = 1
    max_fps: float | None = None


# Silence after which a live source counts as stalled and its connection as lost.
STALL_S: Final = 5.0
LEAST_STALL_S: Final = 0.5
MOST_STALL_S: Final = 3600.0

# The gate's changes are kept in this many parts of a picture.
CHANGE_COLUMNS: Final = 24
CHANGE_ROWS: Final = 16

Transport = Literal["tcp", "udp"]
DecodeMode = Literal["always", "lazy"]
CameraEvent = Literal["motion", "person", "vehicle", "animal", "line", "area", "tamper", "other"]
"""A kind of event that a camera detects itself. line: a line was crossed. area: an object is in an
area. tamper: the camera was covered or moved. other: another rule of the camera, such as a face.
"""


class Request(msgspec.Struct, frozen=True):
    """A request to open a source.

    url        path or URL
    look_at    URL of a smaller stream of the same camera, whose frames are decoded; the stream at
               `url` is then recorded only. "": the source has one stream
    live       a live source: the newest frame has priority; otherwise every frame is processed
    transport  transport of RTSP
    stall_s    seconds without a frame after which a live source counts as stalled
    sound      samples per block of its sound, at SOUND_RATE; 0: no sound
    decode     always: each frame is decoded. lazy: while the source is calm, only key frames are
    coin       key of the coin that draws frames to audit while it is calm
    unwatched  polygons of its upright picture, in pixels, whose changes do not count
    keeps_packets  undecoded frames have the packets from which an audit can decode them
    least, most  lowest and highest grey level from which a part of a key frame differs; None: those
               of the gate
    events     URL of the camera's ONVIF service, without a login, whose events its frames carry and
               which wake a lazy source; "": none
    name       name of the source, for messages
    """

    url: str
    live: bool = False
    transport: Transport = "tcp"
    stall_s: float = STALL_S
    frames: Frames = Frames()
    sound: int = 0
    look_at: str = ""
    decode: DecodeMode = "always"
    coin: bytes = b""
    unwatched: tuple[tuple[tuple[float, float], ...], ...] = ()
    keeps_packets: bool = False
    least: float | None = None
    most: float | None = None
    events: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        """Remember the secrets of the URLs, so that this process hides them in all messages."""
        if self.live:
            remember_camera(self.url)
            remember_camera(self.look_at)
        else:
            remember_url(self.url)


SOUND_RATE: Final = 16_000
SOUND_KEPT_S: Final = 64.0  # sound of a source that shared memory keeps
SOUND_MOST_S: Final = 24.0  # sound of a frame; a file's decoder waits while this much is unread


class SoundBlock(NamedTuple):
    """A block of a source's sound: a fixed number of samples, mono float32 at SOUND_RATE.

    number    number of the block in its connection, from 0
    begins_s  start in seconds, on the clock of the frames' pts
    follows   whether it follows the block before without a gap
    samples   the samples as bytes
    """

    number: int
    begins_s: float
    follows: bool
    samples: bytes

    @property
    def seconds(self) -> float:
        """Return the duration."""
        return len(self.samples) / 4 / SOUND_RATE


LAZY_PREFIX: Final = "lazy:"  # of counters of a source that is decoded lazily
GROUP_BYTES: Final = 1 << 20  # of UndecodedFrame.packets


class UndecodedFrame(NamedTuple):
    """A frame of a calm source that was not decoded; it looks like the frames around it.

    Fields as in Frame. Its form is that of the frame before.

    packets  of its group, for the decoder's own DecodePackets, at most GROUP_BYTES. All frames of a
             group have the same. b"" unless the Request has keeps_packets
    camera_events  as in Frame
    """

    pts: float | None
    arrived_mono: float | None
    captured: float | None = None
    packets: bytes = b""
    camera_events: tuple[CameraEvent, ...] | None = None


DecodePackets = Callable[[bytes, float | None, Form], bytearray]
"""Return the pixels of the frame at a time in UndecodedFrame.packets; FrameLost if it has none.

A decoder that keeps packets has it as its static method `pixels_of`.
"""


class Frame(Protocol):
    """One decoded frame.

    pts           seconds from the container; None if it has none
    arrived_mono  monotonic seconds at which its last packet was read; None for "just now"
    captured      UNIX seconds by the camera's own clock (RTCP); None if it sends none
    key_frame     whether it was encoded without other frames
    sound         blocks of sound that ended between this frame and the next
    undecoded     the frames right before it that were not decoded, in order
    camera_events  kinds of the events that the camera reported between the frame before and this
                  one, by their arrival, and of those that lasted; None: unknown
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
    def undecoded(self) -> Sequence[UndecodedFrame]: ...
    @property
    def camera_events(self) -> tuple[CameraEvent, ...] | None: ...
    @property
    def form(self) -> Form: ...
    @property
    def nbytes(self) -> int: ...
    def write(self, slot: memoryview) -> None: ...


class PacketSource(Protocol):
    """A stream of a camera that is recorded and not decoded.

    It is iterated once, in one thread, which also calls `close`. The iteration yields True for each
    picture that arrived, and may yield False if nothing arrived for a while; it ends only with a
    SourceFault. A step may last until `abandon`, called from another thread, ends the iteration:
    the caller detects a stall in another thread. `size` is the width and height of its pictures,
    after rotation; None until it is known. While `is_heard` is set, its sound is decoded, and
    `take_sound` returns the blocks that are complete.
    """

    is_heard: bool

    @property
    def size(self) -> tuple[int, int] | None: ...
    def __iter__(self) -> Iterator[bool]: ...
    def take_sound(self) -> Sequence[SoundBlock]: ...
    def abandon(self) -> None: ...
    def close(self) -> None: ...


DecoderGuard = Callable[[], AbstractContextManager[None]]
"""Entered around each call of a decoder, so that a crash on bad input has one suspect."""


class Source(Protocol):
    """An opened source.

    It is iterated once, in one thread; `close` is called after that thread ended. The iteration
    ends at the end of the file, and raises SourceFault if it cannot continue. It yields None for a
    skipped frame, and may do so if no data came for a while. A live source ends only with a
    SourceFault. `counts` grows during the iteration (damaged packets, for example).
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


@runtime_checkable
class LazySource(Source, Protocol):
    """A live source that decodes lazily, if `is_lazy`, which never changes.

    `ask()`, called in the thread that iterates, makes it decode all frames for a second or two.
    `n_held` grows with each packet that is held. `n_pending` is the number of held packets whose
    frames are not returned yet; any thread may read it.
    """

    @property
    def is_lazy(self) -> bool: ...
    @property
    def n_held(self) -> int: ...
    @property
    def n_pending(self) -> int: ...
    def ask(self) -> None: ...
