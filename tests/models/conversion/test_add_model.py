"""What is taken: the same once, proved as it is used, with all that lies beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framegate.models.conversion.add import add, add_folder
from framegate.models.conversion.proof import Thresholds
from framegate.models.errors import ModelRefused
from framegate.models.picture import from_bgr, read_photograph
from framegate.models.registry.open import open_model
from framegate.models.registry.registry import Registry
from tests.support import tiny_onnx
from tests.support.bad_models import GREY, good_folder, ir, linked_weights, put, wanted
from tests.support.own_models import tuned_model

pytestmark = pytest.mark.whole_run

STREET = Path(__file__).with_name("street.jpg")


def test_the_good_one_is_taken(tmp_path):
    registry = Registry(tmp_path / "registry")
    told: list[str] = []
    model, proof = add(wanted(ir(tmp_path / "net.xml")), registry, [GREY], told.append)
    assert model.manifest.ref == "yard@1"
    assert "format: yolo; [7, 12]: 4 numbers of a box" in "\n".join(told)
    assert proof.best_score > 0.1
    # Again it is the same model; with another threshold it is a new version.
    one = wanted(tmp_path / "net.xml")
    assert add(one, registry, [GREY], told.append)[0].manifest == model.manifest
    other = replace(one, thresholds=replace(one.thresholds, min_score=0.4))
    assert add(other, registry, [GREY], told.append)[0].manifest.ref == "yard@2"
    with pytest.raises(ModelRefused, match="yard@2 is in the registry already, with other content"):
        add(replace(one, version="2"), registry, [GREY], told.append)


def test_what_was_proved_is_what_it_says_in_use(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (90, 160, 3), np.uint8)
    pictures = [GREY, from_bgr(noise)]
    said = replace(wanted(ir(tmp_path / "net.xml")), thresholds=Thresholds(0.4, 0.5, 9))
    model, proof = add(said, Registry(tmp_path / "registry"), pictures, lambda _: None)
    detector = open_model(model, "f32", 1)
    for picture, boxes in zip(pictures, proof.boxes["f32"], strict=True):
        (found,) = detector.detect([picture])
        assert len(found) == len(boxes) > 0
        np.testing.assert_allclose(found.xyxy, boxes.xyxy, atol=1e-4)
        np.testing.assert_allclose(found.scores, boxes.scores, atol=1e-6)


def test_a_folder_of_another_machine_is_taken(tmp_path):
    folder = good_folder(tmp_path)
    model, proof = add_folder(folder, Registry(tmp_path / "registry"), [GREY])
    assert model.manifest.ref == "yard@1"
    assert set(proof.boxes) >= {"f32"}


def test_a_tuned_model_of_another_machine_is_taken_with_all_that_it_knows(tmp_path):
    there = tuned_model(tmp_path / "there", min_score=0.05, min_scores={"car": 0.05})
    model, _ = add_folder(there.path, Registry(tmp_path / "here"), [read_photograph(STREET)])
    assert model.manifest == there.manifest
    assert {"model.xml", "int8.xml"} <= {file.name for file in model.path.iterdir()}
    model.verified()


def test_weights_beside_an_onnx_file(tmp_path):
    registry = Registry(tmp_path / "registry")
    file = linked_weights(tmp_path)
    with pytest.raises(ModelRefused, match="a link, which may lead anywhere"):
        put(file, registry, {})
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").write_bytes(tiny_onnx.KERNEL.tobytes())
    (tmp_path / "whole.onnx").write_bytes(tiny_onnx.detector())
    both = [
        add(wanted(one), registry, [GREY], lambda _: None)[0].manifest.files
        for one in (file, tmp_path / "whole.onnx")
    ]
    assert set(both[0]) == {"model.xml", "model.bin", "original.onnx", "weights.bin"}
    assert both[0]["model.bin"] == both[1]["model.bin"]


def test_onnx_of_one_picture_without_its_package(tmp_path):
    (tmp_path / "net.onnx").write_bytes(tiny_onnx.detector())
    registry = Registry(tmp_path / "registry")
    model, _ = add(wanted(tmp_path / "net.onnx"), registry, [GREY], lambda _: None)
    assert set(model.manifest.files) == {"model.xml", "model.bin", "original.onnx"}
    assert "sha256 " + model.manifest.files["original.onnx"] in model.manifest.provenance
