"""ONNX files written byte by byte: no package that knows ONNX is needed."""

from __future__ import annotations

import numpy as np

KERNEL = np.random.default_rng(0).normal(0, 0.02, (7, 3, 16, 16)).astype(np.float32)


def detector(
    opset: int = 13, operator: str = "Sigmoid", domain: str = "", external: str | None = None
) -> bytes:
    """(1, 3, 48, 64) to (1, 7, 12): a column a cell of stride 16; scores 0..1, boxes in place."""
    spans = np.array([48, 32, 20, 20, 1, 1, 1], np.float32).reshape(1, 7, 1)
    nodes = [
        node("Conv", ["images", "kernel"], ["cells"], strides=[16, 16]),
        node("Reshape", ["cells", "flat"], ["columns"]),
        node(operator, ["columns"], ["shares"], domain=domain),
        node("Mul", ["shares", "spans"], ["output0"]),
    ]
    tensors = [
        _tensor("kernel", KERNEL, external),
        _tensor("flat", np.array([1, 7, -1], np.int64)),
        _tensor("spans", spans),
    ]
    return _file(nodes, tensors, {"images": [1, 3, 48, 64]}, {"output0": [1, 7, 12]}, opset)


def model(
    nodes: list[bytes],
    constants: dict[str, np.ndarray],
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
) -> bytes:
    """A file of these nodes; constants are float32 or int64, inputs and outputs float32."""
    tensors = [_tensor(name, values) for name, values in constants.items()]
    return _file(nodes, tensors, inputs, outputs, 13)


def _file(
    nodes: list[bytes],
    tensors: list[bytes],
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
    opset: int,
) -> bytes:
    graph = b"".join(part(1, each) for each in nodes) + _text(2, "net")
    graph += b"".join(part(5, each) for each in tensors)
    graph += b"".join(part(11, _value(name, shape)) for name, shape in inputs.items())
    graph += b"".join(part(12, _value(name, shape)) for name, shape in outputs.items())
    opsets = part(8, _text(1, "") + _number(2, opset))
    return _number(1, 8) + opsets + part(7, graph)


def node(
    kind: str,
    inputs: list[str],
    outputs: list[str],
    domain: str = "",
    **attributes: list[int] | int,
) -> bytes:
    out = b"".join(_text(1, one) for one in inputs) + b"".join(_text(2, one) for one in outputs)
    out += _text(4, kind) + _text(7, domain)
    for name, value in attributes.items():
        if isinstance(value, int):
            out += part(5, _text(1, name) + _number(3, value) + _number(20, 2))
        else:
            numbers = b"".join(_number(8, each) for each in value)
            out += part(5, _text(1, name) + numbers + _number(20, 7))
    return out


def _tensor(name: str, values: np.ndarray, external: str | None = None) -> bytes:
    out = b"".join(_number(1, n) for n in values.shape)
    out += _number(2, 1 if values.dtype == np.float32 else 7) + _text(8, name)
    if external is None:
        return out + part(9, values.tobytes())
    return out + part(13, _text(1, "location") + _text(2, external)) + _number(14, 1)


def _value(name: str, shape: list[int]) -> bytes:
    axes = b"".join(part(1, _number(1, n)) for n in shape)
    return _text(1, name) + part(2, part(1, _number(1, 1) + part(2, axes)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def part(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return part(field, text.encode())
