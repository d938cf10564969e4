"""Detect with answers that are looked up: law 6 to the last bit, and who shares them with whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.config.config import packaged_text, read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import CacheCounts
from framegate.pipeline.engine.alone import context_alone
from framegate.pipeline.store.memo import MemoGroups
from framegate.stages.detect import Detect, DetectState
from framegate.stages.detect.options import (
    CacheOptions,
    GateOptions,
    Mode,
    groups_fault,
)
from framegate.stages.detect.stage import DetectOptions
from framegate.stages.detections import Detections
from tests.stages.detect.test_detect import LEAST, answers, detect, item, pixels, stored

LOOP = [1, 1, 2, 3, 3, 3, 4, 5, 5, 6]  # seeds of pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def with_memory(
    folder: Path,
    memos: MemoGroups,
    mode: Mode,
    cache: CacheOptions | None = None,
) -> Detect:
    options = DetectOptions(
        min_score=LEAST,
        gate=GateOptions(mode=mode),
        cache=cache or CacheOptions(),
    )
    return Detect(options, context_alone(pixels, lambda: 0.0, folder, "decode", memo=memos.of))


def hits(stage: Detect, group: str = "a") -> int:
    return stage.models.of("a")._remembered[group].counts.hits


@pytest.mark.parametrize("mode", ["off", "frames", "crops"])
def test_a_loop_is_answered_as_if_nothing_were_remembered(folder: Path, mode: Mode) -> None:
    frames = [item(1, n, picture=LOOP[n % len(LOOP)]) for n in range(4 * len(LOOP))]
    wanted, _ = answers(detect(folder, mode), *frames)
    stage = with_memory(folder, MemoGroups(None), mode)
    one_by_one, _ = answers(stage, *frames)
    assert one_by_one == wanted
    looked = sum(each.looked != "no" for each in wanted)
    assert hits(stage) >= looked / 3
    states = {"a": DetectState()}
    batched: list[Detections] = []
    for first in range(0, len(frames), 7):
        said, after = stage.process(frames[first : first + 7], states)
        states |= stored(after)
        batched += said
    assert batched == wanted


@pytest.mark.parametrize("mode", ["off", "crops"])
def test_a_worker_finds_what_another_left(folder: Path, mode: Mode) -> None:
    memos = MemoGroups(None)
    frames = [item(1, n, picture=1 + n) for n in range(6)]
    first, _ = answers(with_memory(folder, memos, mode), *frames)
    stage = with_memory(folder, memos, mode)
    again, _ = answers(stage, *frames)
    assert again == first
    assert hits(stage) == sum(each.looked != "no" for each in first)


def test_sources_share_where_they_are_told_to(folder: Path) -> None:
    memos = MemoGroups(None)
    cache = CacheOptions(groups={"a": "hall", "b": "hall"})
    stage = with_memory(folder, memos, "off", cache)
    for source in "abc":
        stage.process([item(1, 0, 1, source)], {source: DetectState()})
    assert (hits(stage, "hall"), hits(stage, "c")) == (1, 0)
    assert stage.cache == CacheCounts(hits=1, misses=2, groups=2)
    assert set(stage.models.of("a")._remembered) == {"hall", "c"}


def test_a_changed_configuration_finds_nothing(folder: Path) -> None:
    memos = MemoGroups(None)
    before = with_memory(folder, memos, "off")
    answers(before, item(1, 0, 1))
    options = DetectOptions(min_score=LEAST + 0.01, gate=GateOptions(mode="off"))
    after = Detect(options, context_alone(pixels, lambda: 0.0, folder, "decode", memo=memos.of))
    answers(after, item(1, 0, 1))
    assert hits(after) == 0


def test_groups_have_names() -> None:
    assert groups_fault({"a": "hall"}) is None
    for wrong in ("", "Hall", "a-b", 3, ["hall"]):
        assert "name of a group" in str(groups_fault({"a": wrong}))


def test_the_table_is_checked_with_the_rest() -> None:
    text = packaged_text()
    assert read_config("t", text).stages
    wrong = text.replace("ttl_s = 86400.0", "ttl_s = 0.0").replace("exact = true", "exact = 1")
    with pytest.raises(ConfigFaults) as caught:
        read_config("t", wrong + '\n[cache.groups]\na = "A"\n')
    said = "\n".join(caught.value.faults)
    assert all(f"cache.{key}" in said for key in ("ttl_s", "exact", "groups"))
