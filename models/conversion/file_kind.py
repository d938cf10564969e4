"""Determine the kind of a model file, and the files that it needs, from its bytes alone."""

from __future__ import annotations

import itertools
import json
import lzma
import mmap
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from framegate.models.errors import ModelRefused
from framegate.models.registry.manifest import FILE, MANIFEST, NETWORK, WEIGHTS

# -- Limits of a zip archive, checked in its directory before any member is unpacked.


MAX_BYTES = 4 << 30
MAX_RATIO = 100  # text shrinks so far; weights hardly shrink
MAX_MEMBERS = 100_000


def checked_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return the members of a zip. Raises ModelRefused for a bomb, and for a damaged directory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError as fault:
        raise ModelRefused(path, f"cannot be read: {fault.strerror or fault}") from fault
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as fault:
        raise ModelRefused(path, f"a damaged or truncated zip archive ({fault})") from fault
    if len(members) > MAX_MEMBERS:
        raise ModelRefused(
            path, f"a zip of {len(members)} files; at most {MAX_MEMBERS} are allowed"
        )
    unpacked = sum(member.file_size for member in members)
    packed = path.stat().st_size
    if unpacked > MAX_BYTES or unpacked > max(packed, 1 << 16) * MAX_RATIO:
        why = f"a zip bomb: {packed} bytes that unpack to {unpacked}"
        allowed = f"allowed are {MAX_BYTES} bytes and {MAX_RATIO} times the file"
        raise ModelRefused(path, f"{why}; {allowed}")
    # Members that share bytes can unpack to more than the directory lists.
    spans = sorted((m.header_offset, m.header_offset + m.compress_size) for m in members)
    for (_, end), (next_start, _) in itertools.pairwise(spans):
        if end > next_start:
            raise ModelRefused(path, "a zip bomb: its members overlap")
    return members


# -- Operator sets and external weights of an ONNX file, without the onnx package. Only the framing
# of the protocol buffers is read (lengths and field numbers); weights are skipped.


OLDEST_OPSET = 7
NEWEST_OPSET = 24
_MAX_DEPTH = 32

# Field numbers of onnx.proto: the messages inside a message of each kind that matter here.
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
    """Versions of the operator sets by domain, and names of the external files of weights."""

    opsets: dict[str, int] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    has_graph: bool = False


def scan(path: Path) -> OnnxFacts:
    """Read the facts of an ONNX file. Raises ModelRefused if it is damaged or no ONNX file."""
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
        raise ModelRefused(path, "no ONNX file: it contains no graph")
    return facts


def _walk(kind: str, data: memoryview, facts: OnnxFacts, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"graphs nested more than {_MAX_DEPTH} deep")
    facts.has_graph |= kind == "graph"
    for number, value in _fields(data):
        inner = _INSIDE[kind].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "opset":
            entry = dict(_fields(value))
            domain = entry.get(1, b"")
            version = entry.get(2, 0)
            if isinstance(version, int) and not isinstance(domain, int):
                facts.opsets[bytes(domain).decode()] = version
        elif inner == "external":
            entry = dict(_fields(value))
            key = entry.get(1, b"")
            location = entry.get(2, b"")
            is_text = not isinstance(key, int) and not isinstance(location, int)
            if is_text and key == b"location":
                facts.external.add(bytes(location).decode())
        else:
            _walk(inner, value, facts, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value of each field of a message: a number, or the bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number = tag >> 3
        wire_type = tag & 7
        match wire_type:
            case 0:
                value, position = _varint(data, position)
                yield number, value
                continue
            case 1:
                length = 8
            case 2:
                length, position = _varint(data, position)
            case 5:
                length = 4
            case _:
                raise ValueError(f"no field type {wire_type} at byte {position}")
        end = position + length
        if end > len(data):
            raise ValueError(f"{end - len(data)} bytes are missing")
        yield number, data[position:end]
        position = end


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number of 7 bits per byte, the lowest first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 10 bytes")


KINDS = "ONNX (.onnx), OpenVINO IR (.xml with its .bin), TorchScript, torch.export .pt2"
PICKLE = (
    "a pickle, as torch.save writes it: loading one runs the code in it. "
    "Export the network instead: torch.onnx.export, torch.export.save or torch.jit.save"
)
# Exceptions of zipfile and json for members that are damaged, encrypted or of another compression.
_UNREADABLE = (
    ValueError, RecursionError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip
# Names in a model folder that external weights must not have.
RESERVED = (NETWORK, WEIGHTS, MANIFEST, "original.onnx")
_PICKLE_NAMES = {".pkl", ".pickle", ".ckpt", ".pth", ".joblib"}
# Python takes a full-width letter for the ASCII letter.
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=!]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SYMBOL = re.compile(r"[su]\d+|True|False|int_oo|oo|I?Min|Max|Mod|FloorDiv|CeilDiv|Integer|Pow|Abs")


def kind_of(path: Path) -> dict[str, Any]:
    """Return `kind` and `needs`, the names of further files that it needs. Raises ModelRefused."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    is_pickle = head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"
    if is_pickle or path.suffix in _PICKLE_NAMES:
        raise ModelRefused(path, PICKLE)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if path.suffix == ".xml" and text.startswith((b"<?xml", b"<net")):
        return {"kind": "ir", "needs": [path.with_suffix(".bin").name]}
    if path.suffix == ".safetensors":
        raise ModelRefused(path, f"weights without a network; allowed: {KINDS}")
    if path.suffix == ".onnx":
        return _onnx(path)
    raise ModelRefused(path, f"unknown file type; allowed: {KINDS}")


def _zip(path: Path) -> dict[str, Any]:
    members = checked_members(path)
    names = {str(PurePosixPath(*PurePosixPath(m.filename).parts[1:])) for m in members}
    if "archive_format" in names or any(n.startswith("serialized_exported") for n in names):
        _check_export(path, members)
        return {"kind": "export", "needs": []}
    if "constants.pkl" in names and any(n.startswith("code/") for n in names):
        return {"kind": "torchscript", "needs": []}
    if "data.pkl" in names:
        raise ModelRefused(path, PICKLE)
    raise ModelRefused(path, f"a zip archive of an unknown type; allowed: {KINDS}")


def _check_export(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an exported program with parts that torch would unpickle or evaluate."""
    if not any(member.filename.endswith("/archive_format") for member in members):
        raise ModelRefused(
            path, "a program of an old torch.export: export it with torch 2.8 or newer"
        )
    with zipfile.ZipFile(path) as archive:
        for member in members:
            name = PurePosixPath(member.filename).name
            if name.startswith(("opaque_obj", "custom_obj")):
                raise ModelRefused(path, f"it contains a pickled object ({name}). {PICKLE}")
            if name.endswith(".json"):
                try:
                    table = json.loads(archive.read(member))
                except _UNREADABLE as fault:
                    raise ModelRefused(path, f"{name} in it is damaged ({fault})") from fault
                _check_json(path, table)


def _check_json(path: Path, table: Any) -> None:
    pending = [table]
    while pending:
        entry = pending.pop()
        if isinstance(entry, list):
            pending += entry
        elif isinstance(entry, dict):
            if entry.get("use_pickle"):
                raise ModelRefused(path, f"weights in it are a pickle. {PICKLE}")
            # torch evaluates these as Python expressions.
            expression = entry.get("expr_str")
            if isinstance(expression, str) and not _is_arithmetic(expression):
                why = f"its expression {expression[:60]!r} is no plain arithmetic"
                raise ModelRefused(path, why)
            pending += entry.values()


def _is_arithmetic(expression: str) -> bool:
    if not _EXPRESSION.fullmatch(expression):
        return False
    return all(_SYMBOL.fullmatch(word) for word in _WORD.findall(expression))


def _onnx(path: Path) -> dict[str, Any]:
    facts = scan(path)
    opset = facts.opsets.get("", facts.opsets.get("ai.onnx", 0))
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        allowed = f"allowed are {OLDEST_OPSET} to {NEWEST_OPSET}"
        raise ModelRefused(path, f"ONNX operator set {opset}: {allowed}; export it with opset 17")
    for name in sorted(facts.external):
        if not re.fullmatch(FILE, name) or name in RESERVED:
            why = f"its weights are in {name!r}; allowed is a plain name of a file beside it"
            raise ModelRefused(path, why)
    return {"kind": "onnx", "needs": sorted(facts.external)}
