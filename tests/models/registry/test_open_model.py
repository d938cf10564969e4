"""A model folder as a detector: the same answers as from what it was made of, its own labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from framegate.models import coco
from framegate.models.detector import detector
from framegate.models.errors import ModelUnreadable, OutputsNotFinite, UnknownClass
from framegate.models.gate.crops import Crop
from framegate.models.picture import Picture, to_source
from framegate.models.registry import open
from framegate.models.registry.manifest import InputSpec
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.open import fit
from tests.support.own_models import blind_to, own_model, relabelled, tuned_model


def scene(width: int = 832, height: int = 512) -> Picture:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (3, 6, 9), np.uint8)
    planes = [
        cv2.resize(plane, (width // part, height // part), interpolation=cv2.INTER_CUBIC)
        for plane, part in zip(coarse, (1, 2, 2), strict=True)
    ]
    return Picture(planes[0], planes[1], planes[2], "bt709", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return own_model(tmp_path_factory.mktemp("own") / "registry", min_score=0.05)


def test_it_answers_as_the_network_that_it_was_made_of(folder: ModelFolder) -> None:
    """The light detector at the same size, f32: same boxes, but for rounding."""
    light = detector.load("light", "f32", 1, min_score=0.05)
    own = open.open_model(folder, "f32", 1)
    [expected], [found] = light.detect([scene()]), own.detect([scene()])
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.05)
    assert own.models == (f"mine-416-f32@{folder.manifest.sha256[:8]}",)
    assert own.labels == coco.LABELS


def test_outputs_that_are_no_numbers_are_an_error_not_an_empty_picture(tmp_path: Path) -> None:
    folder = own_model(tmp_path / "registry", min_score=0.05, model=blind_to(128))
    own = open.open_model(folder, "f32", 1)
    own.warm_up(832, 512)
    [found] = own.detect([scene()])
    assert len(found)
    half = np.full((256, 416), 128, np.uint8)
    grey = Picture(np.full((512, 832), 128, np.uint8), half, half.copy(), "bt709", True)
    with pytest.raises(OutputsNotFinite, match=r"mine-416-f32@.*\(256, 416, 3\) are not finite"):
        own.detect([grey])
    [again] = own.detect([scene()])
    assert again.xyxy.tolist() == found.xyxy.tolist()


def test_a_format_of_another_version_is_named_with_a_way_out(folder: ModelFolder) -> None:
    """A model that an earlier version trained has a format that this one cannot decode."""
    old = replace(folder, manifest=replace(folder.manifest, format="nanodet"))
    expected = r"expected an output format \(.*yolox.*\), found nanodet, .*make or add the model"
    with pytest.raises(ModelUnreadable, match=expected):
        open.open_model(old, "f32", 1)


def test_labels_of_its_own(tmp_path: Path) -> None:
    folder = own_model(tmp_path / "registry", classes=relabelled(), min_score=0.05)
    own = open.open_model(folder, "f32", 1, classes=["part 2", "part 0"])
    assert own.labels == relabelled()
    assert own.class_ids == (0, 2)
    with pytest.raises(UnknownClass, match="not among the 80 classes of mine: person"):
        open.open_model(folder, "f32", 1, classes=["person"])


def test_labels_that_are_all_cocos_are_published_as_these(folder: ModelFolder) -> None:
    manifest = replace(folder.manifest, classes=("dog", "person"))
    assert open.kind_of(manifest).class_ids == (16, 0)
    assert open.class_ids(manifest, ["dog"]) == (16,)


@pytest.mark.parametrize(
    ("agreement", "allowed"), [(None, False), (0.9, False), (0.99, True), ("0.99", False)]
)
def test_bf16_is_tried_only_where_it_was_seen_to_agree(
    folder: ModelFolder,
    agreement: float | str | None,
    allowed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open, "supported", lambda: ("f32", "bf16", "int8", "int8+bf16"))
    metrics = {} if agreement is None else {"bf16_agreement": agreement}
    known = ModelFolder(folder.path, replace(folder.manifest, metrics=metrics))
    assert open.tried_of(known).precisions == (("f32", "bf16") if allowed else ("f32",))


@pytest.mark.parametrize("size", [(1280, 720), (480, 640), (300, 300)])
@pytest.mark.parametrize("how", ["letterbox", "corner", "stretch"])
def test_a_picture_is_fitted_and_boxes_come_back(how: str, size: tuple[int, int]) -> None:
    """Corners of the picture, found in the input, are those of the source again."""
    spec = InputSpec(320, 256, fit=how, fill=7)  # type: ignore[arg-type]
    width, height = size
    half = np.full((height // 2, width // 2), 128, np.uint8)
    picture = Picture(np.full((height, width), 200, np.uint8), half, half, "bt709", True)
    prepared = fit(picture, spec)
    assert prepared.bgr.shape == (256, 320, 3)
    rows, columns = np.nonzero((prepared.bgr > 100).all(axis=2))
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    back = to_source(np.array([corners], np.float32), prepared)
    np.testing.assert_allclose(back, [[0, 0, width, height]], atol=2)
    around = np.ones((256, 320), bool)
    around[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    assert (prepared.bgr[around] == 7).all()
    assert around.any() == (how != "stretch")


@pytest.mark.whole_run
def test_the_light_detector_as_a_model_folder_is_the_light_detector(tmp_path: Path) -> None:
    """Whole pictures and parts of them, in float and in 8 bits: the same bits."""
    kept = tuned_model(tmp_path / "registry")
    look = Crop((0, 0, 256, 192))
    for precision in ("f32", "int8"):
        light = detector.load("light", precision, 1, min_score=0.05)
        own = open.open_model(kept, precision, 1, min_score=0.05)
        whole = [one.detect([scene()])[0] for one in (light, own)]
        part = [one.look(scene(), [look])[0] for one in (light, own)]
        for expected, found in (whole, part):
            assert len(expected) > 2
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.xyxy, expected.xyxy)
            np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    assert {"f32", "int8"} <= set(open.tried_of(kept).precisions)


def test_classes_that_are_off_hide_nothing_and_merged_ones_have_the_other_name(
    tmp_path: Path,
) -> None:
    kept = tuned_model(tmp_path / "a", min_score=0.05)
    [everything] = open.open_model(kept, "f32", 1).detect([scene()])
    first, *others = dict.fromkeys(coco.LABELS[i] for i in everything.class_ids)
    only = tuned_model(tmp_path / "b", "only", min_score=0.05, min_scores={first: 0.05})
    [found] = open.open_model(only, "f32", 1).detect([scene()])
    assert {coco.LABELS[i] for i in found.class_ids} == {first}
    [asked] = open.open_model(only, "f32", 1, classes=[*others, first]).detect([scene()])
    np.testing.assert_array_equal(asked.xyxy, everything.xyxy)
    merged = tuned_model(tmp_path / "c", "merged", min_score=0.05, merged={others[0]: first})
    [named] = open.open_model(merged, "f32", 1).detect([scene()])
    np.testing.assert_array_equal(named.xyxy, everything.xyxy)
    expected = [
        first if coco.LABELS[i] == others[0] else coco.LABELS[i] for i in everything.class_ids
    ]
    assert [coco.LABELS[i] for i in named.class_ids] == expected
    with pytest.raises(UnknownClass):
        open.open_model(merged, "f32", 1, classes=[others[0]])
