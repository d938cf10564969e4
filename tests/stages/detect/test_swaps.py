"""Detect's models change between two frames: tracks go on, what one saw is no reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.models import coco
from framegate.models.errors import UnknownClass, UnknownModel, WarmUpFailed
from framegate.models.registry.open import open_model, policy_of
from framegate.models.tracking import score_thresholds
from framegate.pipeline.contracts.errors import ModelTooSlow
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.stages.detect import Detect
from framegate.stages.detect.estimate import settings_for
from framegate.stages.detect.memory import DetectState
from framegate.stages.detect.model_pool import (
    MAX_UNUSED,
    ModelOpener,
    ServedModel,
    fastest_ms,
)
from framegate.stages.detect.options import (
    CacheOptions,
    DetectOptions,
    GateOptions,
    ModelOptions,
    ModelUse,
)
from tests.stages.detect.test_detect import LEAST, item, pixels, stored
from tests.support.own_models import blind_to, own_model, relabelled, tuned_model

pytestmark = pytest.mark.whole_run

ANY_TIME_MS = 60_000.0  # the most that the option takes: few tests are about a model's speed


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "registry"
    own_model(root, "mine")
    own_model(root, "parts", classes=relabelled())
    tuned_model(root, "tuned", min_score=0.3, min_scores={"person": 0.3, "car": 0.6})
    return root


class Swapped:
    """A stage whose sources' models are chosen from outside."""

    def __init__(self, folder: Path, registry: Path, **models: object) -> None:
        self.chosen: dict[str, str] = {}
        self.state: dict[str, DetectState] = {}
        models = {"most_ms": ANY_TIME_MS} | models
        options = DetectOptions(
            min_score=LEAST,
            gate=GateOptions(mode="crops"),
            cache=CacheOptions(exact=False),
            models=ModelOptions(registry=str(registry), **models),  # type: ignore[arg-type]
        )
        self.context = context_alone(
            pixels, lambda: 0.0, folder, "decode", model=lambda s: self.chosen.get(s, "")
        )
        self.options = options
        self.stage = Detect(options, self.context)

    def restart(self) -> None:
        """Another worker goes on."""
        self.stage = Detect(self.options, self.context)

    def say(self, *items: Item):
        states = {i.source: self.state.get(i.source, DetectState()) for i in items}
        said, after = self.stage.process(items, states)
        self.state |= stored(dict(after))
        return said


@pytest.fixture
def swapped(tmp_path: Path, registry: Path) -> Swapped:
    return Swapped(tmp_path, registry)


def test_a_model_changes_between_two_frames_and_tracks_go_on(swapped: Swapped) -> None:
    first = swapped.say(*[item(1, n, 1) for n in range(4)])
    swapped.stage.prepare("mine", ["a"], is_new=True)
    swapped.chosen["a"] = "mine"
    second = swapped.say(*[item(1, n, 1) for n in range(4, 8)])
    assert {said.models for said in first} == {first[0].models}
    assert {said.models for said in second} == {second[0].models}
    assert first[0].models[0].startswith("nanodet-plus-416")
    assert (
        second[0].models[0].startswith("mine-416-f32@") or "mine-416-bf16@" in second[0].models[0]
    )
    assert [said.reason for said in second][:2] == ["swapped", "unchanged"]
    before = {found.track for found in first[-1].objects if found.track}
    after = {found.track for found in second[-1].objects if found.track}
    assert before
    assert len(before & after) >= 0.7 * len(before)


def test_the_error_of_a_missing_model_keeps_a_short_traceback(swapped: Swapped) -> None:
    """It is raised for each frame: a camera of 25 frames a second raises it for days."""
    swapped.chosen["a"] = "absent"
    lengths = []
    for _ in range(50):
        with pytest.raises(UnknownModel) as failed:
            swapped.stage.models.of("a")
        lengths.append(len(failed.traceback))
    assert lengths[-1] <= lengths[0]


def test_a_size_whose_warm_up_failed_fails_each_time(tmp_path: Path) -> None:
    """Else the same frame would be done at the second try, by the same network."""
    folder = own_model(tmp_path / "registry", "blind", model=blind_to(0))
    settings = settings_for(GateOptions(), policy_of(folder.manifest), LEAST, True)
    serving = ServedModel(open_model(folder, "f32", 1), settings)
    for _ in range(2):
        with pytest.raises(WarmUpFailed, match="outputs are not finite"):
            serving.warm_up(1, 17)


def test_the_way_back_needs_no_opening(swapped: Swapped) -> None:
    swapped.say(item(1, 0, 1))
    light = swapped.stage.models.of("a")
    swapped.chosen["a"] = "mine"
    assert swapped.stage.models.of("a") is not light
    swapped.chosen["a"] = ""
    assert swapped.stage.models.of("a") is light


def test_a_worker_that_comes_later_goes_on_with_the_same(swapped: Swapped) -> None:
    swapped.chosen["a"] = "mine"
    [said] = swapped.say(item(1, 0, 1))
    swapped.restart()
    [again] = swapped.say(item(1, 1, 1))
    assert again.models == said.models
    assert again.reason != "swapped"


def test_other_labels_begin_other_tracks(swapped: Swapped) -> None:
    first = swapped.say(*[item(1, n, 1) for n in range(4)])
    swapped.chosen["a"] = "parts"
    second = swapped.say(*[item(1, n, 1) for n in range(4, 8)])
    assert {found.label for found in second[-1].objects} <= set(relabelled())
    before = {found.track for said in first for found in said.objects if found.track}
    after = {found.track for said in second for found in said.objects if found.track}
    assert before
    assert after
    assert min(after) > max(before)


def test_sources_have_models_of_their_own(tmp_path: Path, registry: Path) -> None:
    own = {"b": {"model": "parts", "classes": ["part 0"], "min_score": 0.02}}
    two = Swapped(tmp_path, registry, sources=own)
    a, b = two.say(item(1, 0, 1, "a"), item(1, 0, 1, "b"))
    assert {found.label for found in a.objects} <= set(coco.LABELS)
    assert {found.label for found in b.objects} <= {"part 0"}
    assert a.models != b.models


def test_what_a_model_is_called_stays_what_it_was(tmp_path: Path) -> None:
    """A run keeps to the model that a name meant, whatever the registry holds later."""
    root = tmp_path / "registry"
    own_model(root, "mine", "1")
    run = Swapped(tmp_path / "run", root)
    run.chosen["a"] = "mine"
    [before] = run.say(item(1, 0, 1))
    own_model(root, "mine", "2", min_score=0.4)
    run.restart()
    [after] = run.say(item(1, 1, 1))
    assert before.models == after.models


def test_what_was_prepared_for_many_sources_is_not_opened_again(
    tmp_path: Path, registry: Path
) -> None:
    """Sources with thresholds of their own want as many of a model: all stay until they come."""
    sources = {name: {"min_score": 0.05 + n / 100} for n, name in enumerate("abcd")}
    run = Swapped(tmp_path, registry, sources=sources)
    run.say(*(item(1, 0, 1, name) for name in "abcd"))
    run.stage.prepare("mine", list("abcd"), is_new=True)
    run.say(*(item(1, 1, 1, name) for name in "abcd"))
    ready = {id(serving) for serving in run.stage.models._open.values()}
    run.chosen = dict.fromkeys("abcd", "mine")
    said = run.say(*(item(1, 2, 1, name) for name in "abcd"))
    assert all(answer.models[0].startswith("mine-416-") for answer in said)
    assert {id(run.stage.models.of(name)) for name in "abcd"} <= ready


def test_a_model_that_serves_is_not_judged_anew(tmp_path: Path, registry: Path) -> None:
    run = Swapped(tmp_path, registry, most_ms=0.001)
    run.stage.prepare("mine", ["a"], is_new=False)
    with pytest.raises(ModelTooSlow):
        run.stage.prepare("parts", ["a"], is_new=True)


@pytest.mark.parametrize(
    ("looks_ms", "fastest"),
    [
        ([90.0, 20.0, 500.0], 20.0),  # one is enough
        (
            [500.0, 400.0, 300.0, 90.0, 90.0, 20.0],
            20.0,
        ),  # a busy machine, and then a moment of rest
        ([400.0] * 4 + [300.0] + [400.0] * 20, 300.0),  # for 5 s
        ([4000.0, 3000.0, 4000.0, 4000.0, 4000.0, 20.0], 3000.0),  # five times
    ],
)
def test_a_model_takes_what_the_fastest_of_its_looks_takes(
    looks_ms: list[float], fastest: float
) -> None:
    """Who else computes on the machine makes no model slow."""
    now_s = 0.0
    left = iter(looks_ms)

    def look() -> None:
        nonlocal now_s
        now_s += next(left) / 1000

    assert fastest_ms(look, 50.0, lambda: now_s) == pytest.approx(fastest)


@pytest.mark.parametrize(
    ("name", "network"),
    [("nanodet-plus-192", "nanodet-plus-192-"), ("surveillance", "surveillance-448-int8")],
)
def test_each_shipped_detector_can_take_over(
    tmp_path: Path, registry: Path, name: str, network: str
) -> None:
    run = Swapped(tmp_path, registry)
    run.say(item(1, 0, 1))
    run.stage.prepare(name, ["a"], is_new=True)
    run.chosen["a"] = name
    found = run.say(item(1, 1, 1), item(1, 2, 1))
    assert [said.reason for said in found] == ["swapped", "unchanged"]
    assert all(said.models[0].startswith(network) for said in found)


def test_a_network_of_one_size_looks_at_whole_frames(tmp_path: Path) -> None:
    context = context_alone(pixels, lambda: 0.0, tmp_path, "decode")
    opener = ModelOpener(GateOptions(), ModelOptions(), context)
    served = opener.open(ModelUse("surveillance"))
    assert served.settings.plan.options.mode == "frames"
    assert opener.open(ModelUse("nanodet-plus-192")).settings.plan.options.mode == "crops"
    known = [coco.LABELS[i] for i in served.detector.class_ids]
    assert known == ["person", "bicycle", "car"]
    with pytest.raises(UnknownClass, match="classes of surveillance: dog; it has person"):
        opener.open(ModelUse("surveillance", classes=("dog", "person")))


def test_few_models_that_nobody_wants_stay_open(swapped: Swapped) -> None:
    for name in ("mine", "parts", "nanodet-plus-224", "nanodet-plus-320", "mine"):
        swapped.chosen["a"] = name
        swapped.say(item(1, 0, 1))
    assert len(swapped.stage.models._open) <= 2 + MAX_UNUSED


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        ("nobody", {}, UnknownModel),
        ("mine", {"most_ms": 0.001}, ModelTooSlow),
        ("parts", {"sources": {"a": {"classes": ["person"]}}}, UnknownClass),
    ],
)
def test_what_cannot_serve_is_refused_and_changes_nothing(
    tmp_path: Path, registry: Path, model: str, options: dict[str, object], error: type[Exception]
) -> None:
    run = Swapped(tmp_path, registry, **options)
    [before] = run.say(item(1, 0, 1))
    with pytest.raises(error):
        run.stage.prepare(model, ["a"], is_new=True)
    [after] = run.say(item(1, 1, 1))
    assert after.models == before.models


def test_thresholds_of_single_classes(tmp_path: Path, registry: Path) -> None:
    usual = Swapped(tmp_path / "1", registry)
    [all_of_them] = usual.say(item(1, 0, 1))
    label = all_of_them.objects[0].label
    own = {"a": {"min_scores": {label: 0.99}}}
    strict = Swapped(tmp_path / "2", registry, sources=own)
    [fewer] = strict.say(item(1, 0, 1))
    assert [f for f in fewer.objects if f.label == label] == []
    others = [f for f in all_of_them.objects if f.label != label]
    assert [f.box for f in fewer.objects] == [f.box for f in others]


def test_a_tuned_model_brings_least_scores_and_what_a_user_says_wins(
    tmp_path: Path, registry: Path
) -> None:
    context = context_alone(pixels, lambda: 0.0, tmp_path, "decode")
    opener = ModelOpener(GateOptions(), ModelOptions(registry=str(registry)), context)
    least = {
        "its own": opener.open(ModelUse("tuned")),
        "one of them": opener.open(ModelUse("tuned", min_scores=(("car", 0.5),))),
        "all": opener.open(ModelUse("tuned", min_score=0.4)),
    }
    person, car, dog = (coco.LABELS.index(label) for label in ("person", "car", "dog"))
    rows = {name: served.settings.calm.own for name, served in least.items()}
    own = {name: {i: shown for i, shown, _ in classes} for name, classes in rows.items()}
    kept = {name: {i: lower for i, _, lower in classes} for name, classes in rows.items()}
    # A mean reaches the threshold less often than a single score.
    calm = score_thresholds.mean_for(1.0)
    assert own["its own"][person] == pytest.approx(0.3 * calm)
    assert own["its own"][car] == pytest.approx(0.6 * calm)
    assert own["one of them"][person] == pytest.approx(0.3 * calm)
    assert own["one of them"][car] == kept["one of them"][car] == 0.5
    assert kept["its own"][car] < own["its own"][car]
    assert least["one of them"].sure["car"] == 0  # a user's: no object of it is hidden
    assert least["one of them"].sure["person"] > own["one of them"][person]
    assert own["all"] == {}
    assert least["all"].settings.calm.shown == least["all"].settings.calm.kept == 0.4
    assert least["its own"].detector.class_ids == (person, car)
    asked = opener.open(ModelUse("tuned", classes=("dog",)))
    assert asked.detector.class_ids == (dog,)
    # Its network takes any size: where little changed, parts are looked at.
    assert least["its own"].settings.plan.options.mode == "crops"
    assert opener.open(ModelUse("mine")).settings.plan.options.mode == "frames"
