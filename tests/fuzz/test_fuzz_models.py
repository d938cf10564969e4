"""What strangers hand over as a model, and kept answers: refused in words, or read."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.models.boxes import Boxes
from framegate.models.conversion.file_kind import kind_of, scan
from framegate.models.detector.answer_cache import _check, boxes_of, value_of
from framegate.models.errors import ManifestRefused, ModelError, ModelRefused
from framegate.models.picture import Picture, prepare
from framegate.models.registry.manifest import MANIFEST, Manifest
from framegate.models.registry.model_folder import open_folder
from tests.fuzz.budget import fuzz
from tests.fuzz.mutated import data_like, tables_like
from tests.support import tiny_onnx
from tests.support.made_models import manifest

SOUND = json.loads(manifest().to_json())
ONNX = tiny_onnx.detector()


@contextmanager
def file_of(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return made.getvalue()


@fuzz()
@given(table=tables_like(SOUND))
@example({**SOUND, "licence": "\ud800"})
@example({**SOUND, "options": {"n": 10**400}})
@example({**SOUND, "options": {"\udfff": 1}})
@example({**SOUND, "min_score": 10**400})
def test_a_manifest_is_refused_or_can_be_written_again(table: Any) -> None:
    try:
        read = Manifest.from_json(json.dumps(table))
    except ManifestRefused:
        return
    assert Manifest.from_json(read.to_json()) == read
    assert read.to_json().encode()
    assert len(read.sha256) == 64


@fuzz(100)
@given(data=data_like(json.dumps(SOUND).encode()))
@example(b"[" * 100_000)
@example(b"\xff\xfe")
@example(b'{"name": 1e999}')
def test_the_bytes_of_a_manifest(data: bytes) -> None:
    with file_of(data, MANIFEST) as path:
        try:
            asdict(open_folder(path.parent).manifest)
        except ModelError:
            return


@fuzz()
@given(data=data_like(ONNX, ONNX[:300]))
@example(b"")
@example(b"\x3a\x00")
@example(b"\x42\x02\x0a\x80")
@example(b"\x3a\x02\x3a\x00" * 40)
def test_an_onnx_file_is_read_or_refused(data: bytes) -> None:
    with file_of(data, "network.onnx") as path:
        try:
            facts = scan(path)
        except ModelRefused:
            return
        assert facts.has_graph


PROGRAM = zipped(("m/archive_format", b"pt2"), ("m/models/m.json", b'{"expr_str": "s0 + 1"}'))
FILES = {
    "m.pt2": PROGRAM,
    "m.pt": zipped(("m/constants.pkl", b"x"), ("m/code/m.py", b"y")),
    "m.onnx": ONNX,
    "m.xml": b"<?xml version='1.0'?><net/>",
}


def packed_otherwise(data: bytes) -> bytes:
    """A zip that names another way of packing for its members, and one that is encrypted."""
    return data.replace(b"\x08\x00", b"\x63\x00", 1)


@fuzz()
@given(data=data_like(*FILES.values()), name=st.sampled_from(list(FILES)))
@example(PROGRAM.replace(b"expr_str", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"), "m.pt2")
@example(zipped(("m/archive_format", b"pt2"), ("m/a.json", b"[" * 90_000)), "m.pt2")
def test_a_file_of_any_kind_is_told_or_refused(data: bytes, name: str) -> None:
    with file_of(data, name) as path:
        try:
            told = kind_of(path)
        except ModelRefused:
            return
        assert set(told) == {"kind", "needs"}


@pytest.mark.parametrize("flags", [1, 0x41])
def test_a_member_that_is_encrypted_is_refused(flags: int) -> None:
    """Its flag stands in the archive's directory, and before its bytes."""
    data = bytearray(PROGRAM)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + at] |= flags
    with file_of(bytes(data), "m.pt2") as path, pytest.raises(ModelRefused):
        kind_of(path)


GREY = np.full((64, 96), 120, np.uint8)
HALF = np.full((32, 48), 128, np.uint8)
PICTURE = Picture(GREY, HALF, HALF.copy(), "bt709", True)
PREPARED = prepare(PICTURE, 96)
FOUND = Boxes(
    np.array([[1, 2, 30, 40]], np.float32), np.array([0.5], np.float32), np.array([3], np.int32)
)
VALUE = value_of(PREPARED, FOUND)


def vouched(data: bytes) -> bytes:
    """The same with a digest that is right, as somebody who knows how could write it."""
    return _check(PREPARED, data[8:]) + data[8:]


@fuzz()
@given(data=data_like(VALUE))
@example(vouched(VALUE[:-1]))
@example(vouched(VALUE[:-21] + np.full(4, np.nan, np.float32).tobytes() + bytes(5)))
@example(b"")
def test_a_kept_value_is_an_answer_or_none(data: bytes) -> None:
    for said in (data, vouched(data)):
        boxes = boxes_of(PREPARED, said)
        assert boxes is None or np.isfinite(boxes.xyxy).all()
