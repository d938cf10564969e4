"""What models a configuration names is settled before anything starts, faults all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from framegate.models import coco
from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.contracts.errors import ConfigFaults, ModelNotTaken
from framegate.stages.detect.pinned_models import pinned_model
from framegate.stages.escalate.configured_models import ConfiguredModels
from tests.support.own_models import own_model, relabelled, tuned_model
from tests.support.told_place import SEES_NOBODY, ToldPlace, escalate

DETECT, ESCALATE = "framegate.stages.detect:Detect", "framegate.stages.escalate:Escalate"


def options(registry: Path, **more: object) -> dict[str, object]:
    return {"models": {"registry": str(registry), **more}}


def as_stages(options: Mapping[str, dict[str, object]]) -> list[StageEntry]:
    """Return a stage for each class, named like its module."""
    return [stage(use.rpartition(".")[2].partition(":")[0], use, options[use]) for use in options]


def stage(name: str, use: str, options: dict[str, object]) -> StageEntry:
    return StageEntry(name, use, None, "wait", False, 1, options)


def settle(stages: Sequence[StageEntry], folder: Path) -> dict[str, str]:
    models = ConfiguredModels(stages, folder)
    models.settle()
    return models.settled


def test_names_are_settled_once(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    first = own_model(registry, "mine", size=(96, 64)).manifest
    said = {DETECT: options(registry, sources={"a": {"model": "mine"}, "b": {"model": "light"}})}
    assert settle(as_stages(said), tmp_path / "run") == {"a": f"mine@{first.sha256}"}
    own_model(registry, "mine", "2", size=(96, 64))
    assert settle(as_stages(said), tmp_path / "run") == {"a": f"mine@{first.sha256}"}
    assert settle(as_stages(said), tmp_path / "other")["a"] != f"mine@{first.sha256}"


def test_all_faults_at_once(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    own_model(registry, "parts", classes=relabelled(), size=(96, 64))
    sources = {
        "a": {"model": "nobody"},
        "b": {"model": "parts", "classes": ["person"]},
        "c": {"model": "parts"},
        "d": {"model": "parts", "min_scores": {"wheel": 0.5}},
    }
    said = {
        DETECT: options(registry, sources=sources),
        ESCALATE: {"escalate": {"place": "local"}},
    }
    with pytest.raises(ConfigFaults) as found:
        settle(as_stages(said), tmp_path / "run")
    faults = found.value.faults
    assert [fault.partition(" = ")[0] for fault in faults] == [
        f"models.sources.{source}.model" for source in "abcd"
    ]
    for fault, words in zip(
        faults, ("not in the registry", "person", "the heavy pass knows", "wheel"), strict=True
    ):
        assert words in fault


@pytest.mark.parametrize(("place", "is_fault"), [("off", False), ("local", True)])
def test_classes_that_are_not_cocos_are_for_nobody_to_be_asked_about(
    tmp_path: Path, place: str, is_fault: bool
) -> None:
    own_model(tmp_path / "registry", "parts", classes=relabelled(), size=(96, 64))
    sources = {"a": {"model": "parts"}}
    said = {
        DETECT: {**options(tmp_path / "registry", sources=sources if not is_fault else {})},
        ESCALATE: {"classes": ["part 1"], "escalate": {"place": place}},
    }
    if is_fault:
        with pytest.raises(ConfigFaults, match=r"stages\.escalate\.classes.*part 1: unknown"):
            settle(as_stages(said), tmp_path / "run")
    else:
        assert set(settle(as_stages(said), tmp_path / "run")) == {"a"}


def test_the_heavy_pass_checks_no_model_with_class_ids_of_its_own(tmp_path: Path) -> None:
    """One class that is not COCO's changes the ids of all, also if it is not reported."""
    registry = tmp_path / "registry"
    classes = ("forklift", *coco.LABELS[1:])
    tuned_model(registry, "mixed", classes=classes, min_scores={"car": 0.3})
    stages = {
        DETECT: options(registry, sources={"a": {"model": "mixed", "classes": ["car"]}}),
        ESCALATE: {"escalate": {"place": "local"}},
    }
    with pytest.raises(ConfigFaults, match="also has forklift"):
        settle(as_stages(stages), tmp_path / "run")

    pinned_model("mixed", tmp_path / "other", str(registry))
    stage = escalate(tmp_path / "other", ToldPlace(lambda _: SEES_NOBODY))
    try:
        with pytest.raises(ModelNotTaken, match="also has forklift"):
            stage.prepare("mixed", ["a"], is_new=True)
    finally:
        stage.close()


def test_of_two_stages_of_one_class_both_are_settled(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    first = own_model(registry, "first", size=(96, 64)).manifest
    own_model(registry, "second", size=(96, 64))
    both = [stage(n, DETECT, options(registry) | {"detector": n}) for n in ("first", "second")]
    assert settle(both, tmp_path / "run") == {"": f"first@{first.sha256}"}
    for name in ("first", "second"):  # copies: the registry may forget them
        assert pinned_model(name, tmp_path / "run", None).manifest.name == name
    names = ("none", "gone", "first")
    stages = [stage(n, DETECT, options(registry) | {"detector": n}) for n in names]
    faults = r"(?s)stages\.none\.detector = 'none'.*stages\.gone\.detector = 'gone'"
    with pytest.raises(ConfigFaults, match=faults):
        settle(stages, tmp_path / "other")
