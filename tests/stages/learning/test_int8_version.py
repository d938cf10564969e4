"""`framegate models quantise`: a network that finds red boxes, on footage that has one."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from framegate.cli.own_models import models
from framegate.cli.own_models.models import candidate_table, outcome_in_words
from framegate.models.registry.manifest import InputSpec, Manifest
from framegate.models.registry.model_folder import ModelFolder, sha256_of
from framegate.models.registry.open import open_model
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.stages.learning.int8_version import (
    ModelRow,
    Quantised,
    draws,
    frames_at,
    quantise,
    reader,
)
from tests.support import footage

SIDE = 64
OUTPUTS = ("heat", "sides", "offset")
FRAMES = 40


def network() -> ov.Model:
    """Heat where most is red around a cell of 4x4 pixels; every box is 12 pixels wide."""
    picture = opset13.parameter([1, SIDE, SIDE, 3], ov.Type.u8, name="picture")
    floats = opset13.divide(opset13.convert(picture, ov.Type.f32), np.float32(255))
    planes = opset13.transpose(floats, np.array([0, 3, 1, 2]))
    redness = np.array([-0.5, -0.5, 1], np.float32)[None, :, None, None]  # of B, G, R
    cells = opset13.convolution(
        planes, np.tile(redness / 16, (1, 1, 4, 4)), [4, 4], [0, 0], [0, 0], [1, 1]
    )
    slope = np.minimum(np.arange(1, 7), np.arange(6, 0, -1)).astype(np.float32)
    near = np.outer(slope, slope)
    heat = opset13.convolution(
        opset13.relu(cells), near[None, None], [1, 1], [3, 3], [2, 2], [1, 1]
    )
    heat = opset13.subtract(heat, np.float32(44))
    sides = opset13.convolution(
        cells, np.full((2, 1, 1, 1), 0.005, np.float32), [1, 1], *[[0, 0]] * 2, [1, 1]
    )
    offset = opset13.multiply(sides, np.float32(0))
    sides = opset13.add(sides, np.full((1, 2, 1, 1), 3, np.float32))
    for node, name in zip((heat, sides, offset), OUTPUTS, strict=True):
        node.output(0).get_tensor().set_names({name})
    return ov.Model([heat, sides, offset], [picture], "red")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """With the network in it."""
    folder = tmp_path / "made"
    folder.mkdir()
    ov.save_model(network(), folder / "model.xml", compress_to_fp16=False)
    files = {name: sha256_of(folder / name) for name in ("model.xml", "model.bin")}
    spec = InputSpec(SIDE, SIDE, "stretch", colour="bgr")
    manifest = Manifest(
        "red", "1", "detect", ("box",), spec, "f32", "centernet_usual", {}, OUTPUTS,
        0.3, 0.6, 20, files, {"map": 0.5}, "Apache-2.0", "made by a test",
    )  # fmt: skip
    Registry(tmp_path / "registry").put(ModelFolder(folder, manifest))
    return tmp_path / "registry"


@pytest.fixture
def film(tmp_path: Path) -> str:
    return str(footage.write_scene(tmp_path / "day.mp4", footage.steady(FRAMES)))


def test_frames_are_split_by_time_and_drawn_once(film: str) -> None:
    [draw] = draws({"day": film}, 30, seed=1)
    assert max(draw.earlier) < min(draw.later)
    assert len({*draw.earlier, *draw.later}) == 30
    assert draws({"day": film}, 30, seed=1) == [draw] != draws({"day": film}, 30, seed=2)
    everything = draws({"a": film, "b": film}, 1000)
    assert [one.earlier + one.later for one in everything] == [tuple(range(FRAMES))] * 2


def test_a_drawn_frame_is_that_frame(film: str) -> None:
    everything = list(frames_at(film, range(FRAMES)))
    some = list(frames_at(film, (3, 17)))
    assert len(everything) == FRAMES
    for found, number in zip(some, (3, 17), strict=True):
        assert np.array_equal(found.y, everything[number].y)
        assert np.array_equal(found.u, everything[number].u)
    assert list(frames_at(film, ())) == []


def test_boxes_are_those_of_the_model_as_it_is_served(registry: Path, film: str) -> None:
    folder = Registry(registry).find("red")
    detector = open_model(folder, "f32", 1)
    [picture] = frames_at(film, (5,))
    served = detector.detect([picture])[0]
    assert len(served) > 0
    compiled = ov.Core().compile_model(network(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled([detector.members[0].prepare(picture).bgr[None]])
    said = reader(folder.manifest)([outputs[name][0] for name in OUTPUTS])
    assert np.allclose(said.scores, served.scores, atol=1e-5)


def test_a_new_version_is_added_that_can_be_opened(registry: Path, film: str) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    told: list[str] = []
    found = quantise("red@1", {"day": film}, told.append, frames=30, least=0.3, registry=registry)
    assert (found.calibrated, found.judged) == (15, 15)
    assert found.rows[0].layers_float is None
    best = max(found.rows[1:], key=lambda row: row.low)
    assert best.low >= 0.3
    assert len(told) == len(found.rows)  # one for the file, one for each candidate
    new = Registry(registry).find("red@1-int8")
    manifest = new.manifest
    assert found.added == f"red@1-int8 ({manifest.result_name})"
    assert (manifest.precision, manifest.min_score) == ("int8", 0.3)
    assert manifest.format == "centernet_usual"
    assert manifest.metrics["int8_agreement_low"] == round(best.low, 4)
    assert "red@1" in manifest.provenance
    assert manifest.provenance.endswith("made by a test")
    [picture] = frames_at(film, (35,))
    assert len(open_model(new, "int8", 1).detect([picture])[0]) > 0
    with pytest.raises(ConfigFaults, match="INT8 model"):
        quantise("red@1-int8", {"day": film}, frames=30, least=0.3, registry=registry)


def test_what_agrees_too_little_is_not_added(registry: Path, film: str) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    found = quantise("red", {"day": film}, frames=20, least=1.01, registry=registry)
    assert found.added is None
    assert "not added" in outcome_in_words(found)
    assert [one.manifest.version for one in Registry(registry).models()] == ["1"]


def test_faults_are_said_before_any_work(registry: Path, film: str) -> None:
    with pytest.raises(ConfigFaults, match="nothing"):
        quantise("nothing", {"day": film}, frames=30, least=0.3, registry=registry)
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    with pytest.raises(ConfigFaults, match="at least 20 frames are needed, got 10"):
        quantise("red", {"day": film}, frames=10, least=0.3, registry=registry)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    models.register(parser.add_subparsers())
    return parser.parse_args(["models", "quantise", *words])


def test_the_command_adds_and_tells(
    registry: Path, film: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    said = parsed("red", "--from", film, "--frames", "24", "--least", "0.2")
    said.registry = registry
    assert said.command(said) is Exit.DONE
    out = capsys.readouterr().out
    for words in ("calibrated on 12 frames, judged on 12 others", "noisiest", "added: red@1-int8"):
        assert words in out


def test_a_camera_and_senseless_numbers_are_refused() -> None:
    said = parsed("red", "--from", "rtsp://camera/1", "--least", "2", "--frames", "1")
    with pytest.raises(ConfigFaults) as fault:
        said.command(said)
    message = str(fault.value)
    assert "a camera" in message
    assert "--least must be 0 to 1, got 2.0" in message
    assert "--frames must be at least 2, got 1" in message


def test_the_verdict_names_a_gain_and_its_absence() -> None:
    rows = ModelRow(None, 1, 1, 1, 20.0, 100), ModelRow(0, 0.9, 0.88, 0.92, 10.0, 30)
    found = Quantised(rows, (), 10, 10, 0.85, "red@1-int8 (red@0123abcd)")
    assert "2.00 times as fast" in outcome_in_words(found)
    assert "not faster" not in outcome_in_words(found)
    slower = Quantised((rows[0], ModelRow(0, 0.9, 0.88, 0.92, 25.0, 30)), (), 10, 10, 0.85, "x")
    assert "it is not faster" in outcome_in_words(slower)
    assert candidate_table(found).row_count == 2
