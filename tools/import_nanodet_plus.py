"""Make `weights/nanodet-plus.*` from the published INT8 file of NanoDet-Plus-m-1.5x for ncnn.

    git clone https://github.com/Deepdive543443/ncnn-android-nanodet
    git -C ncnn-android-nanodet checkout 4dfacc84c280252f090b38a6e255cac3b4c88638
    python -m tools.import_nanodet_plus ncnn-android-nanodet/app/src/main/assets

Checks the sha256 of both files, multiplies the weights of 8 bits with their scales, and writes the
network with float16 weights. The 8-bit ranges of activations in the file are not used: they were
measured on pictures with swapped colours. `tools.quantise` makes the INT8 network again.

The network takes uint8 NHWC in the order B, G, R with sides that are multiples of 32. Its only
output `cells` has one row for each cell: 80 class logits, then 4 sides of 8 bins.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.preprocess import PrePostProcessor

from framegate.models.boxes import FloatArray
from framegate.models.errors import ModelUnreadable
from framegate.models.weights import FOLDER

NAME: Final = "nanodet-plus"
OUTPUT: Final = "cells"
HEADS: Final = ("conv_77", "conv_80", "conv_83", "conv_86")  # the last layer of each stride
_FILE: Final = "nanodet-plus-m-1.5x_416_int8"
_SHA256: Final = {
    ".param": "0b3993170ac08796924ba681c199eb522da0d4dc2e6f5beef5a0de7b69a2e0dc",
    ".bin": "1d8e0c55231336028c803d0b3b60ec036bf02b40146886c8b7a472d93e767011",
}
_MEAN: Final = [103.53, 116.28, 123.675]
_STD: Final = [57.375, 57.12, 58.395]
_STRIDES: Final = (8, 16, 32, 64)
_CHANNELS: Final = 112  # 80 classes and 4 sides of 8 bins
_INT8: Final = 0x000D4B38  # ncnn's mark of weights in 8 bits
_LEAKY: Final = 2  # ncnn's number of the leaky ReLU
_SLOPE: Final = 0.1

# Numbers of ncnn's parameters of a convolution.
_OUT, _KERNEL, _STRIDE, _PAD, _N_WEIGHTS, _GROUPS, _ACTIVATION = 0, 1, 3, 4, 6, 7, 9
_SCALES: Final = 8  # above 100: also a scale of the outputs


@dataclass(frozen=True, slots=True)
class Layer:
    """A line of the .param file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: dict[int, str]

    def number(self, key: int, usual: int = 0) -> int:
        """Return a parameter as a whole number."""
        return int(self.parameters.get(key, usual))


class Weights:
    """The .bin file, read from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, dtype: type) -> Any:
        """Return the next numbers."""
        out: Any = np.frombuffer(self._data, dtype, count, self._at)
        self._at += out.nbytes
        return out

    def convolution(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        """Return kernel (outputs, inputs of a group, k, k) and bias (outputs,) of a layer."""
        n_outputs, size = layer.number(_OUT), layer.number(_KERNEL)
        tag = int(self.take(1, np.uint32)[0])
        if tag != _INT8:
            raise ValueError(f"weights of kind {tag:#x}, expected {_INT8:#x}")
        quantised = self.take(layer.number(_N_WEIGHTS), np.int8)
        self._at += -self._at % 4
        bias = self.take(n_outputs, np.float32)
        scales = self._scales(layer)
        kernel = quantised.astype(np.float32).reshape(n_outputs, -1, size, size)
        return kernel / scales.reshape(-1, 1, 1, 1), bias

    def _scales(self, layer: Layer) -> FloatArray:
        """Return the scale of each output channel; skip the scales of the activations."""
        n_outputs = layer.number(_OUT)
        kind = layer.number(_SCALES)
        is_depthwise = layer.kind == "ConvolutionDepthWise"
        has_one_scale = is_depthwise and kind % 100 == 2
        if has_one_scale:
            scales = np.repeat(self.take(1, np.float32), n_outputs)
        else:
            scales = self.take(n_outputs, np.float32)
        self.take(1, np.float32)
        if kind > 100:
            self.take(1, np.float32)
        return np.asarray(scales, np.float32)

    @property
    def is_read(self) -> bool:
        """True at the end of the file."""
        return self._at == len(self._data)


def read_layers(text: str) -> list[Layer]:
    """Return the layers of a .param file."""
    layers = []
    for line in text.splitlines()[2:]:
        words = line.split()
        n_inputs, n_outputs = int(words[2]), int(words[3])
        names = words[4 : 4 + n_inputs + n_outputs]
        pairs = [word.split("=") for word in words[4 + n_inputs + n_outputs :]]
        parameters = {int(key): value for key, value in pairs}
        inputs, outputs = tuple(names[:n_inputs]), tuple(names[n_inputs:])
        layers.append(Layer(words[0], words[1], inputs, outputs, parameters))
    return layers


class Builder:
    """Builds OpenVINO's network, layer by layer."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._values: dict[str, Any] = {}
        self._heads: dict[int, Any] = {}
        self._add: dict[str, Callable[[Layer, Sequence[Any]], Sequence[Any]]] = {
            "Convolution": self._convolution,
            "ConvolutionDepthWise": self._convolution,
            "Pooling": self._pooling,
            "Split": self._split,
            "Concat": self._concat,
            "ShuffleChannel": self._shuffle,
            "Slice": self._slice,
            "Interp": self._enlarge,
            "BinaryOp": self._sum,
        }

    def model(self, layers: Sequence[Layer]) -> ov.Model:
        """Return the network with the input `picture`, float32 NCHW, and the output `cells`."""
        picture = op.parameter(ov.PartialShape([1, 3, -1, -1]), np.float32, name="picture")
        picture.output(0).set_names({"picture"})
        self._values[layers[0].outputs[0]] = picture.output(0)
        for layer in layers[1:]:
            # After the heads only sigmoids and permutations follow; the decoder does their work.
            if layer.kind in ("Sigmoid", "Permute"):
                continue
            inputs = [self._values[name] for name in layer.inputs]
            outputs = self._add[layer.kind](layer, inputs)
            self._values.update(zip(layer.outputs, outputs, strict=False))
        cells = op.concat([self._rows(self._heads[stride]) for stride in _STRIDES], 1)
        cells.output(0).set_names({OUTPUT})
        return ov.Model([op.result(cells)], [picture], NAME)

    def _rows(self, head: Any) -> Any:
        flat = op.reshape(head, op.constant([1, _CHANNELS, -1], np.int64), special_zero=False)
        return op.transpose(flat, op.constant([0, 2, 1], np.int64))

    def _convolution(self, layer: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        kernel, bias = self._weights.convolution(layer)
        strides = [layer.number(_STRIDE, 1)] * 2
        pads = [layer.number(_PAD)] * 2
        if layer.kind == "Convolution":
            node = op.convolution(inputs[0], op.constant(kernel), strides, pads, pads, [1, 1])
        else:
            groups = op.constant(kernel[:, None])
            node = op.group_convolution(inputs[0], groups, strides, pads, pads, [1, 1])
        node.set_friendly_name(layer.name)
        node = op.add(node, op.constant(bias.reshape(1, -1, 1, 1)))
        if layer.number(_ACTIVATION) == _LEAKY:
            node = op.prelu(node, op.constant(np.array([_SLOPE], np.float32)))
        return [node.output(0)]

    def _pooling(self, _: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        return [op.max_pool(inputs[0], [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)]

    def _split(self, layer: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0]] * len(layer.outputs)

    def _concat(self, _: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        return [op.concat(list(inputs), 1).output(0)]

    def _shuffle(self, layer: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        return [op.shuffle_channels(inputs[0], 1, layer.number(0)).output(0)]

    def _slice(self, layer: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        """Halve the channels; a head, which is cut after its 80 classes, stays whole."""
        cut = layer.outputs[1]
        if cut.startswith("dis"):
            stride = int(cut.removeprefix("dis").removesuffix("_pre"))
            self._heads[stride] = inputs[0]
            return []
        return list(op.split(inputs[0], op.constant(1, np.int64), 2).outputs())

    def _enlarge(self, _: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        node = op.interpolate(
            inputs[0],
            op.constant([2.0, 2.0], np.float32),
            "linear_onnx",
            "scales",
            coordinate_transformation_mode="half_pixel",
            axes=op.constant([2, 3], np.int64),
        )
        return [node.output(0)]

    def _sum(self, _: Layer, inputs: Sequence[Any]) -> Sequence[Any]:
        return [op.add(inputs[0], inputs[1]).output(0)]


def read_published(folder: Path) -> tuple[list[Layer], Weights]:
    """Return layers and weights. Raises ModelUnreadable for other files than those published."""
    files = {}
    for suffix, expected in _SHA256.items():
        path = folder / f"{_FILE}{suffix}"
        files[suffix] = path.read_bytes()
        actual = hashlib.sha256(files[suffix]).hexdigest()
        if actual != expected:
            raise ModelUnreadable(path, f"sha256 {expected}", actual)
    return read_layers(files[".param"].decode()), Weights(files[".bin"])


def convert(folder: Path) -> ov.Model:
    """Return the network that takes a picture. Raises ModelUnreadable."""
    layers, weights = read_published(folder)
    model = Builder(weights).model(layers)
    if not weights.is_read:
        raise ModelUnreadable(folder / f"{_FILE}.bin", "weights of all layers", "more")
    prepost = PrePostProcessor(model)
    picture = prepost.input()
    picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.model().set_layout(ov.Layout("NCHW"))
    picture.preprocess().convert_element_type(ov.Type.f32).mean(_MEAN).scale(_STD)
    return prepost.build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder with the .param and the .bin file")
    path = FOLDER / f"{NAME}.xml"
    ov.save_model(convert(parser.parse_args().folder), path, compress_to_fp16=True)
    print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
