"""`framegate models`, as people type it, on a network that is shipped."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from framegate.cli.main import main
from framegate.models import coco
from framegate.models.registry.registry import Registry
from tests.support.made_models import folder_of

pytestmark = pytest.mark.whole_run

NANODET = Path(__file__).resolve().parents[2] / "models" / "weights" / "nanodet-plus.xml"
OUTPUT = ("--outputs", "cells", "--option", "scores=logits")
NORMALISED = ("--mean", "0,0,0", "--std", "1,1,1")  # inside the network


@pytest.fixture
def models(tmp_path, capsys):
    """Runs a verb; exit code, standard output, standard error."""

    def run(*words):
        code = main(["models", *map(str, words), "--registry", str(tmp_path / "registry")])
        said = capsys.readouterr()
        return int(code), said.out, said.err

    return run


def add(models, *more):
    said = ("--name", "yard", "--classes", "coco", "--size", "416x256")
    return models("add", NANODET, *said, *OUTPUT, *NORMALISED, *more)


def test_add_list_show_remove(models, tmp_path):
    drawn = tmp_path / "drawn.png"
    code, out, _ = add(models, "--min-score", "0.05", "--drawn", drawn, "--licence", "Apache-2.0")
    assert code == 0
    assert "format: nanodet_joined; [2212, 112]: 80 class scores and 8 bins per side" in out
    assert "input: 416x256, stretched, bgr: usual for NanoDet; as given: mean, std" in out
    assert "added: yard@1 (yard@" in out
    assert cv2.imread(str(drawn)).shape[1] >= 416
    code, out, _ = models("list")
    assert code == 0
    assert out.startswith("yard@1 ")
    assert "416x256  f32  80 classes" in out
    code, out, _ = models("show", "yard")
    assert code == 0
    assert "licence    Apache-2.0" in out
    assert "thresholds score 0.05, IoU 0.5, 100 boxes" in out
    assert "files      2, each with the sha256 of the manifest" in out
    assert models("remove", "yard@1")[0] == 0
    assert models("list")[1].startswith("no model in ")


def test_text_of_a_model_controls_no_terminal(models, tmp_path):
    made = folder_of(tmp_path / "made", licence="\x1b[2Jfree", metrics={"note": "\x9b2J"})
    Registry(tmp_path / "registry").put(made)
    code, out, _ = models("show", "yard")
    assert code == 0
    assert "licence    \ufffd[2Jfree" in out
    assert "metrics    note \ufffd2J" in out


def test_classes_may_be_a_long_list(models):
    """Longer than a file's name may be; as COCO's own names are."""
    code, out, _ = models(
        "add", NANODET, "--name", "yard", "--classes", ",".join(coco.LABELS), *OUTPUT, *NORMALISED,
        "--size", "416x256",
    )  # fmt: skip
    assert (code, "added: yard@1" in out) == (0, True)
    code, _, err = models("add", "m" * 300, "--name", "yard")
    assert code == 2
    assert "m" * 300 in err


@pytest.mark.parametrize("name", ["light", "heavy", "nanodet-plus-320", "surveillance"])
def test_names_that_mean_something_else(models, name):
    code, _, err = models("add", NANODET, "--name", name)
    assert code == 2
    assert f"--name {name}: this name is reserved for a shipped model" in err


def test_a_folder_copied_from_another_machine(models, tmp_path):
    add(models)
    (folder,) = (tmp_path / "registry").iterdir()
    folder.rename(tmp_path / "copied")
    assert models("list")[1].startswith("no model in ")
    code, out, _ = models("add", tmp_path / "copied")
    assert code == 0
    assert f"added: yard@1 (yard@{folder.name[:8]})" in out
    (tmp_path / "copied" / "model.bin").write_bytes(b"other")
    code, _, err = models("add", tmp_path / "copied")
    assert code == 2
    assert "model.bin: expected sha256" in err


def test_pictures_of_the_user(models, tmp_path):
    photograph = tmp_path / "wall.png"
    cv2.imwrite(str(photograph), np.full((120, 200, 3), 127, np.uint8))
    code, out, _ = add(models, "--picture", photograph)
    assert code == 0
    assert "proof: 1 pictures, the pictures given" in out
    assert "no box above 0.25; the best score is 0." in out
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    code, _, err = add(models, "--picture", tmp_path / "notes.txt")
    assert code == 2
    assert "neither photograph nor video" in err


def test_faults_are_told_with_the_flag_that_mends_them(models):
    code, _, err = models("add", NANODET, "--name", "yard", "--classes", "coco")
    assert code == 2
    assert "leaves the size of its input open; choose with --size" in err
    code, _, err = models(
        "add", NANODET, "--name", "yard", "--classes", "coco", *OUTPUT, "--size", "416x256",
        "--std", "1,1,0",
    )  # fmt: skip
    assert code == 2
    assert "manifest: input.std = 0.0: allowed is a number from" in err
    code, _, err = models("add", NANODET, "--size", "416")
    assert code == 2
    assert "--name NAME" in err
    code, _, err = models("show", "garden")
    assert code == 2
    assert "model 'garden': not in the registry, which has no model" in err
    assert models("list")[0] == 0
    code, _, err = add(models, "--format", "detr_joined")
    assert code == 2
    assert "--option scores: unknown; options of detr_joined: none" in err
    with pytest.raises(SystemExit):
        add(models, "--scale", "a lot")


def test_a_broken_one_is_listed(models, tmp_path):
    add(models)
    (manifest,) = tmp_path.glob("registry/*/manifest.json")
    (manifest.parent / "model.bin").write_bytes(b"")
    code, _, err = models("show", "yard")
    assert code == 2
    assert "model.bin: expected sha256" in err
    manifest.write_text("{}", encoding="utf-8")
    code, out, _ = models("list")
    assert code == 1
    assert "broken: " in out
