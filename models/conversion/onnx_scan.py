"""What an ONNX file says about itself: opsets and files that it leans on, without the onnx package.

Only the framing of protocol buffers is read (lengths and field numbers); weights are skipped.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from framegate.models.errors import ModelRefused

OLDEST_OPSET, NEWEST_OPSET = 7, 24
_DEEPEST = 32

# Field numbers of onnx.proto: where tensors and further graphs lie in a message of each kind.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}


@dataclass(slots=True)
class OnnxFacts:
    """Version of each operator set by its domain; files of weights beside the file."""

    opsets: dict[str, int] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    has_graph: bool = False


def scan(path: Path) -> OnnxFacts:
    """The facts of an ONNX file. Raises ModelRefused when it is truncated or none."""
    facts = OnnxFacts()
    if not path.stat().st_size:
        raise ModelRefused(path, "an empty file")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        _walk("model", memoryview(mapped), facts, 0)
    except ValueError as fault:
        raise ModelRefused(path, f"a truncated or damaged ONNX file ({fault})") from fault
    if not facts.has_graph:
        raise ModelRefused(path, "no ONNX file: it holds no graph")
    return facts


def _walk(kind: str, data: memoryview, facts: OnnxFacts, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"graphs nested more than {_DEEPEST} deep")
    facts.has_graph |= kind == "graph"
    for number, value in _fields(data):
        inner = _INSIDE[kind].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "opset":
            entry = dict(_fields(value))
            domain, version = entry.get(1, b""), entry.get(2, 0)
            if isinstance(version, int) and not isinstance(domain, int):
                facts.opsets[bytes(domain).decode()] = version
        elif inner == "external":
            entry = dict(_fields(value))
            key, place = entry.get(1, b""), entry.get(2, b"")
            if not isinstance(key, int) and not isinstance(place, int) and key == b"location":
                facts.external.add(bytes(place).decode())
        else:
            _walk(inner, value, facts, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value of each field: a number, or the bytes of a longer one."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no field type {wire} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"{at + length - len(data)} bytes are missing")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 10 bytes")
