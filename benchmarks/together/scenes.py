"""Compose windows of ten seconds: a track, looks at it, what is heard meanwhile, and words.

A window has STEPS steps. For each question, windows are composed so that no part alone answers it:
the right object is as often there without the right sound as with it, and both as often at other
times. Wrong objects and wrong sounds are real ones, composed in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.together.library import (
    HEARD,
    LOOKS,
    SOUND_VALUES,
    Cutout,
    Kind,
    Library,
    Part,
    Sound,
    kind_of,
)

STEPS: Final = 12
STEP_S: Final = 10 / STEPS
FEATURES: Final = 80
KINDS: Final[tuple[Kind, ...]] = ("person", "vehicle", "animal", "thing")
WORDS: Final = 11  # label (4, or none), hour (2), night, areas (3)
_GATE: Final = (0.35, 0.5, 0.65, 0.9)  # left, top, right, bottom
_BEHIND: Final = ("rain", "waves", "fire", "noise", "noise", "noise")
_ROAD: Final = 0.45  # lower edge
_EVENTS: Final = tuple(kind for kind in HEARD if kind not in _BEHIND)
_NIGHT: Final = (22.0, 6.0)
_JITTER: Final = 0.006  # of a foot, parts of the picture

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Place = Literal["gate", "stands", "passes", "elsewhere"]
Want = Literal["both", "sound only", "object only"]
_OTHER_PLACE: Final[dict[Place, Place]] = {"gate": "elsewhere", "stands": "passes"}


@dataclass(frozen=True)
class Question:
    """What is asked of a window.

    kind   of the object
    place  where it is: at the gate, or standing still
    sound  one of HEARD
    want   both at once; the sound while no such object is there; the object without the sound
    night  whether it has to be night, too
    """

    name: str
    kind: Kind
    place: Place
    sound: str
    want: Want = "both"
    night: bool = False


QUESTIONS: Final = (
    Question("a dog barks while a person is at the gate", "person", "gate", "bark"),
    Question("a dog barks, and no person is at the gate", "person", "gate", "bark", "sound only"),
    Question("a person is at the gate, no dog barks", "person", "gate", "bark", "object only"),
    Question("a baby cries while a person stands still", "person", "stands", "cry"),
    Question("a chainsaw runs while a vehicle is at the gate", "vehicle", "gate", "chainsaw"),
    Question(
        "a rooster crows at night while an animal is at the gate",
        "animal", "gate", "rooster", night=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """N windows. A part that is missing is 0.

    path    float32 (N, STEPS, 3)   foot x and y, 0 to 1, and whether the object is in the picture
    looks   float32 (N, LOOKS, 81)  feature in units of about 1, and whether there is this look
    sound   float32 (N, STEPS, 65)  embedding in units of about 1, and whether there is sound
    words   float32 (N, WORDS)      label, hour, night, and the areas that the path touches
    score   float32 (N,)            mean score of the looks
    heard   float32 (N, STEPS, 10)  score of each kind in HEARD
    present bool (N, STEPS)         whether the asked object is at the asked place
    sounds  bool (N, STEPS)         whether the asked sound is there
    truth   bool (N,)
    """

    path: Floats
    looks: Floats
    sound: Floats
    words: Floats
    score: Floats
    heard: Floats
    present: Bools
    sounds: Bools
    truth: Bools

    def __len__(self) -> int:
        return len(self.truth)

    def rows(self, rows: npt.NDArray[np.intp] | Sequence[int]) -> Windows:
        """Return some of the windows."""
        return Windows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def with_sound_of(self, rows: npt.NDArray[np.intp]) -> Windows:
        """Return the windows, each with the sound of another; what is true does not change."""
        return replace(self, sound=self.sound[rows], heard=self.heard[rows])


class Composer:
    """Composes windows from the material of one part of a library."""

    def __init__(self, library: Library, part: Part, seed: int) -> None:
        self._random = np.random.default_rng([seed, ("teaches", "judges").index(part)])
        self._cutouts: dict[str, list[Cutout]] = {}
        for cutout in library.cutouts:
            if cutout.part == part:
                self._cutouts.setdefault(cutout.kind, []).append(cutout)
        self._sounds: dict[str, list[Sound]] = {}
        for sound in library.sounds:
            if sound.part == part:
                self._sounds.setdefault(sound.kind, []).append(sound)

    def asked(self, question: Question, count: int) -> Windows:
        """Compose windows for a question."""
        return _stacked([self._asked(question) for _ in range(count)])

    def unlabelled(self, scenes: int) -> Windows:
        """Compose scenes with two tracks each, as a camera would see them without a question.

        Dogs bark more often while a person is at the gate, and a chainsaw runs more often beside
        a vehicle, because that is what a later question can be about.
        """
        return _stacked(list(itertools.chain(*(self._scene() for _ in range(scenes)))))

    # -- A window for a question.

    def _asked(self, question: Question) -> Windows:
        random = self._random
        is_kind, is_place = True, True
        if random.random() < 0.5:
            is_kind, is_place = ((False, True), (True, False), (False, False))[random.integers(3)]
        kind = question.kind
        if not is_kind:
            kind = self._other(KINDS, question.kind)
        place: Place = question.place
        if not is_place:
            place = _OTHER_PLACE[question.place]
        is_night = bool(random.random() < 0.5)
        if question.night and is_kind and is_place:
            is_night = bool(random.random() < 0.7)
        path, inside = self._path(place)
        has_sound = random.random() < 0.5
        event = question.sound
        if not has_sound:
            event = self._other(_EVENTS, question.sound)
        is_quiet = not has_sound and random.random() < 0.5
        steps = self._moments(inside, bool(random.random() < 0.65))
        plan = {event: steps}
        if is_quiet:
            plan = {}
        if random.random() < 0.3:
            plan.setdefault(self._other(_EVENTS, question.sound), self._moments(inside, False))
        seen: Kind | None = kind
        if not is_kind and random.random() < 0.2:
            seen = None
        present = inside & (is_kind and is_place and seen is not None)
        if question.night:
            present = present & is_night
        sounds = np.zeros(STEPS, np.bool_)
        sounds[plan.get(question.sound, [])] = True
        return self._window(
            seen, path, self._heard(plan), self._hour(is_night), present, sounds,
            truth_of(question, present, sounds),
        )  # fmt: skip

    def _other(self, names: Sequence[str], name: str) -> Kind:
        others = [each for each in names if each != name]
        chosen: Kind = others[self._random.integers(len(others))]  # type: ignore[assignment]
        return chosen

    def _hour(self, is_night: bool) -> float:
        hour = self._random.uniform(*_NIGHT[::-1])
        if is_night:
            hour = self._random.uniform(_NIGHT[0], _NIGHT[1] + 24) % 24
        return float(hour)

    # -- A scene without a question.

    def _scene(self) -> list[Windows]:
        random = self._random
        kinds = [KINDS[random.choice(4, p=(0.5, 0.25, 0.15, 0.1))] for _ in range(2)]
        places: tuple[Place, ...] = ("gate", "elsewhere", "stands", "passes")
        paths = [self._path(places[random.integers(4)]) for _ in kinds]
        event = _EVENTS[random.integers(len(_EVENTS))]
        inside = paths[0][1]
        is_at_gate = inside.any() and kinds[0] == "person"
        if is_at_gate and random.random() < 0.4:
            event = "bark"
        if kinds[0] == "vehicle" and random.random() < 0.3:
            event = "chainsaw"
        plan = {event: self._moments(inside, bool(random.random() < 0.7))}
        if random.random() < 0.3:
            plan = {}
        heard = self._heard(plan)
        hour = float(random.uniform(0, 24))
        none = np.zeros(STEPS, np.bool_)
        return [
            self._window(kind, path, heard, hour, none, none, False)
            for kind, (path, _) in zip(kinds, paths, strict=True)
        ]

    # -- Parts of a window.

    def _path(self, place: Place) -> tuple[Floats, Bools]:
        """Return the feet (STEPS, 2), and when the object is at the place or stands."""
        random = self._random
        first = int(random.integers(1, STEPS - 6))
        last = first + int(random.integers(3, 6))
        inside = np.zeros(STEPS, np.bool_)
        inside[first : last + 1] = True
        x = np.interp(np.arange(STEPS), (0, first, last, STEPS - 1), (0.05, 0.38, 0.62, 0.95))
        if place == "stands" or random.random() < 0.4:
            stop = random.uniform(0.38, 0.62)
            x = np.interp(np.arange(STEPS), (0, first, last, STEPS - 1), (0.05, stop, stop, 0.95))
        if place == "passes":
            x = np.linspace(0.05, 0.95, STEPS)
        if random.random() < 0.5:
            x = 1 - x
        y = random.uniform(0.55, 0.85)
        if place == "elsewhere" or (place in ("stands", "passes") and random.random() < 0.5):
            y = random.uniform(0.1, 0.42)
        path = np.column_stack([x, y + 0.03 * np.linspace(-1, 1, STEPS) * random.normal()])
        path += random.normal(0, _JITTER, path.shape)
        return path.astype(np.float32), inside

    def _moments(self, inside: Bools, is_inside: bool) -> list[int]:
        """Return one to three steps in a row: within some steps, or at least one step beside."""
        around = inside | np.roll(inside, 1) | np.roll(inside, -1)
        allowed = np.flatnonzero(~around)
        if is_inside:
            allowed = np.flatnonzero(inside)
        start = int(allowed[self._random.integers(allowed.size)])
        length = int(self._random.integers(1, 4))
        return [step for step in range(start, start + length) if step in allowed]

    def _heard(self, plan: dict[str, list[int]]) -> tuple[Floats, Floats]:
        """Return the embeddings (STEPS, 64) and the scores (STEPS, 10) of planned sounds."""
        kinds = [_BEHIND[self._random.integers(len(_BEHIND))]] * STEPS
        for event, steps in plan.items():
            for step in steps:
                kinds[step] = event
        chosen = {kind: self._of(self._sounds[kind]) for kind in dict.fromkeys(kinds)}
        values, scores = [], []
        for kind in kinds:
            windows = chosen[kind].windows
            hearing = windows[self._random.integers(len(windows))]
            values.append(np.frombuffer(hearing.values, np.int8) / np.float32(16))
            scores.append(hearing.scores)
        return np.asarray(values, np.float32), np.asarray(scores, np.float32)

    def _of(self, sounds: Sequence[Sound]) -> Sound:
        return sounds[int(self._random.integers(len(sounds)))]

    def _window(
        self,
        kind: Kind | None,
        path: Floats,
        heard: tuple[Floats, Floats],
        hour: float,
        present: Bools,
        sounds: Bools,
        truth: bool,
    ) -> Windows:
        looks = np.zeros((LOOKS, FEATURES + 1), np.float32)
        feet = np.zeros((STEPS, 3), np.float32)
        words = np.zeros(WORDS, np.float32)
        words[4] = 1
        scores = [0.0]
        if kind is not None:
            cutouts = self._cutouts[kind]
            seen = cutouts[self._random.integers(len(cutouts))].looks
            for row, look in enumerate(seen):
                looks[row, :-1] = np.frombuffer(look.feature, np.int8)[:FEATURES] / np.float32(32)
                looks[row, -1] = 1
            feet[:, :2], feet[:, 2] = path, 1
            best = max(seen, key=lambda look: look.score)
            words[4] = 0
            words[KINDS.index(kind_of(best.label))] = 1
            scores = [look.score for look in seen]
            words[8:] = areas(path)
        angle = 2 * np.pi * hour / 24
        words[5:8] = np.sin(angle), np.cos(angle), hour >= _NIGHT[0] or hour < _NIGHT[1]
        sound = np.ones((STEPS, SOUND_VALUES + 1), np.float32)
        sound[:, :-1] = heard[0]
        return Windows(
            feet[None], looks[None], sound[None], words[None],
            np.array([np.mean(scores)], np.float32), heard[1][None], present[None], sounds[None],
            np.array([truth]),
        )  # fmt: skip


def truth_of(question: Question, present: Bools, sounds: Bools) -> bool:
    """Return whether a window is what is asked.

    present  bool (STEPS,)  whether the asked object is at the asked place
    sounds   bool (STEPS,)  whether the asked sound is there
    """
    both = bool((present & sounds).any())
    if question.want == "both":
        return both
    if question.want == "sound only":
        return bool(sounds.any()) and not both
    return bool(present.any()) and not both


def at_gate(path: Floats) -> Bools:
    """Return at which steps a foot is at the gate; path (..., 2 or more) of x and y."""
    left, top, right, bottom = _GATE
    x, y = path[..., 0], path[..., 1]
    return np.asarray((x >= left) & (x <= right) & (y >= top) & (y <= bottom))


def on_road(path: Floats) -> Bools:
    """Return at which steps a foot is on the road, the upper part of the picture."""
    return np.asarray(path[..., 1] < _ROAD)


def areas(path: Floats) -> tuple[float, float, float]:
    """Return whether a path touches the gate, the road, and the yard beside."""
    is_at_gate = at_gate(path)
    is_on_road = on_road(path)
    is_beside = ~is_at_gate & ~is_on_road
    return float(is_at_gate.any()), float(is_on_road.any()), float(is_beside.any())


def standing(path: Floats) -> Bools:
    """Return at which steps an object stands; path (N, STEPS, 3)."""
    moved = np.abs(np.diff(path[..., :2], axis=1)).max(2) < 5 * _JITTER
    still = np.zeros(path.shape[:2], np.bool_)
    still[:, 1:] |= moved
    still[:, :-1] |= moved
    return still & (path[..., 2] > 0)


def _stacked(windows: Sequence[Windows]) -> Windows:
    return Windows(
        *(np.concatenate([getattr(each, name) for each in windows])
          for name in Windows.__dataclass_fields__)
    )  # fmt: skip
