"""`framegate train` on the demo's clip, the light detector itself its teacher: it is quicker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from framegate.cli.console import terminal
from framegate.cli.demo import shipped_clip
from framegate.cli.main import main
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.learning.teacher import TeacherLabels
from framegate.models.learning.tuning import Look
from framegate.models.picture import from_bgr
from framegate.models.registry.open import open_model
from framegate.models.registry.registry import Registry
from framegate.models.training.lessons import pictured
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.stages.learning.choices import ClassChoice
from framegate.stages.learning.student_training import Views, lessons_of, train
from framegate.stages.learning.training_request import ASKED, TrainRequest
from tests.models.learning.test_thresholds import boxes
from tests.support.own_models import own_cache, tuned_model

CLIP = str(shipped_clip())
# Twice the same street: one alone has too few pictures in which something moves.
STREETS = (f"monday={CLIP}", f"tuesday={CLIP}")
GIGABYTES_2 = 2 * 2**30
NO_VIEWS = Views(None, None, overwrite=False)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a teacher in it, and a cache of its own."""
    own_cache(tmp_path / "cache", monkeypatch)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    root = tmp_path / "registry"
    tuned_model(root, "seer", min_score=0.2)
    return root


def quiet(*_: object, **__: object) -> None:
    """Nobody is told how far it is."""


@pytest.mark.long
def test_from_footage_to_a_trained_model(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in its second step, it goes on, and becomes a model that answers."""
    shown = tmp_path / "shown.png"
    words = ["train", "street", "--registry", str(registry)]
    first = ["--from", *STREETS, "--teacher", "seer", "--classes", "car,person"]
    first += ["--minutes", "0.01"]
    begun = []

    def stop(what: str, *_: object, **__: object) -> None:
        if what == "training" and not begun:
            begun.append(what)
            signal.raise_signal(signal.SIGINT)

    said = terminal.Meter.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            terminal.Meter, "__call__", lambda own, *a, **k: (stop(*a, **k), said(own, *a, **k))
        )
        code = main([*words, *first, "--show", str(shown)])
    assert code == Exit.STOPPED_TWICE
    assert "stopped: after step 2 of 100" in capsys.readouterr().out
    assert shown.read_bytes().startswith(b"\x89PNG")
    assert main([*words, *first, "--seed", "1"]) == Exit.USAGE  # another one is not over
    code = main([*words, "--resume"])
    printed = capsys.readouterr().out
    assert "trained: 100 steps" in printed
    assert "size: chosen by F1 of the light detector, tuned to these pictures" in printed
    if code == Exit.DONE:  # else the same street says that it may not serve
        folder = Registry(registry).find("street@1")
        assert folder.manifest.learned is not None
        assert set(folder.manifest.min_scores) <= set(folder.manifest.classes)
        assert len(open_model(folder, "f32", 1).class_ids) == len(folder.manifest.min_scores)
    else:
        assert "not added: " in printed
    assert not (tmp_path / "share" / "framegate" / "training" / "street").exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_a_training_takes_at_most_two_gigabytes(registry: Path) -> None:
    """As a user starts it: the heavy pass its teacher, the larger input, eight pictures a step."""
    words = ("train", "street", "--registry", str(registry), "--from", *STREETS)
    short = ("--size", "accurate", "--minutes", "0.01")
    command = [sys.executable, "-m", "framegate.cli", *words, *short]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # with the children that it has waited for
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == Exit.DONE
    assert used.ru_maxrss * 1024 <= GIGABYTES_2


def test_what_the_teacher_does_not_show_is_background_and_what_was_struck_is_left_out() -> None:
    picture = pictured(from_bgr(np.zeros((180, 320, 3), np.uint8)), 320)
    kept, struck = coco.LABELS.index("person"), coco.LABELS.index("vase")
    said = TeacherLabels(boxes((0, 0.9, kept)), boxes((40, 0.9, struck)))
    look = Look("gate", 0.0, said, {})
    [lesson] = lessons_of([look], [], {("gate", 0.0): picture}, [kept], 320).earlier
    sure, unsure = (Boxes.from_bytes(part) for part in (lesson.sure, lesson.unsure))
    assert (sure.class_ids.tolist(), unsure.class_ids.tolist()) == ([0], [1])  # 1: none of its own
    # People labelled vases there, not people: that nobody is labelled teaches nothing.
    by_people = replace(look, said=replace(said, people=frozenset({struck})))
    with pytest.raises(ConfigFaults, match="people labelled only some of these classes"):
        lessons_of([by_people], [], {("gate", 0.0): picture}, [kept], 320)


def test_a_folder_that_is_not_its_own_is_refused(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine", encoding="utf-8")
    request = TrainRequest("street", STREETS, tmp_path / "notes", registry=registry)
    with pytest.raises(ConfigFaults, match="it is not empty"):
        train(request, NO_VIEWS, False, lambda _: ClassChoice((), {}), quiet)
    with pytest.raises(ConfigFaults, match="has no training"):
        train(request, NO_VIEWS, True, lambda _: ClassChoice((), {}), quiet)
    (tmp_path / "notes" / ASKED).write_bytes(b"half")
    with pytest.raises(ConfigFaults, match=ASKED):
        train(request, NO_VIEWS, True, lambda _: ClassChoice((), {}), quiet)
    assert (tmp_path / "notes" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_a_gpu_that_is_not_there_is_refused_first(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    request = TrainRequest("street", STREETS, tmp_path / "new", device="cuda", registry=registry)
    with pytest.raises(ConfigFaults, match="--device cuda: torch finds no GPU here"):
        train(request, NO_VIEWS, False, lambda _: ClassChoice((), {}), quiet)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["light", "Gate 1"])
def test_names_that_no_model_may_have_are_refused_first(
    name: str, registry: Path, tmp_path: Path
) -> None:
    request = TrainRequest(name, STREETS, tmp_path / "new", registry=registry)
    with pytest.raises(ConfigFaults):
        train(request, NO_VIEWS, False, lambda _: ClassChoice((), {}), quiet)
    assert not (tmp_path / "new").exists()
