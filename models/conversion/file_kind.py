"""What kind of model file it is, by its bytes; which are refused, and why."""

import json
import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from framegate.models.conversion.onnx_scan import NEWEST_OPSET, OLDEST_OPSET, scan
from framegate.models.conversion.zip_check import checked_members
from framegate.models.errors import ModelRefused
from framegate.models.registry.model_folder import FILE

KINDS = (
    "ONNX (.onnx), OpenVINO IR (.xml with its .bin), safetensors, TorchScript, torch.export .pt2"
)
PICKLE = (
    "a pickle, as torch.save writes it: loading one runs whatever code is in it. "
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
                raise ModelRefused(path, f"it holds a pickled object ({name}). {PICKLE}")
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
