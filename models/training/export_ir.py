"""Makes `weights/*.xml` and `.bin` from the safetensors files (needs the `train` extra).

    python -m framegate.models.training.export_ir

The network files take uint8 NHWC in the order B, G, R with any height and width that are multiples
of 32; normalisation is inside, weights are float16.
"""

from collections.abc import Sequence
from pathlib import Path

import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor
from safetensors.torch import load_file
from torch import nn

from framegate.models.quantisation.int8 import halve_exact_constants
from framegate.models.training.centernet import CenterNet
from framegate.models.training.nanodet import NanoDet
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
OUTPUTS = {
    "nanodet": ("head8", "head16", "head32", "c3", "p4"),
    "centernet": ("heat", "sides"),
}


def torch_model(name: str, weights: Path = WEIGHTS) -> nn.Module:
    """The torch module `name` with its committed weights in float32, in evaluation mode."""
    return _module(name, weights / f"{name}.safetensors")


def convert(name: str) -> ov.Model:
    """The OpenVINO model of `name`: input `picture`, named outputs."""
    return convert_file(name, WEIGHTS / f"{name}.safetensors")


def convert_file(name: str, file: Path) -> ov.Model:
    """The same with weights from any safetensors file of that module."""
    return ir_of(_module(name, file), OUTPUTS[name])


def ir_of(module: nn.Module, outputs: Sequence[str]) -> ov.Model:
    """A module that takes float (1, 3, H, W) as one that takes a picture; its outputs, named."""
    with torch.no_grad():
        model = ov.convert_model(
            module, example_input=torch.zeros(1, 3, 96, 128), input=[1, 3, -1, -1]
        )
    for port, output in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({output})
    model.inputs[0].get_tensor().set_names({"picture"})
    prepost = PrePostProcessor(model)
    prepost.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    prepost.input().model().set_layout(ov.Layout("NCHW"))
    return prepost.build()


def _module(name: str, file: Path) -> nn.Module:
    module: nn.Module = {"nanodet": NanoDet, "centernet": CenterNet}[name]()
    module.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    return module.eval()


def main() -> None:
    for name in OUTPUTS:
        path = WEIGHTS / f"{name}.xml"
        ov.save_model(halve_exact_constants(convert(name)), path, compress_to_fp16=False)
        print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
