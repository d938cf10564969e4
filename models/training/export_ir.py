"""Conversion of the torch modules to OpenVINO; writes `weights/*.xml` (needs the `train` extra).

    python -m framegate.models.training.export_ir

The network files take uint8 NHWC in the order B, G, R with any height and width that are multiples
of 32; normalisation is inside, weights are float16.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn

from framegate.models.errors import ArrayMismatch
from framegate.models.picture import STEP
from framegate.models.quantisation.int8 import halve_exact_constants
from framegate.models.training.student import Student, general
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
OUTPUTS = {"nanodet": ("head8", "head16", "head32", "c3", "p4")}
HEADS: Final = OUTPUTS["nanodet"][:3]  # the outputs with boxes


def torch_model(name: str, weights: Path = WEIGHTS) -> nn.Module:
    """Return the torch module `name` with its committed weights in float32, in evaluation mode."""
    return general(weights / f"{name}.safetensors")


def convert(name: str) -> ov.Model:
    """Return the OpenVINO model of `name`, with the input `picture` and named outputs."""
    return convert_file(name, WEIGHTS / f"{name}.safetensors")


def convert_file(name: str, file: Path) -> ov.Model:
    """Return the OpenVINO model of `name` with the weights of a safetensors file."""
    return ir_of(general(file), OUTPUTS[name])


def ir_of(module: nn.Module, outputs: Sequence[str]) -> ov.Model:
    """Convert a module with the input float (1, 3, H, W) to a model that takes a picture."""
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


def export(net: Student, size: tuple[int, int] | None = None) -> ov.Model:
    """Convert a student: uint8 (1, H, W, 3) in the order B, G, R, to head8, head16, head32.

    Each is float32 (1, classes + 44, H/stride, W/stride): registry format `nanodet`.

    size  (width, height) of its input; None: any multiples of 32, also for parts of pictures

    Raises ArrayMismatch.
    """
    model = ir_of(_Heads(copy.deepcopy(net).eval()), HEADS)
    if size is not None:
        if any(side < STEP or side % STEP for side in size):
            raise ArrayMismatch("size", f"multiples of {STEP}", f"{size}")
        model.reshape([1, size[1], size[0], 3])
    return model


class _Heads(nn.Module):
    """A student without the outputs c3 and p4."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        head8, head16, head32, *_ = self.net(x)
        return head8, head16, head32


def main() -> None:
    for name in OUTPUTS:
        path = WEIGHTS / f"{name}.xml"
        ov.save_model(halve_exact_constants(convert(name)), path, compress_to_fp16=False)
        print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
