"""A certificate from somebody else: it is read and judged, or it is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.promise.certificate import (
    read_certificate,
    read_declaration,
    undeclared,
    verify,
)
from framegate.stages.audit.certify import summary
from tests.fuzz.budget import fuzz
from tests.fuzz.mutated import data_like, tables_like
from tests.pipeline.promise.test_certificate import certificate_of

SOUND = [
    msgspec.json.encode(certificate_of()),
    msgspec.json.encode(certificate_of(frames=20, missed=3)),
]
TABLES = [json.loads(one) for one in SOUND]


def judged(data: bytes) -> None:
    try:
        certificate = read_certificate(data)
        declared = read_declaration(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecordTooNew):
        return
    assert summary(certificate)
    assert all(isinstance(fault, str) for fault in verify(certificate))
    assert undeclared(certificate, declared) == []


@fuzz(120)
@given(table=st.one_of(*map(tables_like, TABLES)))
def test_a_table_that_is_like_one(table: Any) -> None:
    judged(json.dumps(table).encode())


@fuzz(60)
@given(data=data_like(*(json.dumps(one).encode() for one in TABLES)))
@example(b"[" * 200_000)
@example(b'{"v": 1, "source": ' + b"[" * 200_000)
@example(b'{"v": 1, "source": "\xff"}')
def test_bytes_that_are_like_one(data: bytes) -> None:
    judged(data)
