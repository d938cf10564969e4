"""Make `weights/surveillance*.*` from Intel's person-vehicle-bike detectors of Open Model Zoo.

    git clone https://github.com/lsdace30095/cmrpack23
    git -C cmrpack23 checkout e0c863bb46bb1ba2ea8b84816461a2d5474cb8e8
    python -m tools.import_surveillance cmrpack23/intel

The folder has Intel's files under their own names: NAME/FP16-INT8/NAME.xml and .bin. Their sha384
is that of Intel's model.yml. The script checks the sha256 of each file, lets the network take a
picture as all networks here do, and gives each output a batch axis and its own name:

    boxes   (1, N, 4)  left, top, right, bottom in pixels of the input, N up to 100
    scores  (1, N)
    labels  (1, N)     0 vehicle, 1 person, 2 bike, as float32

Only the 8-bit networks ship: they take two thirds of the time of the float ones, and their mAP on
images/coco-val2017-a (person, car, bicycle) is lower by 0.008 and 0.006, within its uncertainty.
"""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.preprocess import PrePostProcessor

from framegate.models.errors import ModelUnreadable
from framegate.models.weights import FOLDER

OUTPUTS: Final = ("boxes", "scores", "labels")


@dataclass(frozen=True, slots=True)
class Published:
    """A network of Open Model Zoo: its name there, and the sha256 of both files."""

    name: str
    xml: str
    bin: str


NETWORKS: Final = {
    "surveillance": Published(
        "person-vehicle-bike-detection-2004",
        "df64979cd58874abf624bf2f79b80ee3b4e58177307e45940afed0b1f27ed553",
        "446722d01d80cbccfd438e352823445876cec4c0516bb5ba1c14d98f93e213c8",
    ),
    "surveillance-large": Published(
        "person-vehicle-bike-detection-2003",
        "47c8bff6b743639b6d60cab292b64f6246b0f790eb4534d0392d09ada436a756",
        "0172364bf6770a45c61f0edfedd703746da021c6e8691056d376a0fac69439c0",
    ),
}


def verified(folder: Path, published: Published) -> Path:
    """Return the path of the .xml. Raises ModelUnreadable for other files than those published."""
    path = folder / published.name / "FP16-INT8" / f"{published.name}.xml"
    for file, expected in ((path, published.xml), (path.with_suffix(".bin"), published.bin)):
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
        if actual != expected:
            raise ModelUnreadable(file, f"sha256 {expected}", actual)
    return path


def convert(path: Path, name: str) -> ov.Model:
    """Return the network that takes a picture, uint8 NHWC in the order B, G, R."""
    published = ov.Core().read_model(path)
    rows = published.output("boxes").get_node().input_value(0)
    labels = published.output("labels").get_node().input_value(0)
    batch = op.constant(0, np.int64)
    parts = op.variadic_split(rows, op.constant(1, np.int64), op.constant([4, 1], np.int64))
    scores = op.squeeze(parts.output(1), op.constant([1], np.int64))
    numbers = op.convert(labels, "f32")
    results = []
    for output, value in zip(OUTPUTS, (parts.output(0), scores, numbers), strict=True):
        node = op.unsqueeze(value, batch)
        node.output(0).set_names({output})
        results.append(op.result(node))
    model = ov.Model(results, published.get_parameters(), name)
    model.inputs[0].get_tensor().set_names({"picture"})
    prepost = PrePostProcessor(model)
    picture = prepost.input()
    picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.model().set_layout(ov.Layout("NCHW"))
    return prepost.build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of Intel's models")
    folder = parser.parse_args().folder
    for name, published in NETWORKS.items():
        path = FOLDER / f"{name}-int8.xml"
        ov.save_model(convert(verified(folder, published), name), path, compress_to_fp16=False)
        print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
