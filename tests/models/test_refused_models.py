"""What is refused, each with its reason; nothing of it ends up in the registry."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from models.add_model import Wanted, add, add_folder
from models.apart import Limits
from models.errors import ModelError
from models.model_folder import MANIFEST
from models.open_model import open_model
from models.picture import from_bgr
from models.proof import Thresholds
from models.refusals import ModelRefused
from models.registry import Registry
from models.settle_model import Wishes
from tests.models import tiny_onnx

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "weights"
GREY = from_bgr(np.full((48, 64, 3), 90, np.uint8))
CLASSES = ("person", "car", "dog")


def ir(path: Path, height: int = 48, width: int = 64, spoilt: float = 0.0, rank: int = 4) -> Path:
    """An IR that gives one column a cell of stride 16, (1, 4 + 3 classes, cells)."""
    picture = opset13.parameter([1, 3, height, width][4 - rank :], np.float32, name="images")
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.02, (7, 3, 16, 16)).astype(np.float32)
    cells = opset13.convolution(picture, kernel, [16, 16], [0, 0], [0, 0], [1, 1])
    flat = opset13.reshape(cells, opset13.constant([1, 7, -1]), False)
    scores = opset13.sigmoid(flat)
    size = np.array([48 + spoilt, 32, 20, 20, 1, 1, 1], np.float32).reshape(1, 7, 1)
    out = opset13.multiply(scores, opset13.constant(size))
    out.output(0).get_tensor().set_names({"output0"})
    ov.save_model(ov.Model([out], [picture]), path, compress_to_fp16=False)
    return path


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pickled",)


def wrong_hash(tmp: Path) -> Path:
    folder = good_folder(tmp)
    data = bytearray((folder / "model.bin").read_bytes())
    data[7] ^= 1
    (folder / "model.bin").write_bytes(data)
    return folder


def leaving_manifest(tmp: Path) -> Path:
    folder = good_folder(tmp)
    table = json.loads((folder / MANIFEST).read_text())
    table["files"]["../../outside"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(table))
    return folder


def good_folder(tmp: Path) -> Path:
    registry = Registry(tmp / "other")
    model, _ = add(wanted(ir(tmp / "good.xml")), registry, [GREY], lambda _: None)
    return Path(shutil.copytree(model.path, tmp / "copied"))


def bare_pickle(tmp: Path) -> Path:
    (tmp / "model.pt").write_bytes(pickle.dumps(Bomb()))
    return tmp / "model.pt"


def zipped_pickle(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Bomb()))
        archive.writestr("model/version", "3")
    return tmp / "model.pt"


def program_with_pickle(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        config = {"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}
        archive.writestr("model/data/weights/model_weights_config.json", json.dumps(config))
        archive.writestr("model/data/weights/weight_0", pickle.dumps(Bomb()))
    return tmp / "model.pt2"


def program_with_code(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        said = {"sizes": [{"as_expr": {"expr_str": "__import__('os').system('touch pickled')"}}]}
        archive.writestr("model/models/model.json", json.dumps(said))
    return tmp / "model.pt2"


def zip_bomb(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/code/net.py", b"\0" * (100 << 20))
        archive.writestr("model/constants.pkl", b"")
    return tmp / "model.pt"


def truncated_ir(tmp: Path) -> Path:
    file = ir(tmp / "net.xml")
    weights = file.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:100])
    return file


def truncated_safetensors(tmp: Path) -> Path:
    data = (WEIGHTS / "nanodet.safetensors").read_bytes()
    (tmp / "net.safetensors").write_bytes(data[:-1000])
    return tmp / "net.safetensors"


def strange_safetensors(tmp: Path) -> Path:
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp / "net.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 4)
    return tmp / "net.safetensors"


def two_inputs(tmp: Path) -> Path:
    one, two = (opset13.parameter([1, 3, 48, 64], np.float32, name=name) for name in "ab")
    ov.save_model(ov.Model([opset13.add(one, two)], [one, two]), tmp / "net.xml")
    return tmp / "net.xml"


def grey_input(tmp: Path) -> Path:
    one = opset13.parameter([1, 1, 48, 64], np.float32)
    ov.save_model(ov.Model([opset13.relu(one)], [one]), tmp / "net.xml")
    return tmp / "net.xml"


def no_detector(tmp: Path) -> Path:
    one = opset13.parameter([1, 3, 48, 64], np.float32)
    mean = opset13.reduce_mean(one, opset13.constant([2, 3]), False)
    mean.output(0).get_tensor().set_names({"features"})
    ov.save_model(ov.Model([mean], [one]), tmp / "net.xml")
    return tmp / "net.xml"


def word(tmp: Path) -> Path:
    (tmp / "model.onnx.txt").write_text("a model")
    return tmp / "model.onnx.txt"


def onnx(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(tmp: Path) -> Path:
        (tmp / "net.onnx").write_bytes(content())
        return tmp / "net.onnx"

    return write


TIGHT = Limits(memory_bytes=900 << 20, wall_s=120)

REFUSALS: dict[str, tuple[Callable[[Path], Path], dict, str]] = {
    "wrong hash": (wrong_hash, {}, r"model\.bin: expected sha256 \w{64}, found \w{64}"),
    "a manifest whose path leaves its folder":
        (leaving_manifest, {}, r"files = '\.\./\.\./outside': allowed is a plain file name"),
    "a pickle": (bare_pickle, {}, "a pickle, as torch.save writes it: .*Export the network"),
    "a pickle in a zip": (zipped_pickle, {}, "a pickle, as torch.save writes it"),
    "a program whose weights are pickles": (program_with_pickle, {}, "weights in it are a pickle"),
    "a program with code in it": (program_with_code, {}, "is no plain arithmetic"),
    "a zip bomb": (zip_bomb, {}, r"a zip bomb: \d+ bytes that unpack to 104857600; allowed are"),
    "truncated ONNX":
        (onnx(lambda: tiny_onnx.detector()[:-500]), {}, r"damaged ONNX file \(\d+ bytes are"),
    "an empty file": (onnx(bytes), {}, "an empty file"),
    "truncated IR": (truncated_ir, {}, "weights"),
    "truncated safetensors":
        (truncated_safetensors, {}, r"a truncated safetensors file: \d+ bytes of weights"),
    "safetensors of others": (strange_safetensors, {}, "weights without a network; of safetensors"),
    "two inputs": (two_inputs, {}, r"it has 2 inputs \(a, b\); allowed is one picture"),
    "one channel": (grey_input, {}, r"its input is \[1,1,48,64\]; allowed is one picture of 3"),
    "outputs of no format":
        (no_detector, {}, r"its outputs features \[1, 3\] are of no format that is read \(yolo"),
    "outputs of another format":
        (lambda tmp: ir(tmp / "net.xml"), {"format": "centernet"},
         r"are not what centernet reads: .*2 outputs of 3, 3 axes"),
    "options that make no sense":
        (lambda tmp: ir(tmp / "net.xml"), {"format": "nanodet_joined", "options": {"strides": 8}},
         "cannot be read as nanodet_joined"),
    "a format that nobody knows":
        (lambda tmp: ir(tmp / "net.xml"), {"format": "yolo99"}, "yolo99: allowed is yolo,"),
    "other classes":
        (lambda tmp: ir(tmp / "net.xml"), {"classes": ("a", "b")},
         r"2 classes do not fit its outputs output0 \[1, 7, 12\]: they have 3 \(yolo\)"),
    "NaN": (lambda tmp: ir(tmp / "net.xml", spoilt=np.nan), {},
            r"output output0 has 12 of 84 numbers that are NaN or infinite \(f32\)"),
    "boxes outside": (lambda tmp: ir(tmp / "net.xml", spoilt=5000), {},
                      "the middle of 12 of 12 boxes lies outside the picture"),
    "no classes": (lambda tmp: ir(tmp / "net.xml"), {"classes": None},
                   "does not name its 3 classes; say which with --classes"),
    "an operator set that is too new":
        (onnx(lambda: tiny_onnx.detector(opset=99)), {}, "ONNX operator set 99: allowed are 7 to"),
    "an operator that nobody knows":
        (onnx(lambda: tiny_onnx.detector(operator="Fancy", domain="com.acme")), {},
         r"No conversion rule found for operations: com\.acme\.Fancy"),
    "weights outside of the folder":
        (onnx(lambda: tiny_onnx.detector(external="../secret")), {},
         r"its weights lie in '\.\./secret'; allowed is a plain file name beside it"),
    "weights that are not there":
        (onnx(lambda: tiny_onnx.detector(external="weights.bin")), {}, "refused: No such"),
    "out of memory": (lambda tmp: ir(tmp / "net.xml", 4096, 4096), {"limits": TIGHT},
                      "reading it needs more than 900 MiB of memory"),
    "time out": (lambda tmp: ir(tmp / "net.xml"), {"limits": Limits(wall_s=0.01)},
                 "reading it took more than 0.01 s"),
    "CPU time": (lambda tmp: ir(tmp / "net.xml"), {"limits": Limits(cpu_s=0)},
                 "reading it needs more than 0 s of CPU time"),
    "neither": (word, {}, "its bytes and name are of no kind that is read: ONNX"),
    "a file that is not there": (lambda tmp: tmp / "no.onnx", {}, "No such file"),
    "a device": (lambda _: Path("/dev/zero"), {}, "no regular file"),
}  # fmt: skip


def wanted(file: Path, limits: Limits | None = None, **wishes) -> Wanted:
    said = Wishes(**{"classes": CLASSES, **wishes})
    return Wanted(file, "yard", wishes=said, limits=limits or Limits(wall_s=200))


def put(file: Path, registry: Registry, changes: dict) -> None:
    if file.is_dir():
        add_folder(file, registry, [GREY])
    else:
        add(wanted(file, **changes), registry, [GREY], lambda _: None)


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, changes, words = REFUSALS[case]
    file = make(tmp_path)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(ModelError, match=words):
        put(file, registry, changes)
    assert registry.all_models() == ([], [])
    assert not list(tmp_path.rglob("pickled"))


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
        found = detector.result(detector.submit(picture))
        assert len(found) == len(boxes) > 0
        np.testing.assert_allclose(found.xyxy, boxes.xyxy, atol=1e-4)
        np.testing.assert_allclose(found.scores, boxes.scores, atol=1e-6)


def test_a_folder_of_another_machine_is_taken(tmp_path):
    folder = good_folder(tmp_path)
    model, proof = add_folder(folder, Registry(tmp_path / "registry"), [GREY])
    assert model.manifest.ref == "yard@1"
    assert set(proof.boxes) >= {"f32"}


def linked_weights(tmp: Path) -> Path:
    (tmp / "secret").write_bytes(b"secret")
    (tmp / "weights.bin").symlink_to(tmp / "secret")
    return onnx(lambda: tiny_onnx.detector(external="weights.bin"))(tmp)


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


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_what_needs_torch_says_so(tmp_path):
    registry = Registry(tmp_path / "registry")
    with pytest.raises(ModelRefused, match="needs torch to be read: pip install"):
        put(WEIGHTS / "nanodet.safetensors", registry, {})
