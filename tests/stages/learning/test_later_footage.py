"""`framegate models judge` on the demo's clip, with the light detector itself as teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framegate.cli.demo import shipped_clip
from framegate.cli.main import main
from framegate.models.learning.judgement import NOT_JUDGED, refusal_of
from framegate.models.picture import Picture
from framegate.models.registry.manifest import FootageSpan, Learned, Manifest
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.progress import no_report
from framegate.stages.footage.footage import FootageFrame
from framegate.stages.learning.later_footage import is_later, judge, was_learned
from tests.support.own_models import measured_cache, own_model, specialised

pytestmark = pytest.mark.whole_run

CLIP = str(shipped_clip())
STREETS = [f"{day}={CLIP}" for day in ("tuesday", "wednesday")]  # the models learned from "a"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "registry"
    own_model(root, "seer", min_score=0.2)
    specialised(root, "street", ["car", "truck"])
    specialised(root, "place", ["car", "truck"], from_column=0.9)
    specialised(root, "guess", ["car", "truck"], confirmed=())
    measured_cache(root.parent / "cache")
    return root


@pytest.fixture
def registry(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.parent / "cache"))
    return made


def words(registry: Path, model: str, *streets: str) -> list[str]:
    said = ["models", "judge", model, "--from", *streets, "--registry", str(registry)]
    return [*said, "--teacher", "seer"]


def test_a_model_that_holds_its_own_may_serve(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Registry(registry)
    manifest = store.find("street").manifest
    assert refusal_of(manifest.metrics) == NOT_JUDGED
    assert main(words(registry, "street", *STREETS)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "may serve: by agreement with the teacher, F1 +" in printed
    assert "against light, as shipped" in printed
    kept = store.judgement(manifest)
    assert kept is not None
    assert refusal_of(kept) == ""
    assert kept["judged_frames"] >= 50
    assert kept["difference_low"] > 0
    assert kept["ms"] > 0
    assert "car" not in kept["forgotten"]
    assert store.find("street").manifest == manifest


def test_a_model_that_sees_less_is_refused_with_the_reason(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(registry, "place", STREETS[0])) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "refused: the gain may be chance: its interval includes zero (F1 -" in printed
    kept = Registry(registry).judgement(Registry(registry).find("place").manifest)
    assert kept is not None
    assert "its interval includes zero" in refusal_of(kept)


def test_what_is_wrong_is_told(registry: Path) -> None:
    def told(**said: object) -> str:
        usual = {"ref": "street", "sources": tuple(STREETS), "teacher_model": "seer", "frames": 20}
        with pytest.raises(ConfigFaults) as caught:
            judge(meter=no_report, **{**usual, "registry": registry, **said})  # type: ignore[arg-type]
        return str(caught.value)

    assert "neither tuned nor trained" in told(ref="seer")
    assert "guess@1: no person confirmed that its classes (car, truck)" in told(ref="guess")
    assert "did you mean street" in told(ref="strete")
    # The clip lasts 40 s, and the model learned from the first 60 s of source "a".
    assert "no picture is later than the footage of street@1" in told(sources=(f"a={CLIP}",))


def test_what_is_later_is_no_neighbour_of_what_was_learned(registry: Path) -> None:
    usual = Registry(registry).find("street").manifest
    spans = FootageSpan("gate", 1000.0, 1600.0), FootageSpan("door", 0.0, 60.0)
    manifest: Manifest = replace(usual, learned=Learned("light", "heavy", 9, 9, spans))
    grey = np.full((4, 4), 128, np.uint8)
    picture = Picture(grey, grey[:2, :2], grey[:2, :2], "bt601", full_range=False)

    def at(source: str, moment_s: float) -> tuple[bool, bool]:
        frame = FootageFrame(picture, source, moment_s)
        return was_learned(frame, manifest), is_later(frame, manifest)

    assert at("gate", 999.0) == (False, False)
    assert at("gate", 1300.0) == (True, False)
    assert at("gate", 1640.0) == (False, False)
    assert at("gate", 1651.0) == (False, True)
    assert at("door", 59.0) == (True, False)
    assert at("yard", 1.0) == (False, True)
