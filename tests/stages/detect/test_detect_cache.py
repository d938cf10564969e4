"""Detect with answers that are looked up: law 6 to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.config.config import packaged_text, read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import CacheCounts
from framegate.pipeline.engine.context_alone import context_alone
from framegate.stages.detect import Detect
from framegate.stages.detect.memory import DetectState
from framegate.stages.detect.options import DetectOptions, GateOptions, Mode
from framegate.stages.detections import Detections
from tests.stages.detect.test_detect import LEAST, answers, detect, item, pixels, stored

LOOP = [1, 1, 2, 3, 3, 3, 4, 5, 5, 6]  # seeds of pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def with_memory(folder: Path, mode: Mode) -> Detect:
    options = DetectOptions(min_score=LEAST, gate=GateOptions(mode=mode))
    return Detect(options, context_alone(pixels, lambda: 0.0, folder, "decode"))


def hits(stage: Detect, source: str = "a") -> int:
    return stage.models.of(source)._recalls[source].counts.hits


@pytest.mark.parametrize("mode", ["off", "frames", "crops"])
def test_a_loop_is_answered_as_if_nothing_were_remembered(folder: Path, mode: Mode) -> None:
    frames = [item(1, n, picture=LOOP[n % len(LOOP)]) for n in range(4 * len(LOOP))]
    wanted, _ = answers(detect(folder, mode), *frames)
    stage = with_memory(folder, mode)
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


def test_sources_of_a_worker_share_answers(folder: Path) -> None:
    stage = with_memory(folder, "off")
    for source in "abc":
        stage.process([item(1, 0, 1 + (source == "c"), source)], {source: DetectState()})
    assert [hits(stage, source) for source in "abc"] == [0, 1, 0]
    assert stage.cache == CacheCounts(hits=1, misses=2, sources=3)


def test_the_table_is_checked_with_the_rest() -> None:
    text = packaged_text()
    assert read_config("t", text).stages
    with pytest.raises(ConfigFaults, match=r"cache\.exact"):
        read_config("t", text.replace("exact = true", "exact = 1"))
