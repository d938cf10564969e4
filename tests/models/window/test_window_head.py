"""A window's answers come from its rows alone: computed once or anew, in any order of calls."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from framegate.models.boxes import Boxes
from framegate.models.detector import detector
from framegate.models.gate import crops
from framegate.models.window import features
from framegate.models.window.features import LENGTH, RegionFeatures
from framegate.models.window.head import FILE, NewFrame, WindowHead, WindowStep
from framegate.models.window.rows import (
    MOST,
    ROWS,
    FrameRow,
    RowUnreadable,
    WindowRows,
    row_bytes,
    tile_grid,
    tiles_after,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.shared_memory.state import unshared_ring
from framegate.stages.decode.file import FileSource
from framegate.stages.planes import as_picture

SIZE = (640, 360)
GRID = tile_grid(*SIZE, 416)
CLIP = "clips/bottle-detection.mp4"


@cache
def head() -> WindowHead:
    return WindowHead()


def made(seed: int, n: int, seq: int, objects: int = 5) -> NewFrame:
    """A frame with `n` boxes about the same `objects` places, all fresh."""
    rng = np.random.default_rng(seed)
    place = np.arange(n) % objects
    corner = np.stack([100 * place, 40 * place], axis=1) + rng.normal(0, 2, (n, 2))
    xyxy = np.concatenate([corner, corner + 80], axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 0.9, n))[::-1].astype(np.float32)
    ids = np.where(np.arange(n) < objects, place + 1, 0).astype(np.int32)
    look = RegionFeatures(unit(rng, n), unit(rng, *GRID), (0, 0))
    boxes = Boxes(xyxy, scores, (place % 3).astype(np.int32))
    return NewFrame(boxes, ids, np.ones(n, np.bool_), look.boxes, (look,), SIZE, seq)


def unit(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float16]:
    vectors = rng.standard_normal((*shape, LENGTH))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16)


def run(sights: Sequence[NewFrame], state: WindowRows | None = None) -> list[WindowStep]:
    steps: list[WindowStep] = []
    for sight in sights:
        steps.append(head().step(steps[-1].window if steps else state or WindowRows(), sight))
    return steps


def said(step: WindowStep) -> bytes:
    """All that a step says, and its row, as bytes."""
    row = step.row.to_bytes() if step.row else b""
    scores = step.boxes.scores.tobytes() + step.things.tobytes()
    return scores + np.float64(step.novelty).tobytes() + step.embedding.tobytes() + row


def seen_clip(n: int) -> list[NewFrame]:
    """The first `n` frames of a real clip, as the float32 detector sees them with one thread."""
    data = os.environ.get("FRAMEGATE_DATA")
    if not data:
        pytest.skip("FRAMEGATE_DATA names no folder with the clips")
    light = detector.load("light", "f32", 1, min_score=0.1, features=True)
    source = FileSource(str(Path(data) / CLIP))
    sights = []
    for i, frame in enumerate(itertools.islice(source, n)):
        pixels = bytearray(frame.nbytes)
        frame.write(memoryview(pixels))
        picture = as_picture(memoryview(pixels), frame.form)
        look = crops.whole(*SIZE, 416)
        ((boxes, seen),) = light.look_with_features(picture, (look,), features.read)
        ids, fresh = np.zeros(len(boxes), np.int32), np.ones(len(boxes), np.bool_)
        sights.append(NewFrame(boxes, ids, fresh, seen.boxes, (seen,), SIZE, i))
    source.close()
    return sights


def test_kept_features_say_what_features_computed_anew_say() -> None:
    """On every frame of a real clip, within 1e-5; to the bit where the shapes are the same."""
    kept, anew = seen_clip(36), seen_clip(36)
    for t, step in enumerate(run(kept)):
        again = run(anew[max(0, t - ROWS + 1) : t + 1])[-1]
        np.testing.assert_allclose(step.boxes.scores, again.boxes.scores, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(step.embedding, again.embedding)
        np.testing.assert_array_equal(kept[t].features, anew[t].features)
        if t < ROWS:
            assert said(step) == said(again)


def test_a_window_goes_on_from_the_bytes_of_its_rows() -> None:
    """Killed after each frame: what the ring gives back goes on to the same bits."""
    sights = [made(i, 4 + i % 9, i) for i in range(40)]
    ring = unshared_ring("test", ROWS, row_bytes(*SIZE, 416))
    state, reference = WindowRows(), None
    for i, (sight, expected) in enumerate(zip(sights, run(sights), strict=True)):
        step = head().step(state, sight)
        assert said(step) == said(expected)
        assert step.row is not None
        reference = ring.write(Position(1, i), step.row.to_bytes(), reference)
        rows = ring.read(reference)
        assert rows is not None
        state = WindowRows.from_bytes(rows)
    assert len(state.rows) == ROWS


def test_between_strides_it_is_enough_to_remember() -> None:
    sights = [made(i, 5, i) for i in range(20)]
    state = WindowRows()
    for i, (sight, expected) in enumerate(zip(sights, run(sights), strict=True)):
        if i % 8 != 7:
            state = head().remember(state, sight)
            continue
        step = head().step(state, sight)
        np.testing.assert_allclose(step.boxes.scores, expected.boxes.scores, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(step.embedding, expected.embedding)
        state = step.window


def test_two_sources_do_not_meet() -> None:
    ours = [made(i, 6, i) for i in range(8)]
    theirs = [made(100 + i, 9, i) for i in range(8)]
    states = [WindowRows(), WindowRows()]
    for a, b, x, y in zip(run(ours), run(theirs), ours, theirs, strict=True):
        for expected, sight, k in ((a, x, 0), (b, y, 1)):
            step = head().step(states[k], sight)
            assert said(step) == said(expected)
            states[k] = step.window


def test_what_was_not_looked_at_keeps_its_judgement() -> None:
    first, second = run([made(0, 5, 0), made(1, 5, 1)])
    before = second.boxes
    still = made(1, 5, 2)
    unlooked = replace(still, looks=(), fresh=np.zeros(5, np.bool_))
    step = head().step(second.window, unlooked)
    assert step.row is None
    assert step.window.rows == second.window.rows
    np.testing.assert_array_equal(step.boxes.scores, before.scores)
    fresh = np.array([True, False, False, True, False])
    empty = np.where(fresh[:, None], still.features, np.float16(0))
    part = head().step(second.window, replace(still, fresh=fresh, features=empty))
    assert part.row is not None
    np.testing.assert_array_equal(part.boxes.scores[~fresh], before.scores[~fresh])
    np.testing.assert_array_equal(part.row.features, still.features)
    assert len(first.window.rows) == 1


def test_a_carried_box_that_no_row_has_keeps_its_score() -> None:
    sight = made(0, 3, 0)
    step = head().step(WindowRows(), replace(sight, fresh=np.array([True, False, True])))
    assert step.boxes.scores[1] == sight.candidates.scores[1]
    assert step.row is not None
    assert len(step.row) == 2


def test_only_the_best_are_judged() -> None:
    sight = made(3, 50, 0, objects=6)
    (step,) = run([sight])
    assert step.row is not None
    assert len(step.row) == MOST
    np.testing.assert_array_equal(step.boxes.scores[MOST:], sight.candidates.scores[MOST:])
    assert len(step.row.to_bytes()) == row_bytes(*SIZE, 416)


def test_a_row_shows_its_frame_and_those_after_it_until_the_next_row() -> None:
    """Looked at: 3, 4, 9. Against frame after frame, each with the row that shows it."""
    window = run([made(seq, 2, seq) for seq in (3, 4, 9)])[-1].window
    shown = {seq: 3 if seq < 4 else 4 if seq < 9 else 9 for seq in range(3, 15)}
    for first in range(15):
        wanted = sorted({shown[seq] for seq in range(max(first, 3), 15)})
        assert [row.seq for row in window.since(first).rows] == wanted
    assert WindowRows().since(7).rows == ()


def test_what_left_the_window_says_nothing() -> None:
    before = run([made(0, 5, 0), made(1, 5, 1)])[-1].window
    step = head().step(before.since(40), made(2, 5, 40))
    alone = head().step(run([made(1, 5, 1)])[-1].window, made(2, 5, 40))
    assert len(step.window.rows) == len(alone.window.rows) == 2
    np.testing.assert_array_equal(step.embedding, alone.embedding)
    assert step.novelty == alone.novelty


def test_frames_without_boxes() -> None:
    steps = run([made(0, 0, 0), made(1, 2, 1), made(2, 0, 2)])
    assert [len(step.boxes) for step in steps] == [0, 2, 0]
    assert len(steps[2].window.rows) == 3


def test_a_foreign_frame_is_new() -> None:
    sights = [made(7, 3, i) for i in range(6)]
    steps = run([*sights, made(8, 3, 6)])
    assert all(step.novelty < 1e-6 for step in steps[:-1])
    assert steps[-1].novelty > 0.5
    for before, after in pairwise(steps):
        assert before.embedding @ after.embedding > 0.9


def test_rows_that_are_none_are_refused() -> None:
    (step,) = run([made(0, 3, 1)])
    assert step.row is not None
    data = step.row.to_bytes()
    assert FrameRow.from_bytes(data).to_bytes() == data
    for wrong in (b"", data[:-1], data + b"x", b"\x63" + data[1:]):
        with pytest.raises(RowUnreadable):
            FrameRow.from_bytes(wrong)


def test_a_look_renews_the_tiles_that_it_covers() -> None:
    rng = np.random.default_rng(1)
    before = unit(rng, *GRID)
    part = RegionFeatures(unit(rng, 0), unit(rng, 2, 3), (64, 96))
    after = tiles_after(before, (part,))
    np.testing.assert_array_equal(after[3:5, 2:5], part.tiles)
    assert np.count_nonzero((after != before).any(axis=-1)) == 6


def test_the_network_is_the_torch_module() -> None:
    torch = pytest.importorskip("torch")
    export = pytest.importorskip("framegate.models.training.export_window_head")
    module = export.torch_head()
    assert sum(weight.numel() for weight in module.parameters()) < 1_000_000
    steps = run([made(i, 7, i) for i in range(12)])
    row, past = steps[-1].row, [step.row for step in steps[:-1]]
    arrays = [row.features.astype(np.float32), row.xyxy / 640, row.scores, row.class_ids, row.ids]
    columns = ("keys", "values", "xyxy", "scores", "class_ids", "ids")
    arrays += [np.concatenate([getattr(one, name) for one in past]) for name in columns]
    arrays[7] = arrays[7] / np.float32(640)
    ages = np.repeat(np.arange(len(past), 0, -1), 7).astype(np.float32)
    inputs = [torch.from_numpy(a.copy()) for a in (*arrays, ages, np.float32([len(past)]))]
    with torch.no_grad():
        keys, _, _, score = export.Flat(module)(*inputs)
    np.testing.assert_allclose(row.keys, keys, atol=1e-5)
    np.testing.assert_allclose(row.refined, torch.sigmoid(score), atol=1e-5)


def test_results_name_the_head() -> None:
    assert head().name == f"{FILE}@{head().sha256[:8]}"
