"""Certify's files: a declaration when a period begins, its certificate when that is over."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import End, Position, Record
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item, NoOptions, NoState
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.promise import audit_coin
from framegate.pipeline.promise.certificate import (
    Certificate,
    close,
    declare,
    read_certificate,
    read_declaration,
    undeclared,
    verify,
)
from framegate.pipeline.promise.period import FrameTime, Period, Promise, following, serve
from framegate.stages.audit.certify import Certify

TERMS = Promise(alpha=0.1, frames=3, audited=0.4)
KEY = audit_coin.period_key(b"of a test", "door", 1)
NEW: dict[str, NoState] = {"door": NoState()}
BEGUN = following(Period(), TERMS)
DECLARED = declare(BEGUN, TERMS, KEY, "door")


def certificate() -> Certificate:
    period = BEGUN
    for seq in range(3):
        period, _ = serve(period, TERMS, KEY, FrameTime(Position(1, seq), None), 0, False)
    return close(period, TERMS, KEY, "door", "0a1b2c3d")


def raw(record: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(records.encode(record))


def news(**what: tuple[msgspec.Raw, ...]) -> PromiseNews:
    return PromiseNews(1, 0, 0, 0, 0, False, 0.1, **what)  # type: ignore[arg-type]


def certify(folder: Path) -> Certify:
    return Certify(NoOptions(), context_alone(lambda _: None, lambda: 0.0, folder, "escalate"))  # type: ignore[arg-type, return-value]


def frame(said: PromiseNews | None) -> Item:
    told = {"escalate": msgspec.Raw(msgspec.msgpack.encode({"promise": said}))}
    record = Record(records.VERSION, None, 0.0, 0.0, 0, Form(2, 2), said=told)
    return Item("door", Position(1, 0), record)


def test_what_is_declared_is_a_file_before_the_period_is_over(tmp_path: Path) -> None:
    stage = certify(tmp_path)
    begins = news(declared=(raw(DECLARED),))
    assert stage.process([frame(begins), frame(None)], NEW)[0] == [begins, None]
    folder = tmp_path / "certificates"
    assert [path.name for path in folder.iterdir()] == ["door-1.declared.json"]
    assert read_declaration((folder / "door-1.declared.json").read_bytes()) == DECLARED
    over = news(closed=(raw(certificate()),))
    stage.end("door", End(records.VERSION, 3, True, said={"escalate": raw(over)}), NoState())
    assert sorted(path.name for path in folder.iterdir()) == ["door-1.declared.json", "door-1.json"]
    found = read_certificate((folder / "door-1.json").read_bytes())
    assert found == certificate()
    assert verify(found) == undeclared(found, DECLARED) == []


def test_what_is_said_again_is_written_again(tmp_path: Path) -> None:
    begins = frame(news(declared=(raw(DECLARED),)))
    path = tmp_path / "certificates" / "door-1.declared.json"
    certify(tmp_path).process([begins], NEW)
    before = path.read_bytes()
    certify(tmp_path).process([begins], NEW)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_leaves_no_other_one(tmp_path: Path) -> None:
    in_the_way = tmp_path / "certificates" / "door-1.declared.json"
    in_the_way.mkdir(parents=True)
    certify(tmp_path).process([frame(news(declared=(raw(DECLARED),)))], NEW)
    assert list(in_the_way.parent.iterdir()) == [in_the_way]


def test_a_folder_that_takes_no_file_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "certificates").write_text("in the way", encoding="utf-8")
    begins = news(declared=(raw(DECLARED),))
    with caplog.at_level(logging.ERROR):
        assert certify(tmp_path).process([frame(begins)], NEW)[0] == [begins]
    assert "door-1.declared.json is in the store only" in caplog.text
