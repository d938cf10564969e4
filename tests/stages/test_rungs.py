"""Detect on a ladder: results name the rung that looked, and a restart goes on where it stood."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import RungsDiffer
from models.ladder import RungsUnordered
from pipeline.errors import ConfigFaults
from pipeline.stage import Context, Item
from pipeline.state_plane import StatePlane, unshared_plane
from stages.cache_options import CacheOptions
from stages.detect import Detect, DetectState
from stages.detect_options import DetectOptions
from stages.detections import Detections
from stages.gate_options import GateOptions, Mode
from stages.model_options import ModelOptions
from stages.rungs import LadderOptions
from stages.window_view import WindowOptions
from tests.own_models import own_model, relabelled
from tests.stages.test_detect import item, pixels, stored

Planes = Callable[[str, int], StatePlane]
RUNGS = ("nanodet-96", "nanodet-160", "nanodet-224")
FRAMES = 60


def climbing(
    folder: Path, mode: Mode = "off", plane: Planes | None = None, **options: object
) -> Detect:
    """plane: the run's shared memory, which outlives a worker."""
    given = {
        "detector": RUNGS[-1],
        "min_score": 0.05,
        "gate": GateOptions(mode=mode),
        "cache": CacheOptions(exact=False),
        "ladder": LadderOptions(RUNGS, limit=0.9),
        **options,
    }
    planes = plane or functools.cache(unshared_plane)
    context = Context(pixels, lambda: 0.0, folder, "window", plane=planes)
    return Detect(DetectOptions(**given), context)  # type: ignore[arg-type]


def said(stage: Detect, items: list[Item], state: DetectState | None = None) -> list[Detections]:
    """Frame by frame, with the state through the store each time."""
    states, answers = {"a": state or DetectState()}, []
    for each in items:
        [answer], after = stage.process([each], states)
        states = stored(dict(after))
        answers.append(answer)
    return answers


def frames(count: int = FRAMES) -> list[Item]:
    """Pictures that change every fifth frame."""
    return [item(1, seq, 1 + seq // 5) for seq in range(count)]


@pytest.mark.parametrize("mode", ["off", "frames", "crops"])
def test_it_begins_at_the_last_rung_and_says_who_looked(tmp_path: Path, mode: Mode) -> None:
    answers = said(climbing(tmp_path, mode), frames())
    names = [answer.models for answer in answers]
    assert names[0][0].startswith("nanodet-224-")
    assert all(name.startswith(RUNGS) for models in names for name in models)
    assert any(models[0].startswith("nanodet-96-") for models in names), "what is allowed falls"
    for answer in answers:
        assert len(answer.models) == 1 or answer.looked != "whole"


def test_a_strict_limit_stays_at_the_last_rung(tmp_path: Path) -> None:
    stage = climbing(tmp_path, ladder=LadderOptions(RUNGS, limit=0.0))
    assert {answer.models[0][:12] for answer in said(stage, frames())} == {"nanodet-224-"}


@pytest.mark.parametrize("mode", ["crops", pytest.param("off", marks=pytest.mark.long)])
def test_answers_do_not_depend_on_restarts_nor_batches(tmp_path: Path, mode: Mode) -> None:
    alone = said(climbing(tmp_path, mode), frames())
    planes = functools.cache(unshared_plane)
    first, second = (climbing(tmp_path, mode, planes) for _ in range(2))
    [*begun], states = first.process(frames()[:30], {"a": DetectState()})
    [*rest], _ = second.process(frames()[30:], stored(dict(states)))
    assert [*begun, *rest] == alone


def test_a_source_with_another_model_has_no_ladder(tmp_path: Path) -> None:
    own = ModelOptions(sources={"a": {"model": "nanodet-128"}})
    answers = said(climbing(tmp_path, models=own), frames(20))
    assert {answer.models[0][:12] for answer in answers} == {"nanodet-128-"}


@pytest.mark.parametrize(
    ("rungs", "error"),
    [
        (("nanodet-160", "nanodet-96", "nanodet-224"), RungsUnordered),
        (("parts", "nanodet-224"), RungsDiffer),
    ],
)
def test_ladders_that_are_none(
    tmp_path: Path, rungs: tuple[str, ...], error: type[Exception]
) -> None:
    own_model(tmp_path / "registry", "parts", classes=relabelled(), size=(96, 64))
    registry = ModelOptions(registry=str(tmp_path / "registry"))
    with pytest.raises(error):
        climbing(tmp_path, ladder=LadderOptions(rungs), models=registry)


@pytest.mark.parametrize(
    "with_it", [{"window": WindowOptions(True)}, {"cache": CacheOptions(near=True)}]
)
def test_what_does_not_go_with_a_ladder(tmp_path: Path, with_it: dict[str, object]) -> None:
    with pytest.raises(ConfigFaults, match=r"ladder\.rungs"):
        climbing(tmp_path, **with_it)
