"""Makes `weights/*.xml` and `.bin` from the safetensors files (needs the `train` extra).

    python -m models.export_ir

The network files take uint8 NHWC in the order B, G, R with any height and width that are multiples
of 32; normalisation is inside, weights are float16.
"""

from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino import opset13
from openvino.preprocess import PrePostProcessor
from safetensors.torch import load_file
from torch import nn

from models.centernet import CenterNet
from models.nanodet import NanoDet

WEIGHTS = Path(__file__).parent / "weights"
OUTPUTS = {
    "nanodet": ("head8", "head16", "head32", "c3", "p4"),
    "centernet": ("heat", "sides"),
}


def torch_model(name: str, weights: Path = WEIGHTS) -> nn.Module:
    """The torch module `name` with its committed weights in float32, in evaluation mode."""
    module: nn.Module = {"nanodet": NanoDet, "centernet": CenterNet}[name]()
    state = load_file(weights / f"{name}.safetensors")
    module.load_state_dict({key: value.float() for key, value in state.items()})
    return module.eval()


def convert(name: str) -> ov.Model:
    """The OpenVINO model of `name`: input `picture`, named outputs."""
    with torch.no_grad():
        model = ov.convert_model(
            torch_model(name), example_input=torch.zeros(1, 3, 96, 128), input=[1, 3, -1, -1]
        )
    for port, output in zip(model.outputs, OUTPUTS[name], strict=True):
        port.get_tensor().set_names({output})
    model.inputs[0].get_tensor().set_names({"picture"})
    prepost = PrePostProcessor(model)
    prepost.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    prepost.input().model().set_layout(ov.Layout("NCHW"))
    return prepost.build()


def halve_exact_constants(model: ov.Model) -> ov.Model:
    """Stores as float16 every constant that loses nothing by it: the weights, not the mean.

    OpenVINO's own compression rounds the mean and the deviation too, which moves class logits by
    up to .002.
    """
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        values = node.get_data()
        half = values.astype(np.float16)
        if values.size > 1 and (half.astype(np.float32) == values).all():
            smaller = opset13.convert(opset13.constant(half), ov.Type.f32)
            node.output(0).replace(smaller.output(0))
    return model


def main() -> None:
    for name in OUTPUTS:
        path = WEIGHTS / f"{name}.xml"
        ov.save_model(halve_exact_constants(convert(name)), path, compress_to_fp16=False)
        print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
