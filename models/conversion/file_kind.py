"""What a model file is, by its bytes alone: its kind, what a zip holds, what ONNX leans on."""

from __future__ import annotations

import itertools
import json
import lzma
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from framegate.models.errors import ModelRefused
from framegate.models.registry.model_folder import FILE

# -- What a zip says that it holds, held against bounds before anything of it is unpacked.


MOST_BYTES = 4 << 30
MOST_RATIO = 100  # of text; weights hardly shrink
MOST_MEMBERS = 100_000


def checked_members(path: Path) -> list[zipfile.ZipInfo]:
    """Its members. Raises ModelRefused for a bomb, and for a directory that makes no sense."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError as fault:
        raise ModelRefused(path, f"cannot be read: {fault.strerror or fault}") from fault
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as fault:
        raise ModelRefused(path, f"a damaged or truncated zip archive ({fault})") from fault
    if len(members) > MOST_MEMBERS:
        raise ModelRefused(path, f"a zip of {len(members)} files; allowed are {MOST_MEMBERS}")
    unpacked = sum(member.file_size for member in members)
    packed = path.stat().st_size
    if unpacked > MOST_BYTES or unpacked > max(packed, 1 << 16) * MOST_RATIO:
        why = f"a zip bomb: {packed} bytes that unpack to {unpacked}"
        allowed = f"allowed are {MOST_BYTES} bytes and {MOST_RATIO} times the file"
        raise ModelRefused(path, f"{why}; {allowed}")
    # A compressed member that shares its bytes with another unpacks more than it says.
    spans = sorted((m.header_offset, m.header_offset + m.compress_size) for m in members)
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        raise ModelRefused(path, "a zip bomb: its members overlap")
    return members


# -- What an ONNX file says about itself: opsets and files that it leans on, without the onnx
# package. Only the framing of protocol buffers is read (lengths and field numbers); weights are
# skipped.


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
        raise ModelRefused(path, "no ONNX file: it contains no graph")
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


KINDS = (
    "ONNX (.onnx), OpenVINO IR (.xml with its .bin), safetensors, TorchScript, torch.export .pt2"
)
PICKLE = (
    "a pickle, as torch.save writes it: loading one runs the code in it. "
    "Export the network instead: torch.onnx.export, torch.export.save or torch.jit.save"
)
# What zipfile and json raise for members that are damaged, encrypted or packed in another way.
_UNREADABLE = (
    ValueError, RecursionError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip
TAKEN = ("model.xml", "model.bin", "manifest.json", "original.onnx")  # in a model folder
_PICKLE_NAMES = {".pkl", ".pickle", ".ckpt", ".pth", ".joblib"}
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=!]*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[su]\d+|True|False|int_oo|oo|I?Min|Max|Mod|FloorDiv|CeilDiv|Integer|Pow|Abs")


def kind_of(path: Path) -> dict[str, Any]:
    """`kind`, and `needs`: names of the files beside it that it needs. Raises ModelRefused."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    if (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or path.suffix in _PICKLE_NAMES:
        raise ModelRefused(path, PICKLE)
    if path.suffix == ".xml" and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(
        (b"<?xml", b"<net")
    ):
        return {"kind": "ir", "needs": [path.with_suffix(".bin").name]}
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    raise ModelRefused(path, f"its bytes and name are of no kind that is read: {KINDS}")


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
    raise ModelRefused(path, f"a zip of no kind that is read: {KINDS}")


def _check_export(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Nothing in it that torch would unpickle or evaluate."""
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
    waiting = [table]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            if one.get("use_pickle"):
                raise ModelRefused(path, f"weights in it are a pickle. {PICKLE}")
            # torch evaluates these as Python expressions.
            said = one.get("expr_str")
            if isinstance(said, str) and not _is_arithmetic(said):
                raise ModelRefused(path, f"its expression {said[:60]!r} is no plain arithmetic")
            waiting += one.values()


def _is_arithmetic(said: str) -> bool:
    words = _WORD.findall(said)
    return bool(_EXPRESSION.fullmatch(said)) and all(_SYMBOL.fullmatch(word) for word in words)


def _safetensors(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, 100 << 20):
            raise ModelRefused(path, "a truncated or damaged safetensors file (its header)")
        try:
            table = json.loads(file.read(length))
            ends = [row["data_offsets"][1] for key, row in table.items() if key != "__metadata__"]
            if not all(isinstance(end, int) for end in ends):
                raise ValueError("an offset that is no number")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
            why = "a damaged safetensors file (its header is no table of tensors)"
            raise ModelRefused(path, why) from fault
    if max(ends, default=0) != size - 8 - length:
        why = f"a truncated safetensors file: {max(ends, default=0)} bytes of weights are listed, "
        raise ModelRefused(path, f"{why}{size - 8 - length} are there")
    names = set(table)
    for module, mark in (("nanodet", "head32.out.weight"), ("centernet", "heat.weight")):
        if mark in names:
            return {"kind": module, "needs": []}
    why = "weights without a network; of safetensors only our own nanodet and centernet are read"
    raise ModelRefused(path, why)


def _onnx(path: Path) -> dict[str, Any]:
    facts = scan(path)
    opset = facts.opsets.get("", facts.opsets.get("ai.onnx", 0))
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        allowed = f"allowed are {OLDEST_OPSET} to {NEWEST_OPSET}"
        raise ModelRefused(path, f"ONNX operator set {opset}: {allowed}; export it with opset 17")
    for name in sorted(facts.external):
        if not re.fullmatch(FILE, name) or name in TAKEN:
            why = f"its weights lie in {name!r}; allowed is a plain file name beside it"
            raise ModelRefused(path, why)
    return {"kind": "onnx", "needs": sorted(facts.external)}
