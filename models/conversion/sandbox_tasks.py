"""Tasks of the sandbox that need OpenVINO: read a foreign network, build the network file, run it.

Each task works in the current folder and returns data for JSON:

read   the foreign file -> raw.xml, the network with a fixed input
build  raw.xml -> the network file of a model folder, with pre-processing inside
run    that file and pictures -> the network's outputs as .npy
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor

from framegate.models.errors import ModelRefused
from framegate.models.formats.shared_decoding import Size
from framegate.models.quantisation.int8 import halve_exact_constants

RAW = "raw.xml"
_METADATA = ("names", "stride", "imgsz", "task", "author", "description", "license", "version",
             "end2end")  # fmt: skip
_NO_TORCH = (
    "needs torch to be read: in Framegate's checkout, pip install '.[train]' (or make extras)"
)

# -- read


def read(file: Path, kind: str, size: Sequence[int] | None) -> dict[str, Any]:
    """Write `raw.xml`, and describe the network.

    kind  of `file_kind.kind_of`
    size  (width, height) of the input if the file leaves it open, or instead of the file's

    The answer has `size`, `outputs` (name, shape, type; None is an open axis), `metadata` and
    `is_quantised`; only `size` None if a size is needed and unknown. Raises ModelRefused.
    """
    requested: Size | None = None
    if size:
        requested = (size[0], size[1])
    model = _READERS[kind](file, requested)
    if model is None:
        return {"size": None}
    metadata = _metadata(model)
    if len(model.inputs) != 1:
        names = ", ".join(_name(port, "?") for port in model.inputs)
        raise ModelRefused(
            file, f"it has {len(model.inputs)} inputs ({names}); only one, a picture, is allowed"
        )
    _add_batch_axis(model)
    fixed = _fix_input(file, model, requested or _exported_size(metadata))
    if fixed is None:
        return {"size": None}
    ov.save_model(model, RAW, compress_to_fp16=False)
    return {
        "size": fixed,
        "outputs": [_port(port, f"output{i}") for i, port in enumerate(model.outputs)],
        "metadata": metadata,
        "is_quantised": any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()),
    }


def _metadata(model: ov.Model) -> dict[str, str]:
    metadata = {}
    for key in _METADATA:
        with suppress(RuntimeError):
            metadata[key] = model.get_rt_info(["framework", key]).astype(str)[:20_000]
    return metadata


def _exported_size(metadata: Mapping[str, str]) -> Size | None:
    """Return (width, height) of the `imgsz` of Ultralytics; None: not given."""
    try:
        height, width = ast.literal_eval(metadata["imgsz"])
        return int(width), int(height)
    except (KeyError, ValueError, TypeError, SyntaxError):
        return None


def _onnx(file: Path, _: Size | None) -> ov.Model:
    return ov.Core().read_model(file)


def _torchscript(file: Path, size: Size | None) -> ov.Model | None:
    torch = _torch(file)
    if size is None:
        return None
    module = torch.jit.load(str(file), map_location="cpu").eval()
    example = torch.zeros(1, 3, size[1], size[0])
    with torch.no_grad():
        return ov.convert_model(module, example_input=example, input=list(example.shape))


def _export(file: Path, _: Size | None) -> ov.Model:
    torch = _torch(file)
    program = torch.export.load(str(file))
    names = program.graph_signature.user_inputs
    shapes = [list(node.meta["val"].shape) for node in program.graph.nodes if node.name in names]
    # OpenVINO leaves all axes open, even those that the program has fixed. -1 is an open axis.
    for shape in shapes:
        shape[:] = [axis if isinstance(axis, int) else -1 for axis in shape]
    return ov.convert_model(program, input=shapes)


def _torch(file: Path) -> Any:
    try:
        import torch
    except ImportError as missing:
        raise ModelRefused(file, _NO_TORCH) from missing
    return torch


_READERS: dict[str, Callable[[Path, Size | None], ov.Model | None]] = {
    "onnx": _onnx,
    "ir": _onnx,
    "torchscript": _torchscript,
    "export": _export,
}


def _add_batch_axis(model: ov.Model) -> None:
    """Add a batch axis to an input that is a picture without it."""
    old = model.get_parameters()[0]
    shape = old.get_partial_shape()
    if shape.rank.is_dynamic or shape.rank.get_length() != 3:
        return
    new = opset13.parameter(ov.PartialShape([1, *shape]), old.get_element_type())
    new.output(0).get_tensor().set_names(old.output(0).get_names() or {"picture"})
    squeezed = opset13.squeeze(new, opset13.constant([0], ov.Type.i64))
    old.output(0).replace(squeezed.output(0))
    model.add_parameters([new])
    model.remove_parameter(old)
    model.validate_nodes_and_infer_types()


def _fix_input(file: Path, model: ov.Model, size: Size | None) -> Size | None:
    """Fix every open axis of the input, and return its (width, height); None: size unknown."""
    shape = model.input(0).get_partial_shape()
    if shape.rank.is_dynamic or shape.rank.get_length() != 4:
        raise ModelRefused(file, f"its input is {shape}; allowed is a picture [1, 3, H, W]")
    axes = _axes(shape)
    is_nhwc = axes[1] != 3 and axes[3] == 3
    channels, down, across = 1, 2, 3
    if is_nhwc:
        channels, down, across = 3, 1, 2
    if axes[0] not in (None, 1) or axes[channels] not in (None, 3):
        raise ModelRefused(file, f"its input is {shape}; allowed is a picture with 3 channels")
    width, height = size or (axes[across], axes[down])
    if width is None or height is None:
        return None
    fixed = [1, 3, height, width]
    if is_nhwc:
        fixed = [1, height, width, 3]
    try:
        model.reshape(ov.PartialShape(fixed))
    except RuntimeError as fault:
        why = f"it does not work on {width}x{height} pixels"
        raise ModelRefused(file, f"{why} ({str(fault).splitlines()[-1][:200]})") from fault
    return width, height


def _axes(shape: ov.PartialShape) -> list[int | None]:
    return [axis.get_length() if axis.is_static else None for axis in shape]


def _port(port: Any, default_name: str) -> dict[str, Any]:
    shape = port.get_partial_shape()
    axes = None
    if shape.rank.is_static:
        axes = _axes(shape)
    return {
        "name": _name(port, default_name),
        "shape": axes,
        "type": port.get_element_type().to_string(),
    }


def _name(port: Any, default: str) -> str:
    """Return the shortest printable name; a network may have several names for an output."""
    names = [name for name in port.get_names() if name.isprintable() and len(name) <= 64]
    return min(sorted(names), key=len, default=default)


# -- build


INPUT = "picture"


def build(
    outputs: Sequence[dict[str, Any]],
    colour: str,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
    file: str,
) -> dict[str, Any]:
    """Write `file` from `raw.xml`, with the input uint8 (1, H, W, 3) in the order B, G, R.

    outputs  `index` in the raw network, new `name`, `rank` without the batch axis
    colour, scale, mean, std   of the original network; see InputSpec

    The outputs of the file are float32; the answer is empty.
    """
    model = ov.Core().read_model(RAW)
    ports = [_output(model.output(output["index"]), output["rank"]) for output in outputs]
    model = ov.Model(ports, model.get_parameters())
    model = _with_preprocessing(model, colour, scale, mean, std)
    for port, output in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({output["name"]})
    model.input(0).get_tensor().set_names({INPUT})
    ov.save_model(halve_exact_constants(model), file, compress_to_fp16=False)
    return {}


def _output(port: Any, rank: int) -> Any:
    """Return an output as float32, with a batch axis before its `rank` axes."""
    port = port.get_node().input_value(0)  # the input of the result node
    if port.get_element_type() != ov.Type.f32:
        port = opset13.convert(port, ov.Type.f32).output(0)
    if port.get_partial_shape().rank.get_length() == rank:
        port = opset13.unsqueeze(port, opset13.constant([0], ov.Type.i64)).output(0)
    return port


def _with_preprocessing(
    model: ov.Model, colour: str, scale: float, mean: Sequence[float], std: Sequence[float]
) -> ov.Model:
    layout = "NHWC"
    if model.input(0).get_shape()[1] == 3:
        layout = "NCHW"
    prepost = PrePostProcessor(model)
    picture = prepost.input()
    picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.tensor().set_color_format(ColorFormat.BGR)
    picture.model().set_layout(ov.Layout(layout))
    steps = picture.preprocess()
    steps.convert_element_type(ov.Type.f32)
    if colour == "rgb":
        steps.convert_color(ColorFormat.RGB)
    if scale != 1:
        steps.scale(1 / scale)  # OpenVINO divides by it
    if any(mean):
        steps.mean(list(mean))
    if any(level != 1 for level in std):
        steps.scale(list(std))
    return prepost.build()


# -- run


def run(file: str, outputs: Sequence[str], pictures: Sequence[str]) -> dict[str, Any]:
    """Write the outputs as `<precision>-<picture>-<output>.npy`, float32 without the batch axis.

    pictures  .npy files, uint8 (H, W, 3) in the size of the network's input

    The answer has `ms`: the duration of the last picture on one thread, at each precision that this
    CPU supports. Raises ModelRefused for outputs that are not finite, or not float32 with a batch
    of 1.
    """
    core = ov.Core()
    model = core.read_model(file)
    precisions = ["f32"]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions.append("bf16")
    ms: dict[str, float] = {}
    for precision in precisions:
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
        request = core.compile_model(model, "CPU", options).create_infer_request()
        for i, picture in enumerate(pictures):
            bgr = np.load(picture, allow_pickle=False)
            start = time.perf_counter()
            request.infer([bgr[None]])
            ms[precision] = (time.perf_counter() - start) * 1e3
            for j, name in enumerate(outputs):
                np.save(f"{precision}-{i}-{j}.npy", _checked(file, name, request, precision))
    return {"ms": ms}


def _checked(file: str, name: str, request: Any, precision: str) -> Any:
    data = request.get_tensor(name).data
    if data.ndim < 2 or data.shape[0] != 1 or data.dtype != np.float32:
        why = f"output {name} is {data.dtype} {data.shape}; allowed is float32 with a batch of 1"
        raise ModelRefused(file, why)
    if not np.isfinite(data).all():
        n = int((~np.isfinite(data)).sum())
        why = f"output {name} has {n} of {data.size} numbers that are NaN or infinite ({precision})"
        raise ModelRefused(file, f"{why}; are scale, mean and std right?")
    return data[0]
