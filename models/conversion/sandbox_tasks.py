"""Tasks of the sandbox that need OpenVINO: read a foreign network, build our file of it, run it.

Each works in the current folder, which is the sandbox's, and gives plain data that JSON takes:

read   the foreign file -> raw.xml, the network with a fixed input
build  raw.xml -> the network file of a model folder, pre-processing inside
run    that file and pictures -> the network's outputs as .npy
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor

from framegate.models.errors import ModelRefused
from framegate.models.formats.decoding import Size
from framegate.models.quantisation.int8 import halve_exact_constants

RAW = "raw.xml"
_METADATA = ("names", "stride", "imgsz", "task", "author", "description", "license", "version",
             "end2end")  # fmt: skip
_NO_TORCH = (
    "needs torch to be read: in Framegate's checkout, pip install '.[train]' (or make extras)"
)

# -- read


def read(file: Path, kind: str, size: Sequence[int] | None) -> dict[str, Any]:
    """Write `raw.xml`; give what the network takes and gives.

    kind  of `file_kind.kind_of`
    size  (width, height) where the file leaves it open, or for another one

    Gives `size`, or only that as None where a size is needed and not known; `input` and `outputs`
    (name, shape, type), `metadata`, `is_quantised`. An axis that stays open is None. Raises
    ModelRefused.
    """
    wanted: Size | None = (size[0], size[1]) if size else None
    model = _READERS[kind](file, wanted)
    if model is None:
        return {"size": None}
    told = metadata(model)
    if len(model.inputs) != 1:
        names = ", ".join(_name(port, "?") for port in model.inputs)
        raise ModelRefused(
            file, f"it has {len(model.inputs)} inputs ({names}); allowed is one picture"
        )
    _with_batch(model)
    fixed = _fix(file, model, wanted or _size_told(told))
    if fixed is None:
        return {"size": None}
    ov.save_model(model, RAW, compress_to_fp16=False)
    return {
        "size": fixed,
        "input": _port(model.input(0), "picture"),
        "outputs": [_port(port, f"output{i}") for i, port in enumerate(model.outputs)],
        "metadata": told,
        "is_quantised": any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()),
    }


def metadata(model: ov.Model) -> dict[str, str]:
    """Return what the exporter wrote beside the network, as text."""
    told = {}
    for key in _METADATA:
        try:
            told[key] = model.get_rt_info(["framework", key]).astype(str)[:20_000]
        except RuntimeError:
            continue
    return told


def _size_told(told: Mapping[str, str]) -> Size | None:
    """Ultralytics' `imgsz`: height and width."""
    try:
        height, width = ast.literal_eval(told["imgsz"])
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
    # OpenVINO leaves all axes open, even those that the program has fixed.
    told = [[axis if isinstance(axis, int) else -1 for axis in shape] for shape in shapes]
    return ov.convert_model(program, input=told)


def _own(name: str) -> Callable[[Path, Size | None], ov.Model]:
    def convert(file: Path, _: Size | None) -> ov.Model:
        _torch(file)
        from framegate.models.training.export_ir import OUTPUTS, convert_file

        model = convert_file(name, file)
        ports = [model.output(port) for port in OUTPUTS[name][:3]]
        return ov.Model(ports, model.get_parameters())

    return convert


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
    "nanodet": _own("nanodet"),
    "centernet": _own("centernet"),
}


def _with_batch(model: ov.Model) -> None:
    """A network that takes one picture without a batch axis gets one."""
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


def _fix(file: Path, model: ov.Model, size: Size | None) -> Size | None:
    """The size of the input, (width, height), after every open axis of it was fixed."""
    shape = model.input(0).get_partial_shape()
    if shape.rank.is_dynamic or shape.rank.get_length() != 4:
        raise ModelRefused(file, f"its input is {shape}; allowed is a picture [1, 3, H, W]")
    axes = [axis.get_length() if axis.is_static else None for axis in shape]
    channels = 1 if axes[1] == 3 or axes[3] != 3 else 3
    down, across = (2, 3) if channels == 1 else (1, 2)
    if axes[0] not in (None, 1) or axes[channels] not in (None, 3):
        raise ModelRefused(file, f"its input is {shape}; allowed is one picture of 3 channels")
    width, height = axes[across], axes[down]
    wanted = size or (None if width is None or height is None else (width, height))
    if wanted is None:
        return None
    axes[0], axes[channels], axes[across], axes[down] = 1, 3, wanted[0], wanted[1]
    try:
        model.reshape(ov.PartialShape(axes))
    except RuntimeError as fault:
        why = f"it does not work on {wanted[0]}x{wanted[1]} pixels"
        raise ModelRefused(file, f"{why} ({str(fault).splitlines()[-1][:200]})") from fault
    return wanted


def _port(port: Any, name: str) -> dict[str, Any]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return {
            "name": _name(port, name),
            "shape": None,
            "type": port.get_element_type().to_string(),
        }
    return {
        "name": _name(port, name),
        "shape": [axis.get_length() if axis.is_static else None for axis in shape],
        "type": port.get_element_type().to_string(),
    }


def _name(port: Any, otherwise: str) -> str:
    """The shortest name that people can read; a network may have several for one output."""
    names = sorted((n for n in port.get_names() if n.isprintable() and len(n) <= 64), key=len)
    return names[0] if names else otherwise


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
    """Write `file` from `raw.xml`: input uint8 (1, H, W, 3) in the order B, G, R.

    outputs  `index` in the raw network, `name` to be, `rank` without the batch axis
    colour, scale, mean, std   what the original network takes, as InputSpec has them

    Gives the shapes of the outputs, which are float32.
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


# -- run


def run(file: str, outputs: Sequence[str], pictures: Sequence[str]) -> dict[str, Any]:
    """Write `<precision>-<picture>-<output>.npy` for each, float32 without the batch axis.

    pictures  .npy files, uint8 (H, W, 3) of the network's input

    Gives milliseconds of the last picture at each precision that this CPU has, on one thread.
    Raises ModelRefused for outputs that are not finite, or not float32 with a batch of 1.
    """
    core = ov.Core()
    model = core.read_model(file)
    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    taken: dict[str, float] = {}
    for precision in ("f32", "bf16") if "BF16" in abilities else ("f32",):
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
        request = core.compile_model(model, "CPU", options).create_infer_request()
        for i, picture in enumerate(pictures):
            bgr = np.load(picture, allow_pickle=False)
            start = time.perf_counter()
            request.infer([bgr[None]])
            taken[precision] = (time.perf_counter() - start) * 1e3
            for j, name in enumerate(outputs):
                np.save(f"{precision}-{i}-{j}.npy", _checked(file, name, request, precision))
    return {"ms": taken}


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
