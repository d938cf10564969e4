"""Where a frame changed, in a coarse grid."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import BoolArray
from framegate.models.gate.cells import grid_of, tiles_of
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import VERSION, Record
from framegate.pipeline.contracts.source import CHANGE_COLUMNS as COLUMNS
from framegate.pipeline.contracts.source import CHANGE_ROWS as ROWS
from framegate.pipeline.contracts.source import Form
from framegate.stages.detect.output import changes_of
from framegate.stages.detections import ChangedParts, Detections, in_pixels_of

SIZES = ((640, 360), (768, 576), (1920, 1080), (160, 130), (30, 17))


def hot_at(size: tuple[int, int], *boxes: tuple[float, float, float, float]) -> BoolArray:
    return tiles_of(np.array(boxes, np.float32), grid_of(*size))


def test_masks_of_a_source_with_two_streams_are_in_pixels_of_the_large_picture() -> None:
    mask = [[(0.0, 0.0), (960.0, 0.0), (960.0, 540.0)]]
    alone = Record(VERSION, 0.0, 0.0, 0.0, 0, Form(640, 360))
    pair = msgspec.structs.replace(alone, shown=(1920, 1080))
    assert in_pixels_of(alone, mask) == mask
    assert in_pixels_of(pair, mask) == [[(0.0, 0.0), (320.0, 0.0), (320.0, 180.0)]]


def test_the_share_of_a_box_in_the_best_look() -> None:
    looks = ((0, 0, 100, 100), (100, 0, 200, 50))
    seen = Detections("detected", "part", "changed", (), (), looks=looks)
    assert seen.share_looked_at((10.0, 10.0, 90.0, 90.0)) == 1.0
    assert seen.share_looked_at((50.0, 0.0, 150.0, 50.0)) == 0.5
    assert seen.share_looked_at((100.0, 0.0, 200.0, 200.0)) == 0.25
    assert seen.share_looked_at((200.0, 0.0, 300.0, 50.0)) == 0.0
    assert seen.share_looked_at((50.0, 50.0, 50.0, 60.0)) == 0.0  # without an area
    carried = Detections("carried", "no", "unchanged", (), ())
    assert carried.share_looked_at((10.0, 10.0, 90.0, 90.0)) == 0.0
    whole = Detections("detected", "whole", "first", (), ())
    assert whole.share_looked_at((10.0, 10.0, 90.0, 90.0)) == 1.0


def test_nothing_is_told_of_nothing() -> None:
    assert changes_of(np.zeros(grid_of(640, 360).tiles, np.bool_), grid_of(640, 360)) is None


def test_a_corner_is_one_part() -> None:
    """Parts of 640x360 are 27x23 pixels; a tile of 16 lies inside the first."""
    changes = changes_of(hot_at((640, 360), (0, 0, 16, 16)), grid_of(640, 360))
    assert changes == ChangedParts(27, 23, bytes([0x80]) + bytes(47))
    assert changes.share == 1 / 384
    assert changes.share_of((0.0, 0.0, 20.0, 20.0)) == 1.0
    assert changes.share_of((0.0, 0.0, 54.0, 46.0)) == 1 / 4
    assert changes.share_of((27.0, 0.0, 54.0, 23.0)) == 0.0


def test_what_lies_outside_counts_as_the_edge() -> None:
    changes = changes_of(hot_at((640, 360), (600, 340, 640, 360)), grid_of(640, 360))
    assert changes is not None
    assert changes.share_of((650.0, 380.0, 700.0, 400.0)) == 1.0
    assert changes.share_of((-9.0, -9.0, -1.0, -1.0)) == 0.0


def test_it_is_small() -> None:
    everywhere = changes_of(np.ones(grid_of(1920, 1080).tiles, np.bool_), grid_of(1920, 1080))
    assert everywhere is not None
    assert everywhere.share == 1.0
    assert len(records.encode(everywhere)) <= 60


@given(st.sampled_from(SIZES), st.data())
def test_no_change_is_lost(size: tuple[int, int], data: st.DataObject) -> None:
    """Each tile that changed lies in parts that are told; each part that is told has such a one."""
    grid = grid_of(*size)
    hot = np.array(
        data.draw(st.lists(st.booleans(), min_size=grid.tile_rows, max_size=grid.tile_rows))
    )
    hot = hot[:, None] & np.array(
        data.draw(st.lists(st.booleans(), min_size=grid.tile_columns, max_size=grid.tile_columns))
    )
    changes = changes_of(hot, grid)
    assert (changes is None) == (not hot.any())
    told = np.zeros((ROWS, COLUMNS), np.bool_)
    if changes is not None:
        told = np.unpackbits(np.frombuffer(changes.parts, np.uint8)).reshape(ROWS, COLUMNS) > 0
    expected = np.zeros_like(told)
    width, height = -(-size[0] // COLUMNS), -(-size[1] // ROWS)
    for y in range(size[1]):
        for x in range(0, size[0], max(1, width // 3)):
            if hot[y // grid.tile_px, x // grid.tile_px]:
                expected[y // height, x // width] = True
    assert (told | expected == told).all()
