"""The numbers of a visit, and a trained likeness: how much a visit is like some marked ones.

Few examples want few numbers: the place, way, size, speed, colours, class and sounds of a visit are
NUMBERS numbers. A likeness has a weight for each of them, fits one line of text, and is part of the
rule that uses it. So the same visits have the same likeness in a run, in a replay and on every
host.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import struct
from typing import Final, get_args

import msgspec

from framegate.pipeline.contracts.visits import Colour, PathPoint, Visit

MIN_MARKS: Final = 5
COLOURS: Final[tuple[str, ...]] = get_args(Colour)
KINDS: Final = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
SOUNDS: Final[dict[str, tuple[str, ...]]] = {
    "voice": (
        "Speech", "Child speech, kid speaking", "Conversation", "Shout", "Yell",
        "Children shouting", "Screaming", "Laughter", "Chatter", "Crowd",
        "Hubbub, speech noise, speech babble",
    ),
    "cry": ("Crying, sobbing", "Baby cry, infant cry", "Whimper", "Wail, moan"),
    "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "animal": (
        "Cat", "Meow", "Caterwaul", "Horse", "Neigh, whinny", "Cattle, bovinae", "Moo", "Pig",
        "Oink", "Goat", "Bleat", "Sheep", "Fowl", "Chicken, rooster", "Cluck",
        "Crowing, cock-a-doodle-doo",
        "Duck", "Quack", "Goose", "Bird", "Bird vocalization, bird call, bird song", "Crow", "Caw",
    ),
    "vehicle": (
        "Vehicle", "Motor vehicle (road)", "Car", "Car passing by", "Truck", "Bus", "Motorcycle",
        "Traffic noise, roadway noise", "Train", "Engine", "Medium engine (mid frequency)",
        "Heavy engine (low frequency)", "Engine starting", "Idling", "Accelerating, revving, vroom",
        "Aircraft", "Helicopter",
    ),
    "alarm": (
        "Alarm", "Car alarm", "Fire alarm", "Smoke detector, smoke alarm", "Siren",
        "Civil defense siren", "Police car (siren)", "Ambulance (siren)",
        "Fire engine, fire truck (siren)", "Emergency vehicle", "Buzzer", "Doorbell",
        "Vehicle horn, car horn, honking", "Air horn, truck horn", "Reversing beeps",
    ),
    "tool": (
        "Tools", "Hammer", "Jackhammer", "Sawing", "Power tool", "Drill", "Chainsaw", "Lawn mower",
        "Light engine (high frequency)",
    ),
    "impact": (
        "Glass", "Shatter", "Breaking", "Smash, crash", "Bang", "Slam", "Knock", "Thump, thud",
        "Gunshot, gunfire", "Explosion", "Fireworks", "Firecracker",
    ),
}  # fmt: skip
"""Kinds of sounds, each with the labels of AudioSet that belong to it."""

_SHAPE: Final = (
    "begin_x", "begin_y", "end_x", "end_y", "middle_x", "middle_y", "move_x", "move_y", "heading_x",
    "heading_y", "offset", "straight", "seconds", "stood", "stops", "speed", "width", "height",
    "aspect", "score",
)  # fmt: skip
NAMES: Final[tuple[str, ...]] = (
    *_SHAPE, *COLOURS, *KINDS, *(f"heard_{kind}" for kind in SOUNDS),
)  # fmt: skip
NUMBERS: Final = len(NAMES)
_STAYS: Final = 0.02  # parts of the picture; an object that moves by less has no heading
_MAX_STOPS: Final = 3
_TINY: Final = 1e-3
PLACES: Final = ("begin_x", "begin_y", "end_x", "end_y", "middle_x", "middle_y")
MIDDLE: Final = 0.5  # each of PLACES, for a visit without a path
_NO_PATH: Final = (PathPoint(0.0, MIDDLE, MIDDLE),)
_MARK: Final = "like2:"
_PACKED: Final = struct.Struct(f"<2H{NUMBERS + 1}f")


class LikenessInvalid(ValueError):
    """A text is no likeness, or one that a newer Framegate made."""


def numbers_of(visit: Visit) -> tuple[float, ...]:
    """Return the numbers of a visit, in the order of NAMES; all are finite.

    `offset` is the distance of the middle of the picture from the line of the way.
    """
    path = visit.path or _NO_PATH
    begin = path[0]
    end = path[-1]
    half_s = (begin.seconds + end.seconds) / 2
    middle = min(path, key=lambda point: abs(point.seconds - half_s))
    move_x = end.x - begin.x
    move_y = end.y - begin.y
    net = math.hypot(move_x, move_y)
    heading = (0.0, 0.0)
    offset = 0.0
    if net > _STAYS:
        heading = (move_x / net, move_y / net)
        # Visits on the same lane enter and leave at other places, but on about the same line.
        offset = heading[0] * (begin.y - 0.5) - heading[1] * (begin.x - 0.5)
    length = 0.0
    for before, after in itertools.pairwise(path):
        length += math.hypot(after.x - before.x, after.y - before.y)
    width = max(visit.size[0], _TINY)
    height = max(visit.size[1], _TINY)
    shape = (
        begin.x, begin.y, end.x, end.y, middle.x, middle.y, move_x, move_y, *heading,
        offset, net / max(length, _TINY), math.log1p(max(visit.seconds, 0.0)),
        math.log1p(visit.dwell_s),
        float(min(visit.stops, _MAX_STOPS)), math.log(max(visit.speed, _TINY)), math.log(width),
        math.log(height), math.log(width / height), visit.scores[0],
    )  # fmt: skip
    shares: dict[str, float] = dict(visit.colours.items())
    colours = [shares.get(name, 0.0) for name in COLOURS]
    kinds = [float(visit.label == kind) for kind in KINDS]
    sounds = [float(not set(labels).isdisjoint(visit.sounds)) for labels in SOUNDS.values()]
    return (*shape, *colours, *kinds, *sounds)


class Likeness(msgspec.Struct, frozen=True):
    """How much a visit is like marked ones: the logistic function of a weighted sum, 0 to 1.

    Weights are float32, so that its text has all of their digits.

    weights  weight of each number
    bias     constant of the sum
    marks    visits that it was trained with: alike, and not alike
    """

    weights: tuple[float, ...]
    bias: float
    marks: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.weights) != NUMBERS:
            raise ValueError(f"a likeness must have {NUMBERS} weights, got {len(self.weights)}")
        if not all(map(math.isfinite, (*self.weights, self.bias))):
            raise ValueError("the weights of a likeness must be finite")

    def of(self, visit: Visit) -> float:
        """Return the likeness of a visit, 0 to 1, rounded to 0.0001."""
        total = self.bias
        for number, weight in zip(numbers_of(visit), self.weights, strict=True):
            total += number * weight
        return round(logistic(total), 4)

    def text(self) -> str:
        """Return the likeness as one line of text, which `read` reads."""
        data = _PACKED.pack(*self.marks, *self.weights, self.bias)
        return _MARK + base64.urlsafe_b64encode(data).decode()

    @classmethod
    def read(cls, text: str) -> Likeness:
        """Read the text of a likeness. LikenessInvalid."""
        if not text.startswith(_MARK):
            raise LikenessInvalid(
                f"{text[:20]!r} is no likeness; framegate visits rule NAME prints one"
            )
        try:
            data = base64.b64decode(text.removeprefix(_MARK), b"-_", validate=True)
            alike, others, *weights = _PACKED.unpack(data)
            return cls(tuple(weights[:-1]), weights[-1], (alike, others))
        except (binascii.Error, struct.error, ValueError) as error:
            raise LikenessInvalid(f"the likeness cannot be read: {error}") from error


def logistic(total: float) -> float:
    """Return 1 / (1 + exp(-total)), also for large numbers."""
    if total >= 0:
        return 1 / (1 + math.exp(-total))
    small = math.exp(total)
    return small / (1 + small)
