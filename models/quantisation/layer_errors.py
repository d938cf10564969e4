"""Which layers of a network suffer from 8 bits: the noise that each one adds, and what adds up.

A layer here is an operation that computes on quantised numbers: convolutions and matrix products,
sums, products and joins between them. One that only moves numbers belongs to what reads them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino.utils.node_factory import NodeFactory

from framegate.models.detector.network import config, core
from framegate.models.picture import ByteArray

_OPSET = "opset13"
_MOST_DB = 120.0  # as good as exact: float32 itself is not better
_CONSTANT_PARTS = ("Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize")
_MOVERS = (
    "Transpose",
    "Reshape",
    "MaxPool",
    "Pad",
    "Slice",
    "StridedSlice",
    "Squeeze",
    "Unsqueeze",
)
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerError:
    """One layer's signal-to-quantisation-noise ratios, decibels: 10 more is a tenth of the noise.

    own_db      of its output when it alone is quantised, on exact inputs
    total_db    of its output in the quantised network: what all before it have added, too
    """

    name: str
    kind: str
    own_db: float
    total_db: float


def layer_errors(
    model: ov.Model, quantised: ov.Model, inputs: Sequence[ByteArray]
) -> list[LayerError]:
    """Every layer's, the one that adds most noise first.

    quantised   what `int8.quantised` made of `model`
    inputs      uint8 (1, H, W, 3); a few tell as much as many

    One pass of each network over the inputs, with the layers' tensors as more outputs.
    """
    exact = model.clone()
    floats = {node.get_friendly_name(): node for node in exact.get_ops()}
    layers = [node for node in _layers(quantised) if node.get_friendly_name() in floats]
    same = [floats[node.get_friendly_name()] for node in layers]
    alone = [_quantised_alone(ours, theirs) for ours, theirs in zip(same, layers, strict=True)]
    kept = [output for a, b in zip(same, alone, strict=True) for output in (a, b, _sum_of(a))]
    with_all = [_sum_of(node) for node in layers]
    own, total, signal = (np.zeros(len(layers)) for _ in range(3))
    runs = zip(_run(exact, kept, inputs), _run(quantised, with_all, inputs), strict=True)
    for outputs, after in runs:
        for i, (plain, noisy, summed) in enumerate(_threes(outputs)):
            signal[i] += _energy(summed)
            own[i] += _energy(plain - noisy)
            total[i] += _energy(summed - after[i])
    rows = zip(layers, _decibels(signal, own), _decibels(signal, total), strict=True)
    found = [LayerError(n.get_friendly_name(), n.get_type_name(), *db) for n, *db in rows]
    return sorted(found, key=lambda one: one.own_db)


def _layers(quantised: ov.Model) -> list[Any]:
    """Operations with a quantised input, in the order of computation."""
    return [
        node
        for node in quantised.get_ordered_ops()
        if node.get_type_name() not in ("FakeQuantize", *_MOVERS)
        and any(_is_quantised(_source(port)) for port in node.inputs())
    ]


def _is_quantised(node: Any) -> bool:
    if node.get_type_name() in _MOVERS:
        return _is_quantised(_source(node.input(0)))
    return bool(node.get_type_name() == "FakeQuantize")


def _quantised_alone(ours: Any, theirs: Any) -> Any:
    """A copy of `theirs` on the exact inputs of `ours`, quantised on their way in."""
    inputs = [_like(a, b) for a, b in zip(ours.inputs(), theirs.inputs(), strict=True)]
    return NodeFactory(_OPSET).create(theirs.get_type_name(), inputs, theirs.get_attributes())


def _like(ours: Any, theirs: Any) -> Any:
    exact, node = ours.get_source_output(), _source(theirs)
    if _is_constant(node):
        return theirs.get_source_output()
    if node.get_type_name() == "FakeQuantize":
        ranges = [port.get_source_output() for port in node.inputs()[1:]]
        kind, attributes = node.get_type_name(), node.get_attributes()
        return NodeFactory(_OPSET).create(kind, [exact, *ranges], attributes).output(0)
    if not _is_quantised(node):
        return exact
    return _quantised_alone(exact.get_node(), node).output(exact.get_index())


def _is_constant(node: Any) -> bool:
    if node.get_type_name() == "Constant":
        return True
    parts = node.get_type_name() in _CONSTANT_PARTS
    return parts and _is_constant(_source(node.input(0)))


def _source(port: Any) -> Any:
    return port.get_source_output().get_node()


def _sum_of(node: Any) -> Any:
    """The layer's output with its bias: NNCF corrects biases for the noise before them."""
    followers = list(node.output(0).get_target_inputs())
    if "Convolution" in node.get_type_name() and len(followers) == 1:
        after = followers[0].get_node()
        if after.get_type_name() == "Add":
            return after
    return node


def _run(
    model: ov.Model, nodes: Sequence[Any], inputs: Sequence[ByteArray]
) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Outputs of `nodes` for each input, by float arithmetic on the quantised numbers.

    OpenVINO's own integers are no measure here: with tensors taken out between two layers its
    CPU plugin (2026.4, AVX2) gave numbers that it does not give for the network as it is.
    """
    asked = ov.Model([node.output(0) for node in nodes], model.get_parameters())
    exactly = config("f32", threads=2) | {"LP_TRANSFORMS_MODE": False}
    request = core().compile_model(asked, "CPU", exactly).create_infer_request()
    for one in inputs:
        request.infer([one])
        yield [tensor.data for tensor in request.output_tensors]


def _threes(outputs: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(outputs[::3], outputs[1::3], outputs[2::3], strict=True)


def _energy(values: npt.NDArray[np.float32]) -> float:
    flat = values.astype(np.float64).ravel()
    return float(flat @ flat)


def _decibels(signal: Sums, noise: Sums) -> list[float]:
    """At most 120; 0 for a layer that says nothing at all."""
    floor = np.maximum(noise, signal * 10 ** (-_MOST_DB / 10))
    ratio = np.divide(signal, floor, out=np.ones_like(signal), where=signal > 0)
    return [float(db) for db in 10 * np.log10(ratio)]
