"""The network file of a model folder: pre-processing inside, named float32 outputs.

It runs apart (see `convert_apart`).
"""

from collections.abc import Sequence
from typing import Any

import openvino as ov
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor

from framegate.models.conversion.foreign_network import RAW
from framegate.models.quantisation.halve import halve_exact_constants

INPUT = "picture"


def build(
    outputs: Sequence[dict[str, Any]],
    colour: str,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
    file: str,
) -> dict[str, Any]:
    """Writes `file` from `raw.xml`.

    outputs  `index` in the raw network, `name` to be, `rank` without the batch axis

    The answer: types of the raw network's outputs that became float32.
    """
    model = ov.Core().read_model(RAW)
    ports = [_output(model.output(one["index"]), one["rank"]) for one in outputs]
    model = ov.Model(ports, model.get_parameters())
    model = _with_preprocessing(model, colour, scale, mean, std)
    for port, one in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({one["name"]})
    model.input(0).get_tensor().set_names({INPUT})
    ov.save_model(halve_exact_constants(model), file, compress_to_fp16=False)
    return {"outputs": [str(port.get_partial_shape()) for port in model.outputs]}


def _output(port: Any, rank: int) -> Any:
    """As float32, with a batch axis in front of its `rank` own ones."""
    port = port.get_node().input_value(0)  # what the result node is given
    if port.get_element_type() != ov.Type.f32:
        port = opset13.convert(port, ov.Type.f32).output(0)
    if port.get_partial_shape().rank.get_length() == rank:
        port = opset13.unsqueeze(port, opset13.constant([0], ov.Type.i64)).output(0)
    return port


def _with_preprocessing(
    model: ov.Model, colour: str, scale: float, mean: Sequence[float], std: Sequence[float]
) -> ov.Model:
    shape = model.input(0).get_shape()
    prepost = PrePostProcessor(model)
    picture = prepost.input()
    picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.tensor().set_color_format(ColorFormat.BGR)
    picture.model().set_layout(ov.Layout("NCHW" if shape[1] == 3 else "NHWC"))
    steps = picture.preprocess()
    steps.convert_element_type(ov.Type.f32)
    if colour == "rgb":
        steps.convert_color(ColorFormat.RGB)
    if scale != 1:
        steps.scale(1 / scale)  # OpenVINO divides by it
    if any(mean):
        steps.mean(list(mean))
    if any(one != 1 for one in std):
        steps.scale(list(std))
    return prepost.build()
