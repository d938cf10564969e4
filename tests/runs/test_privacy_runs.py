"""`[privacy]` in a run: nothing shows or stores what masks hide, and faces shown are blurred."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from framegate.stages.footage.kept_pictures import kept_frames
from tests.support import footage
from tests.support.commands import Command, framegate
from tests.support.runs import published_in, wait_until

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).resolve().parents[2]
NAME = "images/coco128/000000000113.jpg"
PHOTOGRAPH = Path(os.environ.get("FRAMEGATE_DATA", ""), NAME)
FACES = json.loads((ROOT / "benchmarks" / "faces" / "labels.json").read_text(encoding="utf-8"))[
    NAME
]

needs_data = pytest.mark.skipif(
    not PHOTOGRAPH.is_file(), reason="FRAMEGATE_DATA has no images/coco128"
)

DONE, USAGE = 0, 2
SIZE = (97, 63)  # odd, as colour has half of it
HIDDEN = np.s_[:, :36]  # columns well inside of the mask; coding blurs what is beside its side
SHOWN = np.s_[:, 66:]
MASKS = "[privacy.masks]\ngate = [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]\n"
# No box, whose label would be drawn over it.
DETECT = '[stages.detect]\ndetector = "nanodet-plus-128"\nmin_score = 0.99\n'


def assert_hidden(picture: np.ndarray) -> None:
    """A picture, B, G, R: black where the mask is, and what was filmed beside it."""
    assert picture[HIDDEN].max() < 24
    assert picture[SHOWN].mean() > 60


def test_what_is_masked_is_not_shown_saved_or_kept(tmp_path: Path) -> None:
    folder, other = tmp_path / "user", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    # The command looks for runs where this user's are noted.
    (other / "state").symlink_to(folder / "state")
    times = footage.steady(600, fps=10)  # a minute: it is stopped long before
    footage.write_scene(folder / "gate.mkv", times, SIZE, footage.LOSSLESS)
    (folder / "pipeline.toml").write_text(
        f"{MASKS}{DETECT}[learn]\ncollect = true\n", encoding="utf-8"
    )
    words = ("gate.mkv", "--pace", "realtime", "--save", "videos", "-d", "data")

    def snapshot() -> bool:
        asked = ("snapshot", "gate", "--plain", "-d", str(folder / "data"))
        return framegate(other, *asked).code == DONE

    with Command(folder, "run", *words) as run:
        run.says("gate: running")
        wait_until("there is a picture", snapshot)
        wait_until("one is kept", lambda: kept_frames(folder / "data").get("gate"))
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert_hidden(cv2.imread(str(other / "gate.jpg")))
    [video] = (folder / "videos").glob("*.mp4")
    with av.open(str(video)) as saved:
        pictures = [frame.to_ndarray(format="bgr24") for frame in saved.decode(video=0)]
    assert pictures
    kept = kept_frames(folder / "data")["gate"].files
    pictures += [cv2.imread(str(file.path)) for file in kept]
    for picture in pictures:
        assert_hidden(picture)
    found = published_in(folder / "data", ["gate"])["gate"].results
    assert {result.outcome for result in found} <= {"detected", "carried"}


def test_a_masked_source_is_not_recorded(tmp_path: Path) -> None:
    footage.write_scene(tmp_path / "gate.mkv", footage.steady(5))
    (tmp_path / "pipeline.toml").write_text(
        f'{MASKS}[record]\nsources = ["gate"]\n', encoding="utf-8"
    )
    ended = framegate(tmp_path, "run", "gate.mkv", "-d", "data")
    assert ended.code == USAGE
    assert "areas that [privacy.masks] hides of gate" in ended.err
    assert not (tmp_path / "data").exists()


def test_a_mask_for_a_source_that_there_is_not_is_told(tmp_path: Path) -> None:
    footage.write_scene(tmp_path / "gat.mkv", footage.steady(5))
    quiet = "[gate.masks]\ngte = [[[0, 0], [9, 0], [9, 9]]]\n"
    (tmp_path / "pipeline.toml").write_text(MASKS + quiet + DETECT, encoding="utf-8")
    ended = framegate(tmp_path, "run", "gat.mkv")
    assert ended.code == DONE, ended.err
    assert "privacy.masks: 'gate' is no source of this run yet; did you mean gat?" in ended.err
    assert "gate.masks: 'gte' is no source of this run yet; did you mean gat?" in ended.err


@needs_data
def test_faces_are_blurred_in_what_is_shown_and_saved(tmp_path: Path) -> None:
    folder, other = tmp_path / "user", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "state").symlink_to(folder / "state")
    photograph = cv2.imread(str(PHOTOGRAPH))
    footage.write_frames(
        folder / "gate.mkv",
        [av.VideoFrame.from_ndarray(photograph, "bgr24").reformat(format="yuv420p")] * 300,
        footage.steady(300, fps=10),
        "libx264",
        {"preset": "ultrafast"},
    )
    (folder / "pipeline.toml").write_text(
        f"[privacy]\nblur_faces = true\n{DETECT}", encoding="utf-8"
    )
    words = ("gate.mkv", "--pace", "realtime", "--save", "videos", "-d", "data")

    def snapshot(name: str, *more: str) -> bool:
        asked = ("snapshot", "gate", "-d", str(folder / "data"), "-o", name, "--overwrite", *more)
        return framegate(other, *asked).code == DONE

    with Command(folder, "run", *words) as run:
        run.says("gate: running")
        wait_until("there is a picture", lambda: snapshot("plain.jpg", "--plain"))
        wait_until("there is one with boxes", lambda: snapshot("drawn.jpg"))
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    shown = [cv2.imread(str(other / name)) for name in ("plain.jpg", "drawn.jpg")]
    [video] = (folder / "videos").glob("*.mp4")
    with av.open(str(video)) as saved:
        shown += [frame.to_ndarray(format="bgr24") for frame in saved.decode(video=0)]
    for picture in shown:
        assert picture.shape == photograph.shape
        for left, top, right, bottom in FACES:
            face = np.s_[top:bottom, left:right]
            assert _detail(picture[face]) < 0.25 * _detail(photograph[face])
    elsewhere = np.s_[400:, :]
    assert _detail(shown[0][elsewhere]) > 0.5 * _detail(photograph[elsewhere])


def _detail(picture: np.ndarray) -> float:
    """How much neighbouring pixels differ, in the mean."""
    return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.CV_64F).std())


@needs_data
def test_a_clip_is_exported_with_its_faces_blurred(tmp_path: Path) -> None:
    photograph = cv2.imread(str(PHOTOGRAPH))
    frame = av.VideoFrame.from_ndarray(photograph, "bgr24").reformat(format="yuv420p")
    times = footage.steady(12, fps=4)
    options = {"preset": "ultrafast", "g": "4"}
    footage.write_frames(tmp_path / "gate.mkv", [frame] * 12, times, "libx264", options)
    (tmp_path / "pipeline.toml").write_text(
        f'{DETECT}[record]\nsources = ["gate"]\n', encoding="utf-8"
    )
    ended = framegate(tmp_path, "run", "gate.mkv", "-d", "data")
    assert ended.code == DONE, ended.err
    for name, more in (("as-it-came.mp4", ()), ("blurred.mp4", ("--blur-faces",))):
        words = ("recordings", "export", "gate", "-d", "data", "-o", name, *more)
        ended = framegate(tmp_path, *words)
        assert ended.code == DONE, ended.err
        with av.open(str(tmp_path / name)) as clip:
            seen = [(f.time, f.to_ndarray(format="bgr24")) for f in clip.decode(video=0)]
        assert [at for at, _ in seen] == pytest.approx(times, abs=0.002)
        for left, top, right, bottom in FACES:
            face = np.s_[top:bottom, left:right]
            left_of_it = [_detail(picture[face]) / _detail(photograph[face]) for _, picture in seen]
            assert (max(left_of_it) < 0.25) if more else (min(left_of_it) > 0.5)
    assert not list(tmp_path.glob(".framegate-*"))
