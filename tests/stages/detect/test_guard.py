"""The guard of a specialised model: what only the general one knows, the alarm, and the way back.

The specialised models are the shipped network with blind spots where one that was trained for a
camera has them: classes, places and light that were not in its footage.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from framegate.cli.demo import shipped_clip
from framegate.models import coco
from framegate.models.registry.model_folder import FootageSpan, Learned
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.alone import context_alone
from framegate.stages.decode import FileSource
from framegate.stages.detect import Detect, DetectOptions, DetectState
from framegate.stages.detect.guard import SOON_S, looks_until_alarm
from framegate.stages.detect.options import CacheOptions, GuardOptions, ModelOptions
from framegate.stages.detect.run_models import choose
from framegate.stages.detections import Detections
from tests.stages.detect.test_detect import stored
from tests.support.own_models import own_model, specialised, tuned_model

FORM = Form(624, 256)  # of the demo's clip: cars that stand on the right side of a street
FPS = 4
EVERY_S = 1.0
DAY, NIGHT, TURNED, EMPTY = range(4)


@cache
def picture(kind: int) -> bytes:
    """A street; the same at night, from a camera that was turned round, and with nothing in it."""
    with closing(FileSource(str(shipped_clip()))) as source:
        [frame] = itertools.islice(source.frames(), 120, 121)
        pixels = bytearray(frame.nbytes)
        frame.write(memoryview(pixels))
    yuv = np.frombuffer(bytes(pixels), np.uint8).reshape(-1, FORM.width)
    bgr = cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR_I420)
    made = {
        DAY: bgr,
        NIGHT: (bgr * 0.4).astype(np.uint8),
        TURNED: cv2.flip(bgr, 1),
        EMPTY: np.full_like(bgr, 120),
    }[kind]
    return cv2.cvtColor(made, cv2.COLOR_BGR2YUV_I420).tobytes()


def batched(frames: Sequence[Item], at_once: int) -> Iterator[Sequence[Item]]:
    yield from (frames[n : n + at_once] for n in range(0, len(frames), at_once))


@contextmanager
def pixels(item: Item) -> Iterator[memoryview]:
    yield memoryview(picture(item.record.number))


def footage(*scenes: tuple[int, float]) -> list[Item]:
    """Frames of scenes, each of a kind and so many seconds long."""
    kinds = [kind for kind, seconds in scenes for _ in range(round(FPS * seconds))]
    return [
        Item("a", Position(1, n), Record(1, n / FPS, 0.0, 0.0, kind, FORM))
        for n, kind in enumerate(kinds)
    ]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "registry"
    specialised(root, "street", ["car", "truck"], least_light=50)
    specialised(root, "place", ["car", "truck"], from_column=0.5)
    specialised(root, "people", ["person"])
    specialised(root, "struck", ["person"], struck=("car", "truck"))
    own_model(root, "mine")
    taught = Learned("light", "heavy", 100, 300, (FootageSpan("a", 0.0, 60.0),))
    tuned_model(root, "tuned", min_scores=dict.fromkeys(["car", "truck"], 0.06), learned=taught)
    tuned_model(root, "same", learned=taught)
    return root


def compiled_once(folder: Path, registry: Path) -> Path:
    """A run's folder; what was compiled for another camera of this registry is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "compiled").exists():
        (registry.parent / "compiled").mkdir(exist_ok=True)
        (folder / "compiled").symlink_to(registry.parent / "compiled")
    return folder


class Camera:
    """One source with its model, through the store after each batch."""

    def __init__(self, folder: Path, registry: Path, model: str, every_s: float = EVERY_S) -> None:
        options = DetectOptions(
            guard=GuardOptions(every_s=every_s),
            cache=CacheOptions(exact=False),
            models=ModelOptions(registry=str(registry)),
        )
        folder = compiled_once(folder, registry)
        context = context_alone(pixels, lambda: 0.0, folder, "window", model=lambda _: model)
        self._anew = lambda: Detect(options, context)
        self.stage = self._anew()
        self.state: dict[str, DetectState] = {"a": DetectState()}

    def killed(self) -> None:
        """Another worker goes on with what the store has."""
        self.stage = self._anew()

    def see(self, frames: Sequence[Item], at_once: int = 1) -> list[Detections]:
        said: list[Detections] = []
        for batch in batched(frames, at_once):
            answers, after = self.stage.process(batch, self.state)
            self.state = stored(dict(after))
            said += answers
        return said


def serves(said: Detections) -> str:
    return said.models[0].partition("-")[0]


def alarms(said: Sequence[Detections]) -> list[bool]:
    return [one.guard is not None and one.guard.alarm for one in said]


def test_without_a_specialised_model_there_is_no_guard_nor_a_byte_of_it(
    tmp_path: Path, registry: Path
) -> None:
    for model, every_s in (("", 1.0), ("mine", 1.0), ("street", 0.0)):
        camera = Camera(tmp_path / f"{model or 'light'}", registry, model, every_s)
        said = camera.see(footage((DAY, 3)))
        assert camera.stage.models.of("a").general is None
        assert {one.guard for one in said} == {None}
        assert b"guard" not in records.encode(camera.state["a"])
        assert b"guard" not in records.encode(said[-1])


def test_a_model_that_fits_its_camera_serves_on(tmp_path: Path, registry: Path) -> None:
    said = Camera(tmp_path, registry, "street").see(footage((DAY, 15)))
    assert {serves(one) for one in said} == {"street"}
    assert not any(alarms(said))
    last = said[-1].guard
    assert last is not None
    assert last.looks >= 10
    assert last.apart <= 0.2
    assert last.strange == 0
    looked = [one for one in said if len(one.models) == 2]
    assert len(looked) >= last.looks
    assert {one.looked for one in looked} == {"whole"}


def test_what_only_the_general_model_knows_is_reported_from_its_looks(
    tmp_path: Path, registry: Path
) -> None:
    said = Camera(tmp_path / "own", registry, "people").see(footage((DAY, 6)))
    [general] = Camera(tmp_path / "light", registry, "").see(footage((DAY, 0.25)))
    cars = {found.box for found in general.objects if found.label == "car"}
    assert cars
    assert {found.box for found in said[0].objects if found.label == "car"} == cars
    for one in said:
        assert {found.label for found in one.objects} >= {"car"}
        assert [name.partition("-")[0] for name in one.models] == ["people", "nanodet"]
        assert one.age_s <= 1.0 + 1 / FPS
    tracks = [{found.track for found in one.objects} for one in said[1:]]
    assert None not in tracks[0]
    assert all(each >= tracks[0] for each in tracks)
    assert said[-1].guard is not None
    assert said[-1].guard.strange >= 5


def test_what_was_struck_is_not_reported(tmp_path: Path, registry: Path) -> None:
    said = Camera(tmp_path, registry, "struck").see(footage((DAY, 4)))
    assert not {found.label for one in said for found in one.objects} & {"car", "truck"}
    assert said[-1].guard is not None
    assert said[-1].guard.strange == 0


def test_what_was_merged_is_one_thing_for_both(tmp_path: Path) -> None:
    specialised(tmp_path / "registry", "merges", ["truck"], merged={"car": "truck"})
    guard = Camera(tmp_path / "run", tmp_path / "registry", "merges").stage.models.of("a").guard
    assert guard is not None
    names = dict(zip(guard.general.detector.labels, guard.general.published, strict=True))
    assert names["car"] == names["truck"] == guard.labels.index("truck")
    assert guard.labels.index("car") not in guard.strange


def test_a_lower_least_score_is_no_difference(tmp_path: Path, registry: Path) -> None:
    """The same weights, that show what is no candidate for the general model.

    In one of its 14 boxes that calls the thing by a class that the tuned one does not look for.
    """
    said = Camera(tmp_path / "own", registry, "tuned").see(footage((DAY, 12)))
    general = Camera(tmp_path / "light", registry, "").see(footage((DAY, 12)))
    assert len(said[-1].objects) > len(general[-1].objects)
    last = said[-1].guard
    assert last is not None
    assert last.looks >= 10
    assert last.apart < 0.1


def test_what_is_gone_is_not_held_for_long(tmp_path: Path, registry: Path) -> None:
    said = Camera(tmp_path, registry, "people").see(footage((DAY, 3), (EMPTY, 3)))
    assert said[2 * FPS].objects
    assert not any(one.objects for one in said[round(3.75 * FPS) :])


@pytest.mark.parametrize(("model", "scene"), [("street", NIGHT), ("place", TURNED)])
def test_at_night_and_after_a_turn_the_alarm_rings_within_its_bound(
    tmp_path: Path, registry: Path, model: str, scene: int
) -> None:
    looks = looks_until_alarm(0.9, GuardOptions(every_s=EVERY_S))
    assert looks is not None
    bound_s = EVERY_S + looks * min(SOON_S, EVERY_S)
    frames = footage((DAY, 6), (scene, bound_s + 3))
    said = Camera(tmp_path / "own", registry, model).see(frames)
    assert not any(alarms(said[: 6 * FPS]))
    rings = alarms(said).index(True)
    assert rings <= (6 + bound_s) * FPS
    # The frame in which it rings is the last of the specialised model's.
    assert {serves(one) for one in said[: rings + 1]} == {model}
    after = said[rings + 1 :]
    assert {one.models for one in after} == {after[0].models}
    assert serves(after[0]) == "nanodet"
    assert after[0].reason == "swapped"
    [general] = Camera(tmp_path / "light", registry, "").see(frames[rings + 1 : rings + 2])
    assert general.objects
    assert {found.box for found in after[0].objects} == {found.box for found in general.objects}


def test_the_specialised_model_serves_again_once_the_two_agree(
    tmp_path: Path, registry: Path
) -> None:
    said = Camera(tmp_path, registry, "street").see(footage((DAY, 3), (NIGHT, 12), (DAY, 40)))
    changes = [now for now, _ in itertools.groupby(alarms(said))]
    assert changes == [False, True, False]
    again = len(said) - alarms(said)[::-1].index(True)
    assert again >= (15 + 16 * 0.7 * EVERY_S) * FPS
    assert serves(said[again]) == "nanodet"
    assert serves(said[again + 1]) == "street"
    assert said[again + 1].reason == "swapped"


def test_neither_kills_nor_batches_change_a_byte(tmp_path: Path, registry: Path) -> None:
    frames = footage((DAY, 2), (NIGHT, 10), (DAY, 2))
    one_by_one = Camera(tmp_path / "1", registry, "street").see(frames)
    assert any(alarms(one_by_one))
    together = Camera(tmp_path / "2", registry, "street").see(frames, at_once=5)
    killed = Camera(tmp_path / "3", registry, "street")
    in_pieces: list[Detections] = []
    for piece in batched(frames, 23):
        in_pieces += killed.see(piece, at_once=3)
        killed.killed()
    assert [records.encode(one) for one in together] == [records.encode(o) for o in one_by_one]
    assert [records.encode(one) for one in in_pieces] == [records.encode(o) for o in one_by_one]


def test_another_model_begins_with_a_quiet_guard(tmp_path: Path, registry: Path) -> None:
    frames = footage((NIGHT, 14))
    camera = Camera(tmp_path, registry, "street")
    assert alarms(camera.see(frames[:-8]))[-1]
    other = Camera(tmp_path, registry, "place")
    other.state = camera.state
    [said] = other.see(frames[-8:-7])
    assert said.guard is not None
    assert not said.guard.alarm
    assert said.reason == "swapped"


def test_who_knows_better_silences_it_by_having_the_general_model_serve_in_between(
    tmp_path: Path, registry: Path
) -> None:
    frames = footage((NIGHT, 14))
    camera = Camera(tmp_path / "own", registry, "street")
    assert alarms(camera.see(frames[:-8]))[-1]
    between = Camera(tmp_path / "light", registry, "")
    between.state = camera.state
    between.see(frames[-8:-7])
    again = Camera(tmp_path / "own", registry, "street")
    again.state = between.state
    assert serves(again.see(frames[-7:-6])[0]) == "street"


def test_how_many_looks_an_alarm_takes() -> None:
    usual = GuardOptions()
    assert looks_until_alarm(1.0, usual) == 7
    assert looks_until_alarm(0.5, usual) == 12
    assert looks_until_alarm(usual.disagreement, usual) is None
    assert looks_until_alarm(0.5, usual) > looks_until_alarm(0.7, usual)  # type: ignore[operator]


JUDGED = {"judged_frames": 80, "judged_boxes": 300, "difference_low": -0.02}


def test_what_nobody_judged_or_was_worse_may_not_serve(tmp_path: Path, registry: Path) -> None:
    store, run = Registry(registry), tmp_path / "run"
    manifest = store.find("street").manifest
    with pytest.raises(ModelNotTaken, match="nobody has judged it") as refused:
        choose("street", run, registry, serves=True)
    assert "framegate models judge street@1 --from SOURCE" in str(refused.value)
    assert choose("street", run, registry)  # to look beside
    assert choose("street", run, registry, serves=True, unjudged=True)
    assert choose("mine", run, registry, serves=True)  # it learned from nothing that is known
    for worse, why in (
        ({"difference_low": -0.08}, "F1 may be 0.080 below"),
        ({"judged_boxes": 99}, "99 objects"),
        ({"judged_frames": 49}, "49 pictures"),
    ):
        store.keep_judgement(manifest, JUDGED | worse)
        with pytest.raises(ModelNotTaken, match=why):
            choose("street", run, registry, serves=True)
    store.keep_judgement(manifest, JUDGED)
    assert choose("street", run, registry, serves=True).startswith("street@")
    assert store.find("street").manifest == manifest
    store.remove("street")
    assert store.judgement(manifest) is None


def test_the_general_model_looks_for_what_the_specialised_one_answers_with(tmp_path: Path) -> None:
    """Bottles are none of the classes that cameras are for: it would have nothing to say of them,
    beside the other and in its place.
    """
    registry = tmp_path / "registry"
    specialised(registry, "shelf", ["person", "bottle"], merged={"vase": "bottle"})
    guard = Camera(tmp_path / "run", registry, "shelf").stage.models.of("a").guard
    assert guard is not None
    assert [guard.labels[i] for i in guard.shared] == ["person", "bottle"]
    looks_for = {guard.general.detector.labels[i] for i in guard.general.detector.class_ids}
    assert looks_for == {*coco.CAMERA, "bottle", "vase"}
