"""The composed hour: the same for a seed, as the truth says, and equal where nothing changes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.heavy_truth import key_of
from benchmarks.promise.composed_hour import FPS, Part, Seen, Visit, compose, draw, plan
from benchmarks.promise.composed_parts import Parts, Thing
from framegate.models.picture import ByteArray
from tools.compose_footage import Mover, soft_edges

FRAMES = 600


def parts() -> Parts:
    """Two gray scenes, a white thing 40 by 60 and a black one."""
    scenes = [np.full((90, 160, 3), level, np.uint8) for level in (90, 120)]
    white, black = (np.full((60, 40, 3), level, np.uint8) for level in (255, 0))
    return Parts(
        scenes,
        [Thing(7, white, soft_edges(white, 0.05))],
        [Thing(3, black, soft_edges(black, 0.05))],
    )


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    truths = [
        compose(parts(), path, FRAMES, seed) for path, seed in zip(paths, (1, 1, 2), strict=True)
    ]
    assert truths[0] == truths[1] != truths[2]
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_pictures_change_only_where_something_happens(tmp_path: Path) -> None:
    """Most are the one before, as drawn and as decoded."""
    pictures = [picture for picture, _ in draw(plan(parts(), FRAMES, 0))]
    same = [a is b for a, b in pairwise(pictures)]
    assert len(pictures) == FRAMES
    assert 0.5 < np.mean(same) < 0.95
    compose(parts(), path := tmp_path / "clip.mp4", FRAMES, 0)
    clip = GateClip("clip", "quiet", path, FRAMES + 1, FPS)
    shots = [(shot.pts, key_of(shot.picture)) for shot in clip.shots()]
    assert [pts for pts, _ in shots] == pytest.approx([n / FPS for n in range(FRAMES)])
    kept = [a[1] == b[1] for a, b in pairwise(shots)]
    assert np.mean(np.array(kept) >= np.array(same)) > 0.98  # a codec may settle for a frame


def test_noise_leaves_no_two_pictures_equal(tmp_path: Path) -> None:
    compose(parts(), path := tmp_path / "clip.mp4", 30, 0, noise=4.0)
    keys = {key_of(shot.picture) for shot in GateClip("clip", "quiet", path, 30, FPS).shots()}
    assert len(keys) == 30


def visit(x: float, speed: float = 0.0) -> Visit:
    """A white thing, 40 by 60, in the middle of 90 rows: 4 steps, a halt of 5 frames, 4 steps."""
    thing = parts().clear[0]
    way = np.array([x, 45.0]), np.array([speed, 0.0])
    mover = Mover(thing.bgr, thing.alpha, *way, (0, 4, 0), 1.0, 1.0, (0, 8))
    return Visit(thing, mover, 0, 8, 5)


def drawn(*visits: Visit) -> list[tuple[ByteArray, tuple[Seen, ...]]]:
    frames = max((one.end for one in visits), default=1)
    scene = np.full((90, 160, 3), 90, np.uint8)
    return list(draw([Part(scene, visits, np.ones(frames, np.float32))]))


def test_a_visit_halts_in_its_midst() -> None:
    one = visit(0.0, speed=2.0)
    assert [one.step(frame) for frame in range(one.end)] == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 6, 7]
    pictures = [picture for picture, _ in drawn(one)]
    assert [a is b for a, b in pairwise(pictures)] == [False] * 4 + [True] * 5 + [False] * 3


def test_a_box_is_where_the_picture_differs_from_the_scene() -> None:
    for picture, (seen,) in drawn(visit(0.0, speed=2.0)):
        rows, columns = np.nonzero(picture[..., 0] != 90)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert edges == pytest.approx(seen.box, abs=2.5)
        assert (seen.class_id, seen.visit) == (7, 0)


def test_half_out_of_the_picture_half_is_seen() -> None:
    ((_, (seen,)), *_) = drawn(visit(0.0))
    assert seen.share == pytest.approx(0.5, abs=0.02)
    assert seen.box == (0, 15, 20, 75)


def test_who_stands_in_front_hides_the_one_behind() -> None:
    ((_, (behind, front)), *_) = drawn(visit(80.0), visit(90.0))
    assert behind.share == pytest.approx(0.25, abs=0.05)
    assert front.share == pytest.approx(1.0, abs=0.01)
    ((_, seen), *_) = drawn(visit(80.0), visit(80.0))
    assert [one.visit for one in seen if one.share > 0.1] == [1]
