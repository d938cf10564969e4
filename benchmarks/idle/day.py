"""A day of six cameras, composed: 30 events of known start over real backgrounds.

The calm between the events is cut to some seconds, so that the day lasts about three minutes.
All cameras show the events of a block within a few seconds, and nothing in the rest of the block.
A seed decides everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer

from benchmarks.harness.clips import NoClip
from benchmarks.promise.composed_parts import CLEAR, Thing, emptied, read_things
from framegate.models import coco
from framegate.models.picture import ByteArray
from tools.compose_footage import Mover

Kind = Literal["walk", "appear", "run", "creep", "fade", "glimpse"]
Codec = Literal["h264", "hevc"]
Rate = Literal["quality", "constant"]
Box = tuple[float, float, float, float]
Span = tuple[float, float]  # start and end, in seconds

FPS: Final = 10
KINDS: Final[tuple[Kind, ...]] = ("walk", "appear", "run", "creep", "fade", "glimpse")
BACKGROUNDS: Final = (
    "clips/derived/idle-room.mp4",
    "clips/one-by-one-person-detection.mp4",
    "clips/highway-cdnet-part1.avi",
    "clips/bottle-detection.mp4",
    "clips/car-detection.mp4",
    "clips/pets09-s2l1-view001-part1.mp4",
)
CAMERAS: Final = len(BACKGROUNDS)
NOISE: Final = 3.0  # grey levels of a sensor's noise
SPREAD_S: Final = 6.0  # the events of a block begin within this time
BUSY_S: Final = SPREAD_S + 5.0  # no event is longer than 5 s

_TALL: Final = (0.28, 0.5)  # height of a thing, as a part of the picture's
_FADE_FRAMES: Final = 20
# Frames of an event, and its speed as a part of the picture's width in each frame.
_WAYS: Final[Mapping[Kind, tuple[int, float]]] = {
    "walk": (40, 0.02),
    "appear": (30, 0.0),
    "run": (15, 0.08),
    "creep": (50, 0.004),
    "fade": (40, 0.0),
    "glimpse": (6, 0.0),
}
_KBIT_S: Final = {432: 1000, 1080: 4000}  # of a constant bit rate, by rows
_ENCODERS: Final[Mapping[Codec, str]] = {"h264": "libx264", "hevc": "libx265"}
_QUALITY: Final[Mapping[Codec, int]] = {"h264": 23, "hevc": 26}
_NOISE_FIELDS: Final = 8
_NOISE_SHIFT: Final = 64


@dataclass(frozen=True, slots=True)
class Scene:
    """How six cameras code what they see.

    rate  quality: constant quality. constant: constant bit rate
    noise grey levels of the sensor's noise; 0: none
    gop_s seconds from one key frame to the next
    rows  height of the pictures
    """

    codec: Codec
    rate: Rate
    noise: float
    gop_s: float
    rows: int = 432

    @property
    def name(self) -> str:
        """Return a short name, such as `h264-quality-noise-4s-432`."""
        grain = "noise" if self.noise else "clean"
        return f"{self.codec}-{self.rate}-{grain}-{self.gop_s:g}s-{self.rows}"

    @property
    def size(self) -> tuple[int, int]:
        """Return the width and height of the pictures."""
        return self.rows * 16 // 9, self.rows


SCENES: Final = (
    Scene("h264", "quality", 0.0, 1.0),
    Scene("h264", "quality", 0.0, 4.0),
    Scene("h264", "quality", NOISE, 1.0),
    Scene("h264", "quality", NOISE, 4.0),
    Scene("h264", "constant", 0.0, 1.0),
    Scene("h264", "constant", 0.0, 4.0),
    Scene("h264", "constant", NOISE, 1.0),
    Scene("h264", "constant", NOISE, 4.0),
    Scene("hevc", "quality", NOISE, 4.0),
    Scene("h264", "quality", NOISE, 4.0, 1080),
)


@dataclass(frozen=True, slots=True)
class Timetable:
    """When the day's events may begin.

    blocks    how many events each camera shows, one in each block
    block_s   seconds from the start of a block to the start of the next
    calm_s    seconds before the first block
    settle_s  seconds after the events of a block in which a camera may still be awake: two groups
              of pictures, and four seconds without a change
    """

    blocks: int = 5
    block_s: float = 34.0
    calm_s: float = 28.0
    settle_s: float = 13.0

    def __post_init__(self) -> None:
        least_s = BUSY_S + self.settle_s
        if self.blocks < 1 or self.block_s <= least_s:
            raise ValueError(
                f"a day has at least 1 block of more than {least_s:g} s, got {self.blocks} of "
                f"{self.block_s:g} s"
            )

    @property
    def frames(self) -> int:
        """Return the frames of the day."""
        return round((self.calm_s + self.blocks * self.block_s) * FPS)

    def first_frame(self, block: int) -> int:
        """Return the first frame of a block."""
        return round((self.calm_s + block * self.block_s) * FPS)

    def busy_spans(self) -> list[Span]:
        """Return the seconds of the day in which cameras show events."""
        starts = [self.first_frame(block) / FPS for block in range(self.blocks)]
        return [(start, start + BUSY_S) for start in starts]

    def idle_spans(self) -> list[Span]:
        """Return the seconds of the day in which all cameras have been calm for `settle_s`."""
        starts = [self.first_frame(block) / FPS for block in range(self.blocks)]
        return [(start + BUSY_S + self.settle_s, start + self.block_s) for start in starts]


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A thing in view of a camera, in the frames from `first` to before `end`."""

    kind: Kind
    mover: Mover
    first: int
    end: int

    def opacity(self, frame: int) -> float:
        """Return how opaque the thing is in a frame, 0 to 1."""
        if self.kind != "fade":
            return 1.0
        return min(1.0, (frame - self.first + 1) / _FADE_FRAMES)

    def box(self, frame: int, size: tuple[int, int]) -> Box:
        """Return where the thing is in a frame, in pixels, cut to the picture."""
        x, y = self.mover.middle(frame - self.first)
        tall, wide = (self.mover.scale * side for side in self.mover.alpha.shape)
        across = np.clip([x - wide / 2, x + wide / 2], 0, size[0]).tolist()
        down = np.clip([y - tall / 2, y + tall / 2], 0, size[1]).tolist()
        return across[0], down[0], across[1], down[1]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a day is composed of. backgrounds: uint8 (H, W, 3) in the order B, G, R."""

    backgrounds: Sequence[ByteArray]
    things: Sequence[Thing]


def read_parts(data: Path, size: tuple[int, int], cameras: int) -> Parts:
    """Read backgrounds of a size and things from the data folder. NoClip if a file is missing."""
    paths = [data / name for name in BACKGROUNDS[:cameras]]
    for path in paths:
        if not path.is_file():
            raise NoClip(f"{path} is not there")
    things = [
        thing for thing in read_things(data, CLEAR) if coco.LABELS[thing.class_id] in coco.CAMERA
    ]
    return Parts([emptied(path, size) for path in paths], things)


def plan(parts: Parts, camera: int, timetable: Timetable, seed: int) -> list[Event]:
    """Return the events of a camera, one in each block, in order of time.

    Cameras begin with different kinds, so that six cameras show all kinds in each block.
    """
    rng = np.random.default_rng((seed, camera))
    background = parts.backgrounds[camera]
    size = background.shape[1], background.shape[0]
    events = []
    for block in range(timetable.blocks):
        kind = KINDS[(camera + block) % len(KINDS)]
        first = timetable.first_frame(block) + int(rng.integers(0, round(SPREAD_S * FPS)))
        thing = parts.things[int(rng.integers(len(parts.things)))]
        events.append(_event(kind, thing, first, size, rng))
    return events


def _event(
    kind: Kind, thing: Thing, first: int, size: tuple[int, int], rng: np.random.Generator
) -> Event:
    frames, pace = _WAYS[kind]
    scale = size[1] * rng.uniform(*_TALL) / thing.alpha.shape[0]
    wide = scale * thing.alpha.shape[1]
    speed, x = pace * size[0], size[0] * rng.uniform(0.3, 0.7)
    if speed:
        x = speed - wide / 2  # the first frame shows one step of it
    if rng.random() < 0.5:
        speed, x = -speed, size[0] - x
    middle = np.array([x, size[1] * rng.uniform(0.4, 0.7)])
    way = np.array([speed, 0.0])
    mover = Mover(thing.bgr, thing.alpha, middle, way, (0.0, 1.0, 0.0), scale, 1.0, (0, frames))
    return Event(kind, mover, first, first + frames)


def draw(background: ByteArray, events: Sequence[Event], n_frames: int) -> Iterator[ByteArray]:
    """Yield each picture of a camera; the background itself where nothing is in view."""
    size = background.shape[1], background.shape[0]
    for frame in range(n_frames):
        present = [event for event in events if event.first <= frame < event.end]
        if not present:
            yield background
            continue
        canvas = background.astype(np.float32)
        for event in present:
            pixels, alpha = event.mover.placed(frame - event.first, size)
            canvas += (pixels - canvas) * (event.opacity(frame) * alpha)[..., None]
        yield np.clip(np.round(canvas), 0, 255).astype(np.uint8)


class SensorNoise:
    """Gaussian noise that differs from picture to picture.

    Drawing a normal number for each pixel costs more than all else together. So there are a few
    fields of noise, larger than the picture, and each picture gets another part of one of them.
    """

    def __init__(self, size: tuple[int, int], sigma: float, seed: int) -> None:
        """size: width and height in pixels; sigma: grey levels."""
        self._rng = np.random.default_rng(seed)
        self._size = size
        shape = (size[1] + _NOISE_SHIFT, size[0] + _NOISE_SHIFT, 3)
        self._fields: list[npt.NDArray[np.int16]] = [
            np.round(sigma * self._rng.standard_normal(shape, np.float32)).astype(np.int16)
            for _ in range(_NOISE_FIELDS)
        ]

    def on(self, picture: ByteArray) -> ByteArray:
        """Return a picture, uint8 (H, W, 3), with noise; it stays as it is."""
        field = self._fields[int(self._rng.integers(_NOISE_FIELDS))]
        down, across = (int(shift) for shift in self._rng.integers(0, _NOISE_SHIFT, 2))
        width, height = self._size
        part = field[down : down + height, across : across + width]
        noisy = cv2.add(picture, part, dtype=cv2.CV_8U)
        return noisy.astype(np.uint8, copy=False)


def camera_file(scene: Scene, camera: int) -> str:
    """Return the file name of what a camera shows."""
    return f"{scene.name}-{camera}.mkv"


def write_day(
    parts: Parts, scenes: Sequence[Scene], folder: Path, timetable: Timetable, seed: int
) -> list[list[Event]]:
    """Write what each camera shows, coded as each scene states; return the events by camera.

    All scenes have the rows of the backgrounds, and the same noise.
    """
    noises = {scene.noise for scene in scenes}
    if len(noises) != 1:
        raise ValueError(f"scenes that are written together have one noise, got {sorted(noises)}")
    found = []
    for camera, background in enumerate(parts.backgrounds):
        events = plan(parts, camera, timetable, seed)
        pictures = draw(background, events, timetable.frames)
        paths = {folder / camera_file(scene, camera): scene for scene in scenes}
        _encode(paths, pictures, seed + camera)
        found.append(events)
    return found


def _encode(paths: Mapping[Path, Scene], pictures: Iterator[ByteArray], seed: int) -> None:
    scene = next(iter(paths.values()))
    noise = SensorNoise(scene.size, scene.noise, seed) if scene.noise else None
    with ExitStack() as stack:
        outputs = [
            _open(stack.enter_context(av.open(str(path), "w")), scene)
            for path, scene in paths.items()
        ]
        for number, picture in enumerate(pictures):
            seen = picture if noise is None else noise.on(picture)
            frame = av.VideoFrame.from_ndarray(seen, format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            for output, stream in outputs:
                output.mux(stream.encode(frame))
        for output, stream in outputs:
            output.mux(stream.encode(None))


def _open(output: OutputContainer, scene: Scene) -> tuple[OutputContainer, av.VideoStream]:
    """Add the stream of a scene: no B-frames, and key frames at fixed distances, as cameras do."""
    stream = output.add_stream(_ENCODERS[scene.codec], rate=FPS, options=_options(scene))
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = scene.size
    stream.thread_count = 1
    stream.pix_fmt = "yuv420p"
    return output, stream


def _options(scene: Scene) -> dict[str, str]:
    gop = round(scene.gop_s * FPS)
    if scene.codec == "hevc":
        params = (
            f"log-level=none:bframes=0:keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:pools=1"
        )
        quality = str(_QUALITY["hevc"])
        return {"preset": "ultrafast", "crf": quality, "x265-params": params}
    options = {
        "preset": "veryfast",
        "bf": "0",
        "g": str(gop),
        "keyint_min": str(gop),
        "sc_threshold": "0",
    }
    if scene.rate == "quality":
        return options | {"crf": str(_QUALITY["h264"])}
    rate = f"{_KBIT_S[scene.rows]}k"
    return options | {"b": rate, "maxrate": rate, "bufsize": rate}
