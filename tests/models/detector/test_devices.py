"""Devices beside the CPU: their names, and the trial that takes one only if it answers as the CPU.

What is a device here without a GPU: HETERO:CPU, another plugin of OpenVINO's on the same CPU. What
answers wrongly: a network whose weights were changed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from framegate.models import coco
from framegate.models.detector import detector, policy, precision_trial
from framegate.models.detector.device_names import AUTO, CPU, RULE, device_fault
from framegate.models.detector.devices import (
    described,
    onnx_devices,
    openvino_devices,
    to_try,
)
from framegate.models.detector.network import Network, NetworkFile, core, shipped, supported
from framegate.models.detector.precision_trial import Choice, Tried, difference, made_pictures
from framegate.models.errors import DeviceMissing, DeviceRefused

OUTPUTS = ("cells",)
OTHER = "HETERO:CPU"
no_gpu = pytest.mark.skipif("GPU" in str(core().available_devices), reason="there is a GPU")


@pytest.mark.parametrize("name", ["CPU", "AUTO", "GPU", "GPU.1", "NPU", "HETERO:GPU.1,CPU", "CUDA"])
def test_names(name: str) -> None:
    assert device_fault(name) is None


@pytest.mark.parametrize("name", ["", "gpu", "GPU,CPU", "HETERO:", "GPU.x", "GPU 1", 1, "G" * 99])
def test_no_names(name: object) -> None:
    assert RULE in str(device_fault(name))


@no_gpu
@pytest.mark.parametrize("name", ["GPU", "GPU.1", "HETERO:GPU,CPU", "CUDA", "NPUX"])
def test_a_device_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(DeviceMissing, match=r"allowed here are CPU.*, AUTO") as told:
        to_try(name, with_onnx=False)
    assert told.value.available == openvino_devices()
    assert name in str(told.value)


@pytest.mark.skipif("CUDA" in onnx_devices(), reason="there is CUDA")
def test_a_provider_of_onnx_runtime_is_told_with_what_it_needs() -> None:
    with pytest.raises(DeviceMissing, match="only models that were added from ONNX"):
        to_try("CUDA", with_onnx=False)
    with pytest.raises(DeviceMissing, match="comes with the package onnxruntime-gpu"):
        to_try("CUDA", with_onnx=True)


def test_what_is_tried() -> None:
    assert to_try(CPU, with_onnx=True) == ()
    assert to_try(OTHER, with_onnx=False) == (OTHER,)
    assert CPU not in to_try(AUTO, with_onnx=True)


def test_difference_by_hand() -> None:
    right = [np.array([0.0, 2.0], np.float32), np.array([1.0, -1.0], np.float32)]  # spread 1, 1
    assert difference(right, right) == 0
    off = [right[0] + np.float32(0.1), right[1]]
    assert difference(right, off) == pytest.approx(0.1)
    assert difference(right, right[:1]) == math.inf
    assert difference(right, [np.full(2, np.nan, np.float32), right[1]]) == math.inf


def test_made_pictures_are_always_the_same_and_differ() -> None:
    first, second = made_pictures(64, 32), made_pictures(64, 32)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len({picture.tobytes() for picture in first}) == len(first)
    assert {picture.shape for picture in first} == {(32, 64, 3)}


def test_one_that_answers_as_the_cpu_is_taken_and_named(tmp_path: Path) -> None:
    tried = precision_trial.light(OTHER)
    cache = tmp_path / "precision.json"
    choice = precision_trial.run(cache, 0.0, 1, tried)
    assert (choice.device, choice.note) == (OTHER, "")
    assert choice.precision in ("f32", "f16")
    key = precision_trial.machine_key(1, tried)
    assert OTHER in key
    assert described(OTHER) in key
    assert precision_trial.read_cache(cache) == {key: choice}
    assert key != precision_trial.machine_key(1, precision_trial.light())


def build(device: str) -> detector.Detector:
    choices = policy.load("light").with_min_score(0.05)
    return detector.build(choices, "f32", 1, coco.class_ids(None), device=device)


def test_what_it_says_is_told_from_what_the_cpu_says() -> None:
    usual, other = build(CPU), build(OTHER)
    assert usual.models[0].partition("@")[0] == "nanodet-plus-416-f32"
    assert other.models[0].partition("@")[0] == "nanodet-plus-416-f32+hetero_cpu"
    assert usual.policy_id != other.policy_id
    assert usual.members[0].facts != other.members[0].facts, "or answers would be mixed up"
    assert usual.policy_id == detector.load("light", "f32", min_score=0.05).policy_id


def on_devices(asked: str, **files: Path) -> Tried:
    """As the light detector's, but that each of these devices computes another file on the CPU."""

    def open_on(precision: precision_trial.Precision, device: str) -> Network:
        file = NetworkFile(files[device], "0" * 64)
        return Network(file, OUTPUTS, precision, 1)

    devices = dict.fromkeys(files, ("f32",))
    return replace(precision_trial.light(), device=asked, open_on=open_on, devices=devices)


def changed(folder: Path, factor: float) -> Path:
    """The light network with the weights of one layer in the middle times a factor."""
    model = core().read_model(shipped("nanodet-plus", "f32").path)
    constants = [
        op for op in model.get_ops() if op.get_type_name() == "Constant" and len(op.shape) == 4
    ]
    middle = constants[len(constants) // 2]
    wrong = ov.opset13.constant((middle.data * factor).astype(middle.data.dtype))
    middle.output(0).replace(wrong.output(0))
    ov.save_model(model, folder / "wrong.xml", compress_to_fp16=False)
    return folder / "wrong.xml"


def test_one_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    tried = on_devices("WRONG", WRONG=changed(tmp_path, 0.8))
    with pytest.raises(
        DeviceRefused, match=r"WRONG.*outputs differ from the CPU's by .*% in f32.*AUTO"
    ):
        precision_trial.run(None, 0.0, 1, tried)


def test_one_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceRefused, match="not finite"):
        precision_trial.run(None, 0.0, 1, on_devices("WRONG", WRONG=changed(tmp_path, math.nan)))


def test_what_computes_with_other_weights_is_refused() -> None:
    """INT8 keeps the accuracy, but what it says of a picture is not what was said of it before."""
    int8 = shipped("nanodet-plus", "int8").path
    with pytest.raises(DeviceRefused, match="outputs differ from the CPU's"):
        precision_trial.run(None, 0.0, 1, on_devices("INT8", INT8=int8))


@pytest.mark.skipif("bf16" not in supported(), reason="this CPU has no bf16")
def test_half_of_the_precision_on_the_way_is_near_enough() -> None:
    half = Network(shipped("nanodet-plus", "bf16"), OUTPUTS, "bf16", 1)
    tried = replace(on_devices("HALF", HALF=Path()), open_on=lambda *_: half)
    assert precision_trial.run(None, 0.0, 1, tried).device == "HALF"


def test_half_precision_is_near_enough(tmp_path: Path) -> None:
    half = tmp_path / "half.xml"
    ov.save_model(
        core().read_model(shipped("nanodet-plus", "f32").path), half, compress_to_fp16=True
    )
    assert precision_trial.run(None, 0.0, 1, on_devices("HALF", HALF=half)).device == "HALF"


def test_auto_passes_over_what_answers_otherwise_and_says_so(tmp_path: Path) -> None:
    right = shipped("nanodet-plus", "f32").path
    tried = on_devices(AUTO, WRONG=changed(tmp_path, 0.8), RIGHT=right)
    choice = precision_trial.run(None, 0.0, 1, tried)
    assert choice.device in (CPU, "RIGHT")
    assert "WRONG: its outputs differ from the CPU's" in choice.note
    assert " ms a picture" in choice.note, "what was slower is told, too"


@no_gpu
def test_auto_without_others_is_the_cpu() -> None:
    choice = precision_trial.run(None, 0.0, 1, precision_trial.light(AUTO))
    assert (choice.device, choice.note) == (CPU, "this machine has no other device")


@no_gpu
def test_one_that_cannot_compute_it_is_refused_with_the_reason() -> None:
    """As a driver that was removed since, or a network with layers that it lacks."""
    tried = precision_trial.light()
    open_on = lambda precision, device: Network(  # noqa: E731
        shipped("nanodet-plus", precision), OUTPUTS, precision, 1, device=device
    )
    tried = replace(tried, device="GPU", open_on=open_on, devices={"GPU": ("f32",)})
    with pytest.raises(DeviceRefused, match=r"GPU.*does not compute this network \("):
        precision_trial.run(None, 0.0, 1, tried)


def test_what_an_older_version_has_measured_is_still_read(tmp_path: Path) -> None:
    file = tmp_path / "precision.json"
    file.write_text('{"key": {"precision": "f32", "threads": 2, "ms": 8.5}}', encoding="utf-8")
    assert precision_trial.read_cache(file) == {"key": Choice("f32", 2, 8.5)}
