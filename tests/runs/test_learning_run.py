"""From cameras to their own models in a run that goes on: collect, tune, judge, use, roll back."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.results import Result
from framegate.stages.footage.kept_pictures import kept_frames
from tests.support import footage
from tests.support.asked import Asked
from tests.support.cameras.background import Background
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.commands import Command
from tests.support.own_models import own_model
from tests.support.runs import DEADLINE_S, environment, published_in, wait_until

pytestmark = pytest.mark.whole_run

DATA = os.environ.get("FRAMEGATE_DATA")
CAMERAS = {"bottles": "bottle-detection.mp4", "people": "one-by-one-person-detection.mp4"}
CONFIRMED = {"bottles": "bottle", "people": "person"}
REPEATS = 150  # more than is seen of them before the test is over
LIVE = 4  # pictures that a camera has to have kept; a file of the same scene brings the rest
TABLE = files("framegate.pipeline.config").joinpath("pipeline.toml").read_text(encoding="utf-8")
DONE = 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if DATA is None:
        pytest.skip("FRAMEGATE_DATA names no folder with the clips")
    folder = tmp_path / "user"
    folder.mkdir()
    for name, clip in CAMERAS.items():
        footage.repeat(Path(DATA) / "clips" / clip, folder / f"{name}.mp4", REPEATS)
    assert "\ncollect = false\n" in TABLE
    (folder / "pipeline.toml").write_text(
        TABLE.replace("\ncollect = false\n", "\ncollect = true\n"), encoding="utf-8"
    )
    # So much less sure than the light detector that a tuned one agrees with it better by no chance.
    own_model(tmp_path / "registry", "seer", min_score=0.08)
    return folder


def does(folder: Path, *words: str) -> str:
    """Have a command done beside the run."""
    ended = subprocess.run(
        [sys.executable, "-m", "framegate.cli", *words],
        cwd=folder,
        env={**environment(), "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        encoding="utf-8",
    )
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    return ended.stdout


def made_by(result: Result) -> str:
    """The model that served a frame."""
    return result.models[0].partition("-")[0]


@pytest.mark.long
@pytest.mark.timeout(4800)
def test_two_cameras_have_models_of_their_own_while_they_run(folder: Path) -> None:
    assert DATA is not None
    asked, data, registry = Asked(folder), folder / "data", folder.parent / "registry"
    taught = ("--teacher", "seer", "--registry", str(registry), "--size", "320")
    # At the pace of cameras: what learns gives way to a run, and beside files at full speed it
    # would have to wait for their end.
    with Command(
        folder, "run", "bottles.mp4", "people.mp4", "-d", "data", "--pace", "realtime"
    ) as run:
        for name in CAMERAS:
            wait_until(
                f"footage of {name}",
                lambda name=name: len(getattr(kept_frames(data).get(name), "files", ())) >= LIVE,
                300.0,
            )
        for name, clip in CAMERAS.items():
            both = ("--from", f"data:{name}", f"older={Path(DATA) / 'clips' / clip}")
            confirmed = ("--classes", CONFIRMED[name])
            said = does(folder, "tune", name, *both, *taught, *confirmed, "--if-needed", "--use")
            assert f"in use: {name}@" in said
        for name in CAMERAS:
            wait_until(
                f"{name} is served by its own model",
                lambda name=name: any(
                    one["models"][0].startswith(f"{name}-")
                    for one in asked.store.results(name)[-20:]
                ),
            )
        for name in CAMERAS:
            at = len(asked.store.results(name))
            wait_until(f"more of {name}", lambda n=name, at=at: len(asked.store.results(n)) > at)
        asked.does("models", "rollback", "--sources", "people")
        wait_until(
            "people are served by the general model again",
            lambda: asked.store.results("people")[-1]["models"][0].startswith("nanodet-"),
        )
        run.interrupt()
        ended = run.wait(DEADLINE_S)
    assert ended.code == DONE, ended.err
    found = published_in(data, list(CAMERAS))
    served = {}
    for name, kept in found.items():
        first = kept.positions[0]
        positions = [(one.epoch, one.seq) for one in kept.positions]
        assert positions == [(1, first.seq + n) for n in range(len(positions))]
        assert not [one for one in kept.results if one.outcome == "failed"]
        served[name] = [model for model, _ in itertools.groupby(map(made_by, kept.results))]
        own = Registry(registry).find(name).manifest
        assert own.learned is not None
        assert own.metrics["difference_low"] > 0
    assert served["bottles"][-1] == "bottles"
    assert served["people"][-2:] == ["people", "nanodet"]


@pytest.mark.long
@pytest.mark.timeout(4800)
def test_a_camera_over_rtsp_is_served_by_what_was_trained_while_it_ran(folder: Path) -> None:
    """The other one, a file, is tuned before its model serves."""
    pytest.importorskip("torch", reason="the train extra is not installed")
    assert DATA is not None
    clips = {name: str(Path(DATA) / "clips" / clip) for name, clip in CAMERAS.items()}
    asked, data, registry = Asked(folder), folder / "data", folder.parent / "registry"
    taught = ("--teacher", "seer", "--registry", str(registry))
    with (
        closing(Background()) as background,
        closing(ToolkitCamera(background, folder)) as camera,
        Command(
            folder,
            *("run", "people.mp4", "-d", "data", "--pace", "realtime"),
            f"bottles=rtsp://127.0.0.1:{camera.port}{camera.path('bottles.mp4')}",
        ) as run,
    ):
        for name in CAMERAS:
            wait_until(
                f"footage of {name}",
                lambda name=name: len(getattr(kept_frames(data).get(name), "files", ())) >= LIVE,
                300.0,
            )
        # Trained: what little the camera kept, and an older recording of it, by few steps.
        both = ("--from", "data:bottles", f"older={clips['bottles']}")
        few = ("--frames", "200", "--minutes", "0.01", "--classes", "bottle")
        said = does(folder, "train", "bottles", *both, *few, *taught, "--if-needed", "--use")
        assert "needed: there is no model bottles" in said
        assert "trained: 100 steps" in said
        assert "in use: bottles@" in said
        # Tuned, then used.
        both = ("--from", "data:people", f"older={clips['people']}")
        does(folder, "tune", "people", *both, *taught, "--size", "320", "--classes", "person")
        there = ("--registry", str(registry), "-d", "data")
        does(folder, "models", "use", "people", "--sources", "people", *there)
        for name in CAMERAS:
            wait_until(
                f"{name} is served by its own model",
                lambda name=name: asked.store.results(name)[-1]["models"][0].startswith(name),
            )
            at = len(asked.store.results(name))
            wait_until(f"more of {name}", lambda n=name, at=at: len(asked.store.results(n)) > at)
        for source in asked.sources().values():
            dropped = sum(source["dropped"].values())
            assert source["decoded"] == source["published"] + dropped + source["in_flight"]
        assert asked.store.counters("bottles")["connects"] == 1
        run.interrupt()
        ended = run.wait(DEADLINE_S)
    assert ended.code == DONE, ended.err
    for name, kept in published_in(data, list(CAMERAS)).items():
        assert kept.positions == sorted(set(kept.positions))
        assert {one.epoch for one in kept.positions} == {1}
        assert not [one for one in kept.results if one.outcome == "failed"]
        served = [model for model, _ in itertools.groupby(map(made_by, kept.results))]
        assert served == ["nanodet", name]
