"""Outputs of the shipped networks for cut-outs and sounds, of which windows are composed.

Each object of a photograph is cut out with a margin, pasted at several sizes and places into a
frame of a clip, and overlaid with sensor noise. The light detector looks at that picture. So
objects of each kind have the same paste edges. Each sound gets noise of its own, and YAMNet
processes its loudest windows. `library.json` keeps numbers only: no pictures and no sounds.

What teaches is never judged: looks that teach are of coco128 in front of other clips than those of
coco-val2017-a, which judge; sounds that teach are of the folds 1 to 3 of ESC-10, and those of the
folds 4 and 5 judge. All clips that were cut from one recording are in one fold. The projection of
YAMNet's 1,024 values onto 64 is fitted to the sounds that teach.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

import av
import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import openvino as ov
from av.audio.frame import AudioFrame

from framegate.models.boxes import iou
from framegate.models.detector import network
from framegate.models.detector.detector import Detector, load
from framegate.models.picture import from_bgr
from framegate.models.sound.yamnet import RATE, WINDOW, labels, level_db, log_mel

FILE: Final = Path(__file__).parent / "library.json"
SOUND_VALUES: Final = 64
LOOKS: Final = 4
_WINDOWS: Final = 3  # of a sound
_LEAST_SIDE: Final = 32  # pixels of an object
_MOST: Final = 5  # objects of a photograph
_MARGIN: Final = 0.12
_LEAST_IOU: Final = 0.4
_LEAST_SCORE: Final = 0.1
_FRAME: Final = (640, 360)
_SENSOR_NOISE: Final = 4.0  # standard deviation in grey levels

Part = Literal["teaches", "judges"]
Kind = Literal["person", "vehicle", "animal", "thing"]
_VEHICLES: Final = ("bicycle", "car", "motorcycle", "bus", "train", "truck")
_ANIMALS: Final = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
)  # fmt: skip
_SETS: Final[dict[str, Part]] = {"coco128": "teaches", "coco-val2017-a": "judges"}
_BEHIND: Final[dict[Part, tuple[str, ...]]] = {
    "teaches": ("one-by-one-person-detection.mp4", "car-detection.mp4"),
    "judges": ("pets2001-campus.mp4", "highway-cdnet-part1.avi"),
}
_TEACHING_FOLDS: Final = (1, 2, 3)
SOUNDS: Final = {
    "Dog bark": ("bark", ("Dog", "Bark", "Bow-wow", "Yip")),
    "Rain": ("rain", ("Rain", "Raindrop", "Rain on surface")),
    "Sea waves": ("waves", ("Ocean", "Waves, surf")),
    "Baby cry": ("cry", ("Baby cry, infant cry", "Crying, sobbing")),
    "Clock tick": ("clock", ("Tick-tock", "Tick", "Clock")),
    "Person sneeze": ("sneeze", ("Sneeze",)),
    "Helicopter": ("helicopter", ("Helicopter",)),
    "Chainsaw": ("chainsaw", ("Chainsaw",)),
    "Rooster": ("rooster", ("Crowing, cock-a-doodle-doo", "Chicken, rooster")),
    "Fire crackling": ("fire", ("Fire", "Crackle")),
}
"""Folders of ESC-10: the kind of their sounds, and the AudioSet labels that a rule would name."""
HEARD: Final = tuple(kind for kind, _ in SOUNDS.values())

Wave = npt.NDArray[np.float32]


class Look(NamedTuple):
    """A look of the detector at a cut-out.

    label    name of the class
    score    0 to 1
    feature  80 values, int8
    """

    label: str
    score: float
    feature: bytes


class Cutout(msgspec.Struct, frozen=True):
    """An object of a photograph, and the looks in which the detector found it."""

    part: Part
    kind: Kind
    looks: tuple[Look, ...]


class Hearing(NamedTuple):
    """A window of a sound.

    values  64 values of the embedding, int8
    scores  of each kind in HEARD, its best label's score
    """

    values: bytes
    scores: tuple[float, ...]


class Sound(msgspec.Struct, frozen=True):
    """A sound; kind: one of HEARD, or `noise`."""

    part: Part
    kind: str
    windows: tuple[Hearing, ...]


class Library(msgspec.Struct, frozen=True):
    """All material."""

    cutouts: tuple[Cutout, ...]
    sounds: tuple[Sound, ...]


def read(path: Path = FILE) -> Library:
    """Read a library. Raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Library)


def write(library: Library, path: Path = FILE) -> None:
    """Write a library, one cut-out or sound a line."""
    lists = []
    for name in ("cutouts", "sounds"):
        rows = ",\n".join(msgspec.json.encode(each).decode() for each in getattr(library, name))
        lists.append(f'"{name}":[\n{rows}\n]')
    path.write_text("{" + ",\n".join(lists) + "}\n", encoding="utf-8")


def compute(data: Path, sounds: Path) -> Library:
    """Return the library of a folder of test data and of a checkout of ESC-10."""
    random = np.random.default_rng(0)
    with_score = load("light", min_score=_LEAST_SCORE)
    cutouts = []
    for name, part in _SETS.items():
        frames = [_frame(data / "clips" / clip) for clip in _BEHIND[part]]
        for crop, kind in _crops(data, name):
            looks = tuple(_looks(with_score, crop, frames, random))
            if looks:
                cutouts.append(Cutout(part, kind, looks))
    return Library(tuple(cutouts), _sounds(sounds, random))


# -- Looks.


def _frame(clip: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(clip)) as opened:
        frame = next(opened.decode(video=0))
    picture = frame.to_ndarray(format="bgr24")
    return cast("npt.NDArray[np.uint8]", cv2.resize(picture, _FRAME))


def kind_of(name: str) -> Kind:
    """Return the kind of a COCO class."""
    if name == "person":
        return "person"
    if name in _VEHICLES:
        return "vehicle"
    if name in _ANIMALS:
        return "animal"
    return "thing"


def _crops(data: Path, name: str) -> Iterator[tuple[npt.NDArray[np.uint8], Kind]]:
    """Yield the cut-outs of a set of photographs with their kinds, at most five a photograph."""
    truth = json.loads((data / "gt" / f"{name}.json").read_text(encoding="utf-8"))
    names = {each["id"]: each["name"] for each in truth["categories"]}
    of_picture: dict[int, list[dict[str, Any]]] = {}
    for each in truth["annotations"]:
        of_picture.setdefault(each["image_id"], []).append(each)
    for picture in truth["images"]:
        objects = of_picture.get(picture["id"], [])
        large = [each for each in objects if _is_large(each) and not _is_covered(each, objects)]
        large.sort(key=lambda each: -each["bbox"][2] * each["bbox"][3])
        pixels = cv2.imread(str(data / "images" / name / picture["file_name"]))
        for each in large[:_MOST]:
            yield _cut(pixels, each["bbox"]), kind_of(names[each["category_id"]])


def _is_large(each: dict[str, Any]) -> bool:
    return not each.get("iscrowd") and min(each["bbox"][2:]) >= _LEAST_SIDE


def _is_covered(each: dict[str, Any], objects: Sequence[dict[str, Any]]) -> bool:
    """Return whether an object of another class covers more than 0.4 of the box."""
    left, top, width, height = each["bbox"]
    for other in objects:
        x, y, w, h = other["bbox"]
        across = max(0.0, min(left + width, x + w) - max(left, x))
        down = max(0.0, min(top + height, y + h) - max(top, y))
        is_other = other["category_id"] != each["category_id"]
        if is_other and across * down > 0.4 * width * height:
            return True
    return False


def _cut(pixels: Any, bbox: Sequence[float]) -> npt.NDArray[np.uint8]:
    left, top, width, height = bbox
    first = max(0, int(top - _MARGIN * height)), max(0, int(left - _MARGIN * width))
    last = math.ceil(top + (1 + _MARGIN) * height), math.ceil(left + (1 + _MARGIN) * width)
    return cast("npt.NDArray[np.uint8]", pixels[first[0] : last[0], first[1] : last[1]])


def _looks(
    detector: Detector,
    crop: npt.NDArray[np.uint8],
    frames: Sequence[npt.NDArray[np.uint8]],
    random: np.random.Generator,
) -> Iterator[Look]:
    """Yield the looks at a cut-out in which the detector found it."""
    behind = frames[int(random.integers(len(frames)))]
    for _ in range(LOOKS):
        height = random.uniform(0.25, 0.6) * _FRAME[1]
        scale = min(height / crop.shape[0], 0.8 * _FRAME[0] / crop.shape[1])
        size = max(8, int(crop.shape[1] * scale)), max(8, int(crop.shape[0] * scale))
        pasted = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        left = int(random.integers(0, _FRAME[0] - size[0]))
        top = int(random.integers(0, _FRAME[1] - size[1]))
        scene = behind.astype(np.float32)
        scene[top : top + size[1], left : left + size[0]] = pasted * random.uniform(0.8, 1.15)
        scene += random.normal(0, _SENSOR_NOISE, scene.shape)
        picture = from_bgr(np.clip(scene, 0, 255).astype(np.uint8))
        edge = _MARGIN / (1 + 2 * _MARGIN)
        box = np.array(
            [[left + edge * size[0], top + edge * size[1],
              left + (1 - edge) * size[0], top + (1 - edge) * size[1]]],
            np.float32,
        )  # fmt: skip
        [boxes] = detector.detect([picture])
        overlaps = iou(boxes.xyxy, box)[:, 0]
        rows = np.flatnonzero(overlaps >= _LEAST_IOU)
        if not rows.size or boxes.features is None:
            continue
        row = rows[np.argmax(boxes.scores[rows])]
        label = detector.labels[boxes.class_ids[row]]
        yield Look(label, round(float(boxes.scores[row]), 3), boxes.features[row].tobytes())


# -- Sounds.


def wave(path: Path) -> Wave:
    """Return the samples of a file, mono at 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    parts: list[Wave] = []
    with av.open(str(path)) as opened:
        for frame in opened.decode(audio=0):
            parts += [_samples(each) for each in resampler.resample(frame)]
    parts += [_samples(each) for each in resampler.resample(None)]
    return np.concatenate(parts)


def _samples(frame: AudioFrame) -> Wave:
    return np.asarray(frame.to_ndarray()[0], np.float32)


def _noise(count: int, random: np.random.Generator) -> Wave:
    """Return pink noise with a mean square of 1."""
    spectrum = np.fft.rfft(random.normal(size=count))
    spectrum /= np.sqrt(np.maximum(1, np.arange(spectrum.size)))
    pink = np.fft.irfft(spectrum, count)
    return np.asarray(pink / pink.std(), np.float32)


class _Ears:
    """YAMNet, with its 1,024 values before the last layer."""

    def __init__(self) -> None:
        path, _ = network.verified("yamnet")
        model = network.core().read_model(path)
        [dense] = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
        model.add_outputs([dense.input_value(0)])
        compiled = network.core().compile_model(model, "CPU", network.config("f32", 1))
        self._request: ov.InferRequest = compiled.create_infer_request()
        names = labels()
        self._rows = [[names.index(each) for each in of_kind] for _, of_kind in SOUNDS.values()]

    def hear(self, samples: Wave) -> tuple[npt.NDArray[np.float64], tuple[float, ...]]:
        """Return the 1,024 values and the score of each kind."""
        outputs = self._request.infer({"log_mel": log_mel(samples)[None]})
        scores, values = list(outputs.values())
        best = tuple(round(float(scores[0, rows].max()), 3) for rows in self._rows)
        return values.reshape(-1).astype(np.float64), best


def _sounds(folder: Path, random: np.random.Generator) -> tuple[Sound, ...]:
    ears = _Ears()
    rows: list[tuple[Part, str, list[tuple[npt.NDArray[np.float64], tuple[float, ...]]]]] = []
    for name, (kind, _) in SOUNDS.items():
        [files] = folder.glob(f"* - {name}")
        for path in sorted(files.glob("*.ogg")):
            part: Part = "judges"
            if int(path.stem.partition("-")[0]) in _TEACHING_FOLDS:
                part = "teaches"
            heard = [ears.hear(window) for window in _loudest(wave(path), random)]
            rows.append((part, kind, heard))
    for number in range(60):
        part = "teaches"
        if number % 2:
            part = "judges"
        level = 10 ** random.uniform(-3, -1.5)
        noise = _noise(_WINDOWS * WINDOW, random).reshape(_WINDOWS, WINDOW)
        rows.append((part, "noise", [ears.hear(each * np.float32(level)) for each in noise]))
    teaching = np.array([v for part, _, heard in rows if part == "teaches" for v, _ in heard])
    middle = teaching.mean(0)
    axes = np.linalg.svd(teaching - middle, full_matrices=False)[2][:SOUND_VALUES]
    spread = ((teaching - middle) @ axes.T)[:, 0].std()
    sounds = []
    for part, kind, heard in rows:
        windows = []
        for values, scores in heard:
            projected = np.rint(32 * (values - middle) @ axes.T / spread)
            windows.append(Hearing(np.clip(projected, -127, 127).astype(np.int8).tobytes(), scores))
        sounds.append(Sound(part, kind, tuple(windows)))
    return tuple(sounds)


def _loudest(samples: Wave, random: np.random.Generator) -> Iterator[Wave]:
    """Yield the loudest windows of a sound, with noise 6 to 20 dB below the loudest part."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    starts = range(0, len(padded) - WINDOW + 1, WINDOW // 2)
    windows = [np.ascontiguousarray(padded[start : start + WINDOW]) for start in starts]
    windows.sort(key=level_db, reverse=True)
    for window in windows[:_WINDOWS]:
        below = 10 ** ((level_db(window) - random.uniform(6, 20)) / 20)
        noisy = window + _noise(WINDOW, random) * np.float32(below)
        yield np.clip(noisy, -1, 1).astype(np.float32)
