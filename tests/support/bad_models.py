"""Model files that nobody should take, one that is good, and ways to add them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13

from framegate.models.conversion.add import AddRequest, add, add_folder
from framegate.models.conversion.sandbox import SandboxLimits
from framegate.models.conversion.settle import Wishes
from framegate.models.picture import from_bgr
from framegate.models.registry.manifest import MANIFEST
from framegate.models.registry.registry import Registry
from tests.support import tiny_onnx

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
    table = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    table["files"]["../../outside"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(table), encoding="utf-8")
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


def program_with_code(tmp: Path, code: str = "__import__('os').system('touch pickled')") -> Path:
    with zipfile.ZipFile(tmp / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        said = {"sizes": [{"as_expr": {"expr_str": code}}]}
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


def weights_alone(tmp: Path) -> Path:
    (tmp / "net.safetensors").write_bytes(b"weights")
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
    (tmp / "model.onnx.txt").write_text("a model", encoding="utf-8")
    return tmp / "model.onnx.txt"


def onnx(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(tmp: Path) -> Path:
        (tmp / "net.onnx").write_bytes(content())
        return tmp / "net.onnx"

    return write


def wanted(file: Path, limits: SandboxLimits | None = None, **wishes) -> AddRequest:
    said = Wishes(**{"classes": CLASSES, **wishes})
    return AddRequest(file, "yard", wishes=said, limits=limits or SandboxLimits(wall_s=200))


def put(file: Path, registry: Registry, changes: dict) -> None:
    if file.is_dir():
        add_folder(file, registry, [GREY])
    else:
        add(wanted(file, **changes), registry, [GREY], lambda _: None)


def linked_weights(tmp: Path) -> Path:
    (tmp / "secret").write_bytes(b"secret")
    (tmp / "weights.bin").symlink_to(tmp / "secret")
    return onnx(lambda: tiny_onnx.detector(external="weights.bin"))(tmp)
