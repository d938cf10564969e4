"""The benchmark of the cache: its checks can fail."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cache import checks
from benchmarks.cache.cost import Noise
from framegate.models.detector.detector import Detector, load
from framegate.models.picture import Picture
from tests.models.detector.test_detector import LOW, scene


@pytest.fixture(scope="module")
def light() -> Detector:
    return load("light", "f32", 1, min_score=LOW)


def grey(level: int = 100) -> Picture:
    half = np.full((60, 80), 128, np.uint8)
    return Picture(np.full((120, 160), level, np.uint8), half, half)


def test_collisions_are_caught_where_they_are_injected(light: Detector) -> None:
    pictures = [scene(seed) for seed in (0, 1, 0, 2, 2)]
    told = checks.collisions(light, pictures)
    assert (told["caught"], told["hits"], told["answers_that_differ"]) == (3, 1, 0)


def test_noise_never_comes_again() -> None:
    noise = Noise(3)
    shown = {noise.on(grey()).y.tobytes() for _ in range(50)}
    assert len(shown) == 50
