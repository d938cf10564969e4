"""A float network as one in 8 bits, and which layers stay float (needs the `train` extra: NNCF)."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13
from openvino.utils.node_factory import NodeFactory

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.detector.network import config, core
from framegate.models.errors import NotInstalled, NotQuantised
from framegate.models.matching import Interval, agreement
from framegate.models.picture import ByteArray


def installed_nncf() -> Any:
    """Return the NNCF module. Raises NotInstalled."""
    try:
        import nncf
    except ImportError as fault:
        raise NotInstalled("nncf", "train", "to quantise a model") from fault
    return nncf


def quantised(
    model: ov.Model,
    inputs: Sequence[ByteArray],
    *,
    float_layers: Sequence[str] = (),
    weight_bits: Literal[7, 8] = 7,
    accurate_bias: bool = False,
) -> ov.Model:
    """Return `model` with weights and activations of 8 bits, its ranges taken from `inputs`.

    inputs         uint8 (1, H, W, 3) as the network takes them, at least one
    float_layers   names of operations that stay as they are
    weight_bits    7: half of the range of int8. A CPU without VNNI adds two products in 16 bits,
                   which 8-bit weights overflow, without a word. 8: only for a network that was
                   measured on such a CPU
    accurate_bias  slower, layer after layer; for some networks better

    Raises NotInstalled, NotQuantised. `model` is left as it was.
    """
    nncf = installed_nncf()
    fix = nncf.OverflowFix.ENABLE if weight_bits == 7 else nncf.OverflowFix.FIRST_LAYER
    scope = nncf.IgnoredScope(names=list(float_layers)) if float_layers else None
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.quantize(
                model,
                nncf.Dataset(list(inputs)),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
                fast_bias_correction=not accurate_bias,
                ignored_scope=scope,
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
            )
    except Exception as fault:  # NNCF raises any exception for a network that it does not know
        raise NotQuantised(f"{type(fault).__name__}: {fault}") from fault


# -- Layers of a quantised network that stay float, chosen by their effect on its answers.


ReadOutputs = Callable[[Sequence[FloatArray]], Boxes]

# Shares of the layers; past a third nothing is left of the gain.
SHARES = (0.0, 0.05, 0.15, 0.35)
_N_LOOKED_AT = 4  # inputs for the layers' errors, which hold every layer's tensors at once
_ROUNDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedNetwork:
    """One quantised network.

    float_layers   that were left as they are, the noisiest ones
    agreement      F1 of its boxes against the float network's on the frames that judge
    """

    model: ov.Model
    float_layers: tuple[str, ...]
    agreement: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The candidates in the order in which they were tried, and the layers' errors."""

    candidates: tuple[QuantisedNetwork, ...]
    errors: tuple[LayerError, ...]
    least: float

    @property
    def best(self) -> QuantisedNetwork:
        """The network whose agreement has the highest lower end."""
        return max(self.candidates, key=lambda one: one.agreement.low)

    @property
    def accepted(self) -> QuantisedNetwork | None:
        """The best network if it agrees enough; otherwise None."""
        return self.best if self.best.agreement.low >= self.least else None


def choose(
    model: ov.Model,
    calibrating: Sequence[ByteArray],
    judging: Sequence[ByteArray],
    decode: ReadOutputs,
    least: float,
    shares: Sequence[float] = SHARES,
    on_candidate: Callable[[QuantisedNetwork], None] = lambda _: None,
    begin: Callable[[str], None] = lambda _: None,
) -> Chosen:
    """Quantise `model`, with more and more of its noisiest layers float, until it agrees enough.

    The first share is tried in any case: a few noisy layers, such as the arithmetic of boxes at the
    end, cost no time as floats, and their noise may be too small for overlaps of a half to show.

    calibrating, judging   uint8 (1, H, W, 3), two sets that share no frame
    decode   outputs without their batch axis -> boxes that a user would see
    least    0..1, which the lower end of the agreement's 95 % interval must reach
    shares   of the layers that stay float, ascending, the first 0
    on_candidate  called with each candidate
    begin    called with the name of each long step as it begins

    Raises NotInstalled, NotQuantised, and ValueError without judging frames.
    """
    if not judging:
        raise ValueError("no frames to judge on")
    begin("looking with the float model")
    expected = list(answers(model, judging, decode))

    def tried(names: Sequence[str]) -> QuantisedNetwork:
        begin(f"quantising, {len(names)} layers float")
        small = quantised(model, calibrating, float_layers=names)
        begin(f"looking with the INT8 model, {len(names)} layers float")
        found = list(answers(small, judging, decode))
        candidate = QuantisedNetwork(small, tuple(names), agreement(found, expected))
        on_candidate(candidate)
        return candidate

    candidates = [tried(())]
    errors = layer_errors(model, candidates[0].model, calibrating[:_N_LOOKED_AT])
    for n_float in _counts(len(errors), shares[1:]):
        if len(candidates) > 1 and candidates[-1].agreement.low >= least:
            break
        candidates.append(tried([one.name for one in errors[:n_float]]))
    return Chosen(tuple(candidates), tuple(errors), least)


def _counts(n_layers: int, shares: Sequence[float]) -> list[int]:
    """Return ascending numbers of layers, none twice."""
    return sorted({math.ceil(share * n_layers) for share in shares})


def answers(
    model: ov.Model, inputs: Sequence[ByteArray], decode: ReadOutputs, precision: Any = "f32"
) -> Iterator[Boxes]:
    """Yield the boxes of each input, uint8 (1, H, W, 3)."""
    request = _request(model, threads=2, precision=precision)
    for one in inputs:
        request.infer([one])
        yield decode([tensor.data[0] for tensor in request.output_tensors])


def times(models: Sequence[ov.Model], one: ByteArray, threads: int = 1) -> list[float]:
    """Return median milliseconds of an inference of each model.

    They run in turn, so that a change of load affects all alike.
    """
    requests = [_request(model, threads) for model in models]
    taken = np.zeros((_ROUNDS + 2, len(requests)))
    for row in taken:
        for i, request in enumerate(requests):
            start = time.perf_counter()
            request.infer([one])
            row[i] = (time.perf_counter() - start) * 1e3
    return [statistics.median(column) for column in taken[2:].T.tolist()]


def weight_bytes(model: ov.Model) -> int:
    """Return the number of bytes of the constants in the file of a network."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return sum(node.get_byte_size() for node in constants)


def _request(model: ov.Model, threads: int, precision: Any = "f32") -> Any:
    return core().compile_model(model, "CPU", config(precision, threads)).create_infer_request()


# -- Weights as float16 where nothing is lost by it.


def halve_exact_constants(model: ov.Model) -> ov.Model:
    """Store every constant that loses nothing by it as float16: the weights, not the mean.

    OpenVINO's own compression rounds the mean and the deviation too, which moves class logits by
    up to .002.
    """
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        values = node.get_data()
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.astype(np.float16)
        if values.size > 1 and (half.astype(np.float32) == values).all():
            smaller = opset13.convert(opset13.constant(half), ov.Type.f32)
            node.output(0).replace(smaller.output(0))
    return model


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
    """Return the noise of each layer, the layer that adds most first.

    quantised   the quantised version of `model`, from `int8.quantised`
    inputs      uint8 (1, H, W, 3); a few are enough

    One pass of each network over the inputs, with the layers' tensors as more outputs.
    """
    exact = model.clone()
    floats = {node.get_friendly_name(): node for node in exact.get_ops()}
    layers = [node for node in _layers(quantised) if node.get_friendly_name() in floats]
    same = [floats[node.get_friendly_name()] for node in layers]
    alone = [_quantised_alone(ours, theirs) for ours, theirs in zip(same, layers, strict=True)]
    kept: list[Any] = []
    for a, b in zip(same, alone, strict=True):
        kept += (a, b, _sum_of(a))
    with_all = [_sum_of(node) for node in layers]
    own, total, signal = (np.zeros(len(layers)) for _ in range(3))
    runs = zip(_run(exact, kept, inputs), _run(quantised, with_all, inputs), strict=True)
    for outputs, after in runs:
        for i, (plain, noisy, summed) in enumerate(_threes(outputs)):
            signal[i] += _energy(summed)
            own[i] += _energy(plain - noisy)
            total[i] += _energy(summed - after[i])
    rows = zip(layers, _decibels(signal, own), _decibels(signal, total), strict=True)
    errors = [LayerError(n.get_friendly_name(), n.get_type_name(), *db) for n, *db in rows]
    return sorted(errors, key=lambda error: error.own_db)


def _layers(quantised: ov.Model) -> list[Any]:
    """Return the operations with a quantised input, in the order of computation."""
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
    """Return a copy of `theirs` on the exact inputs of `ours`, quantised on their way in."""
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
    """Return the node of a layer's output with its bias.

    NNCF corrects biases for the noise before them.
    """
    followers = list(node.output(0).get_target_inputs())
    if "Convolution" in node.get_type_name() and len(followers) == 1:
        after = followers[0].get_node()
        if after.get_type_name() == "Add":
            return after
    return node


def _run(
    model: ov.Model, nodes: Sequence[Any], inputs: Sequence[ByteArray]
) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Yield the outputs of `nodes` for each input, by float arithmetic on the quantised numbers.

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
    """Return ratios in decibels, at most 120; 0 for a layer without output."""
    floor = np.maximum(noise, signal * 10 ** (-_MOST_DB / 10))
    ratio = np.divide(signal, floor, out=np.ones_like(signal), where=signal > 0)
    return [float(db) for db in 10 * np.log10(ratio)]
