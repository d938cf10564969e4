"""The benchmark of the cache: what counts as seen, and that its checks can fail."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cache_checks, cache_objects
from benchmarks.cache_cost import Noise
from models.detector import Detector, load
from models.picture import Picture
from tests.models.test_detector import LOW, scene


@pytest.fixture(scope="module")
def light() -> Detector:
    return load("light", "f32", 1, min_score=LOW)


def grey(level: int = 100) -> Picture:
    half = np.full((60, 80), 128, np.uint8)
    return Picture(np.full((120, 160), level, np.uint8), half, half)


def test_what_is_seen_is_the_cell_that_changed_most() -> None:
    """A square of 6x6 pixels by 16 levels covers one cell of 4x4 whole, its neighbours in part."""
    before = grey()
    y, u = before.y.copy(), before.u.copy()
    y[8:14, 8:14] += 16
    assert cache_objects.seen(before, Picture(y, before.u, before.v)) == 16
    y[:] = before.y
    y[8:10, 8:12] += 16  # half a cell
    assert cache_objects.seen(before, Picture(y, before.u, before.v)) == 8
    u[4:8, 4:8] += 9  # colour has three quarters of the bound
    assert cache_objects.seen(before, Picture(before.y, u, before.v)) == 12


def test_pasted_objects_are_never_known_and_the_scenes_are() -> None:
    scenes = [scene(seed, 240, 320) for seed in range(2)]
    things = [scene(seed, 60, 90) for seed in range(5, 9)]
    told = cache_objects.stale_hits(scenes, things, cache_checks.Dictionary(), 90)
    assert told["stale_hits"] == 0
    assert told["pasted"] == sum(kind["pasted"] for kind in told["kinds"]) == 90
    assert told["hit_rate_without_object"] > 0.95


def test_collisions_are_caught_where_they_are_injected(light: Detector) -> None:
    pictures = [scene(seed) for seed in (0, 1, 0, 2, 2)]
    told = cache_checks.collisions(light, pictures)
    assert (told["caught"], told["hits"], told["answers_that_differ"]) == (3, 1, 0)


def test_noise_never_comes_again() -> None:
    noise = Noise(3)
    shown = {noise.on(grey()).y.tobytes() for _ in range(50)}
    assert len(shown) == 50
