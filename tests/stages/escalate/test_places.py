"""Whom escalate asks: what `[escalate]` may say, and what is told of what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from framegate.models import coco
from framegate.pipeline.config.read_options import read_options, with_variables
from framegate.pipeline.contracts.queries import RemotePlace
from framegate.stages.escalate.heavy_pass import heavy_pass
from framegate.stages.escalate.options import EscalateOptions


def read(**table: Any) -> tuple[EscalateOptions | None, list[str]]:
    """The table [escalate] as the configuration reads it, and what is wrong with it."""
    faults: list[str] = []
    full = with_variables(EscalateOptions, table, "escalate.", faults)
    return read_options(EscalateOptions, full, "escalate.", faults), faults


@pytest.mark.parametrize(
    "url",
    ["http://u:topsecret@x", "", "x:6379", "redis://u:topsecret@x:port", "redis://u:top#secret@x"],
)
def test_workers_are_at_a_redis(url: str) -> None:
    _, [fault] = read(place="workers", url=url)
    assert fault.startswith("escalate.url: it is not the URL of a Redis")
    assert "secret" not in fault


def test_what_is_allowed_is_said_and_not_what_a_variable_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEAVY", "http://u:topsecret@x")
    assert read(place="workers", url_env="HEAVY")[1] == [
        "escalate.url_env = 'HEAVY': it is not the URL of a Redis server; it must begin with "
        "redis://, rediss://, unix://"
    ]


def test_a_variable_holds_the_url_or_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAVY", "redis://:p@x:6379/0")
    options, faults = read(place="workers", url_env="HEAVY")
    assert options is not None
    assert (options.url, faults) == ("redis://:p@x:6379/0", [])
    assert ":p@" not in repr(options)
    monkeypatch.delenv("HEAVY")
    assert read(place="workers", url_env="HEAVY")[1] == [
        "escalate.url_env = 'HEAVY': this environment variable is not set"
    ]


def test_a_server_needs_a_url() -> None:
    assert read(place="kserve")[1] == [
        "escalate.place = 'kserve': it needs url or url_env",
    ]


@pytest.mark.parametrize("url", ["redis://:p@x:6379/0", "rediss://x", "unix:///x.sock", None])
def test_others_are_taken_and_asked_for_the_runs_classes(url: str | None) -> None:
    options, faults = read(place="workers", url=url)
    assert faults == []
    assert options is not None
    heavy = heavy_pass(options, ["person"])
    assert heavy is not None
    assert not heavy.is_exact
    assert isinstance(heavy.place, RemotePlace)
    assert (heavy.place.url, heavy.place.protocol) == (url, "workers")
    assert heavy.place.class_ids == set(coco.class_ids(["person"]))
