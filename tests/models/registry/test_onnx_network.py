"""The ONNX runtime answers as OpenVINO does, from the file that a model was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framegate.models.conversion.add import AddRequest, add
from framegate.models.conversion.settle import Wishes
from framegate.models.detector import precision_trial
from framegate.models.detector.devices import onnx_devices
from framegate.models.detector.precision_trial import Choice, choose
from framegate.models.errors import ArrayMismatch, ModelUnreadable, TooManyInFlight
from framegate.models.picture import Picture
from framegate.models.registry import open
from framegate.models.registry.manifest import InputSpec
from framegate.models.registry.model_folder import ModelFolder, sha256_of
from framegate.models.registry.onnx_network import OnnxNetwork, as_input
from framegate.models.registry.registry import Registry

SPEC = InputSpec(64, 48, colour="rgb", scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))


def test_levels_become_what_the_network_was_trained_on() -> None:
    """By hand: R 255, G 51, B 102 of one pixel."""
    bgr = np.full((2, 3, 3), (102, 51, 255), np.uint8)
    out = as_input(bgr, SPEC)
    assert out.dtype == np.float32
    assert out.shape == (2, 3, 3)
    np.testing.assert_allclose(
        out[0, 0], [(1 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0.4 - 0.3) / 2], atol=1e-6
    )


def test_it_is_taken_where_it_is_faster_by_more_than_noise() -> None:
    assert choose({("f32", 1): 10.0, ("f32+onnx", 1): 8.0}) == Choice("f32+onnx", 1, 8.0)
    assert choose({("f32", 1): 10.0, ("f32+onnx", 1): 9.8}) == Choice("f32", 1, 10.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A network of one convolution, with YOLO's output, added as a user does."""
    pytest.importorskip("onnx", reason="onnx is not installed (train extra)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (onnx extra)")
    path = tmp_path_factory.mktemp("onnx")
    write_network(path / "one.onnx")
    wishes = Wishes(("cat", "dog"), "yolo", input={"colour": "rgb", "scale": 1 / 255})
    wanted = AddRequest(path / "one.onnx", "one", wishes=wishes)
    rows = np.random.default_rng(1).integers(0, 256, (48, 64), np.uint8)
    seen = Picture(rows, rows[:24, :32], rows[:24, 32:], "bt601", True)
    added, _ = add(wanted, Registry(path / "registry"), [seen], lambda _: None)
    return added


def write_network(path: Path) -> None:
    """(1, 3, 48, 64) -> (1, 6, 48): boxes and scores of two classes."""
    import onnx

    helper, n = onnx.helper, 6
    weights = np.random.default_rng(0).normal(0, 0.3, (n, 3, 8, 8)).astype(np.float32)
    scale = np.array([48, 48, 24, 24, 1, 1], np.float32).reshape(1, n, 1)
    constants = {"w": weights, "shape": np.array([1, n, 48], np.int64), "scale": scale}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w"], ["maps"], strides=[8, 8]),
            helper.make_node("Sigmoid", ["maps"], ["shares"]),
            helper.make_node("Reshape", ["shares", "shape"], ["rows"]),
            helper.make_node("Mul", ["rows", "scale"], ["output0"]),
        ],
        "one",
        [helper.make_tensor_value_info("images", 1, [1, 3, 48, 64])],
        [helper.make_tensor_value_info("output0", 1, [1, n, 48])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def test_both_runtimes_give_the_same_outputs(folder: ModelFolder) -> None:
    assert "f32+onnx" in open.tried_of(folder).precisions
    answers = []
    for precision in ("f32", "f32+onnx"):
        network = open.open_network(folder, precision, 1)
        network.warm_up([(64, 48)])
        token = network.submit(picture())
        network.wait(token)
        answers.append(network.read(token, lambda out: [array.copy() for array in out]))
    [ours], [theirs] = answers
    assert ours.shape == theirs.shape == (6, 48)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_provider_is_taken_if_it_answers_as_the_cpu_and_is_named(folder: ModelFolder) -> None:
    """With onnxruntime-openvino on a CPU, for one."""
    if not onnx_devices():
        pytest.skip("this package of ONNX Runtime has the CPU only")
    tried = open.tried_of(folder, onnx_devices()[0])
    choice = precision_trial.run(None, 0.0, 1, tried)
    assert (choice.device, choice.precision) == (onnx_devices()[0], "f32+onnx")
    made = open.open_model(folder, choice.precision, choice.threads, device=choice.device)
    assert f"+onnx+{choice.device.lower()}@" in made.models[0]
    usual = open.open_model(folder, "f32+onnx", 1)
    assert usual.policy_id != made.policy_id


def test_answers_do_not_mix(folder: ModelFolder) -> None:
    network = OnnxNetwork(folder, "f32+onnx", 1, max_in_flight=2)
    first, second = network.submit(picture(1)), network.submit(picture(2))
    with pytest.raises(TooManyInFlight):
        network.submit(picture(3))
    alone = network.read(second, lambda out: out[0].copy())
    network.read(first, lambda _: None)
    assert (network.read(network.submit(picture(2)), lambda out: out[0].copy()) == alone).all()
    with pytest.raises(ArrayMismatch):
        network.submit(np.zeros((64, 48, 3), np.uint8))


def test_a_file_that_it_cannot_read_is_no_candidate(folder: ModelFolder, tmp_path: Path) -> None:
    for name in folder.manifest.files:
        (tmp_path / name).write_bytes((folder.path / name).read_bytes())
    (tmp_path / "original.onnx").write_bytes(b"no model")
    files = {name: sha256_of(tmp_path / name) for name in folder.manifest.files}
    broken = ModelFolder(tmp_path, replace(folder.manifest, files=files))
    with pytest.raises(ModelUnreadable, match="ONNX Runtime"):
        OnnxNetwork(broken, "f32+onnx", 1)
