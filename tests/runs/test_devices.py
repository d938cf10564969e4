"""`device` from the command line to results: taken, not there, not a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from framegate.models.detector.network import core
from tests.support.commands import framegate
from tests.support.footage import steady, write_scene

pytestmark = pytest.mark.whole_run

no_gpu = pytest.mark.skipif("GPU" in str(core().available_devices), reason="there is a GPU")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scene(tmp_path / "clip.mp4", steady(3))
    return tmp_path


def test_results_name_the_device_and_the_log_says_why(folder: Path) -> None:
    """A red box that moves is no object, so the end also says what to try."""
    write_scene(folder / "clip.mp4", steady(60), (320, 240))
    ended = framegate(folder, "run", "clip.mp4", "--json", "--device", "HETERO:CPU", "-d", "data")
    assert ended.code == 0, ended.err
    (made_by,) = {name for result in ended.results("clip") for name in result["models"]}
    assert "+hetero_cpu@" in made_by
    assert "light: computed on HETERO:CPU (CPU " in ended.err
    assert re.search(
        r"^framegate: clip: changes in \d+% of 60 frames, but 100% of the looks at them found "
        r"nothing \(0 objects in total\); try --detector surveillance \(",
        ended.err,
        re.MULTILINE,
    ), ended.err


@no_gpu
def test_a_device_that_is_not_there_ends_it_before_it_begins(folder: Path) -> None:
    for command in ("run", "check"):
        ended = framegate(folder, command, "clip.mp4", "--device", "GPU.1")
        said = ended.err + ended.out
        assert ended.code == 2, said
        assert "device 'GPU.1'" in said or "device = 'GPU.1'" in said
        assert "allowed here are CPU, AUTO" in said


@no_gpu
def test_doctor_says_so_too(folder: Path) -> None:
    (folder / "pipeline.toml").write_text('[stages.detect]\ndevice = "NPU"\n', encoding="utf-8")
    ended = framegate(folder, "doctor")
    assert ended.code == 1
    assert "FAIL  devices" in ended.out
    assert "stages.detect.device = 'NPU'" in ended.out


def test_a_word_that_is_no_device(folder: Path) -> None:
    ended = framegate(folder, "run", "clip.mp4", "--device", "gpu")
    assert ended.code == 2
    assert "GPU, GPU.1, NPU" in ended.err
