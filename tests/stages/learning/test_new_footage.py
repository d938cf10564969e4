"""`tune --if-needed --use`: nothing is learned again without a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from framegate.cli.demo import shipped_clip
from framegate.cli.learning.tune import reason, runs_among
from framegate.cli.main import main
from framegate.models.registry.manifest import FootageSpan, Learned
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.registry import Registry
from framegate.stages.footage.kept_pictures import Keeper
from framegate.stages.footage.labelled import exported_name
from framegate.stages.learning.later_footage import NewFootage, new_footage
from tests.stages.footage.test_kept import NOW, ROOM, frame, keep
from tests.stages.footage.test_labelled import coco, draw
from tests.support.own_models import specialised

CLIP = str(shipped_clip())


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """With a model that learned from 100 pictures of "gate" until the 60th second from NOW."""
    root = tmp_path / "registry"
    folder = specialised(root, "gate", ["car"])
    learned = Learned("light", "heavy", 100, 300, (FootageSpan("gate", NOW, NOW + 60),))
    Registry(root).put(ModelFolder(folder.path, replace(folder.manifest, learned=learned)))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """With frames of "gate", of which 7 are later than what learned and judged, and 3 of "door"."""
    keeper = Keeper(tmp_path / "data", ROOM)
    for seq in range(0, 140, 5):
        keep(keeper, frame(seq, moment_s=NOW + seq))
    for seq in range(3):
        keep(keeper, frame(seq, "door", moment_s=NOW + seq))
    return tmp_path / "data"


def test_new_is_what_is_later_or_of_another_source(registry: Path, data: Path) -> None:
    def new(*words: str) -> int:
        return new_footage("gate", words, registry).new

    assert new(f"{data}:gate") == 7
    assert new(f"{data}:door") == 3
    assert new(str(data)) == 10
    assert new(f"gate={CLIP}") == 0
    assert new(f"gate={CLIP}", f"yard={CLIP}") == 100
    assert new_footage("nobody", (CLIP,), registry) == NewFootage(None, 0)


def test_labelled_pictures_are_as_new_as_their_names_state(registry: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for moment_s in (NOW, NOW + 50, NOW + 135):
        draw(labels / "images" / f"{exported_name('gate', 1, int(moment_s), moment_s)}.png")
    (labels / "classes.txt").write_text("car\n", encoding="utf-8")
    assert new_footage("gate", (str(labels),), registry).new == 1


def test_a_model_is_used_for_the_sources_of_its_footage(data: Path, tmp_path: Path) -> None:
    """A folder of labels, a video and a data folder without footage are no run to use it."""
    others = coco(tmp_path / "labels"), tmp_path / "empty"
    (tmp_path / "empty" / "footage").mkdir(parents=True)
    assert runs_among([CLIP, *map(str, others)]) == {}
    assert runs_among([f"{data}:gate"]) == {data: {"gate"}}
    keep(Keeper(data, ROOM), frame(1, "yard"))
    (data / "footage" / "door").rename(tmp_path / "door")
    both = {data: {"gate", "yard"}}
    assert runs_among([str(data)]) == both
    assert runs_among([f"{data}:gate", str(data)]) == both
    assert runs_among([str(data), f"{data}:gate"]) == both


def test_there_has_to_be_a_reason() -> None:
    for footage, expected in (
        (NewFootage(None, 0), "there is no model gate"),
        (NewFootage(100, 99), ""),
        (NewFootage(100, 100), "100 pictures are new; it learned from 100"),
        (NewFootage(20, 49), ""),
        (NewFootage(20, 50), "50 pictures are new; it learned from 20"),
    ):
        assert reason(footage, "gate") == expected


def test_a_tuned_model_does_not_replace_a_trained_one(
    registry: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Registry(registry).find("gate")
    trained = replace(folder.manifest, version="2", metrics={"training_cpu_s": 123})
    Registry(registry).put(ModelFolder(folder.path, trained))
    words = ["tune", "gate", "--from", f"{data}:gate", "--registry", str(registry)]
    assert main([*words, "--if-needed", "--use"]) == 2
    assert "--use: gate@2 was trained" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--if-needed"]) == 0


@pytest.mark.parametrize("command", ["tune", "train"])
def test_the_command_says_so_and_does_nothing(
    registry: Path, data: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "train":
        pytest.importorskip("nncf", reason="the extra train is not installed")
    words = [command, "gate", "--from", f"{data}:gate", "--registry", str(registry)]
    before = sorted(registry.iterdir())
    assert main([*words, "--if-needed"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "nothing to do: gate learned from 100 pictures, 7 are new" in told
    assert sorted(registry.iterdir()) == before
    assert main([command, "gate", "--from", CLIP, "--use", "--registry", str(registry)]) == 2
    assert "no --from is a run's data folder" in capsys.readouterr().err
