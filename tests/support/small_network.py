"""A network small enough to compute by hand: two 1x1 convolutions with a ReLU between them."""

import numpy as np
import openvino as ov
from openvino import opset13

RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(6, 3)).astype(np.float32)
SECOND = RNG.normal(size=(5, 6)).astype(np.float32)


def network(levels: int | None = None, top: float = 1.0, size: int = 16) -> ov.Model:
    """uint8 (1, size, size, 3) in, float (1, 5, size, size) out, `first` and `second` by name.

    levels, top   what `second` reads is cut to 0..top and rounded to that many levels
    """
    picture = opset13.parameter([1, size, size, 3], ov.Type.u8, name="picture")
    scaled = opset13.divide(opset13.convert(picture, ov.Type.f32), np.float32(255))
    planes = opset13.transpose(scaled, np.array([0, 3, 1, 2]))
    first = _convolution(planes, FIRST, "first")
    inner = opset13.relu(first)
    if levels is not None:
        low, high = np.float32(0), np.float32(top)
        inner = opset13.fake_quantize(inner, low, high, low, high, levels)
    second = _convolution(inner, SECOND, "second")
    second.output(0).get_tensor().set_names({"maps"})
    return ov.Model([second], [picture], "small")


def _convolution(planes, weights, name):
    kernels = opset13.constant(weights[:, :, None, None])
    node = opset13.convolution(planes, kernels, [1, 1], [0, 0], [0, 0], [1, 1])
    node.set_friendly_name(name)
    return node


def computed(picture, levels: int | None = None, top: float = 1.0) -> np.ndarray:
    """The outputs (5, H, W) in numpy, by the definition of each operation."""
    inner = np.maximum(np.einsum("oc,hwc->ohw", FIRST, picture[0] / np.float32(255)), 0)
    if levels is not None:
        steps = np.round(np.clip(inner, 0, top) / top * (levels - 1))
        inner = steps / (levels - 1) * top
    return np.einsum("oc,chw->ohw", SECOND, inner)


def pictures(n: int, size: int = 16, seed: int = 1) -> list[np.ndarray]:
    """Of noise, uint8 (1, size, size, 3)."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (n, 1, size, size, 3), dtype=np.uint8))
