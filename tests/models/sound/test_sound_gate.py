"""What the gate lets pass without a look, and what it may not."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.models.sound.yamnet import (
    RATE,
    WINDOW,
    SoundGateSettings,
    level_db,
    log_mel,
    passes,
    reference,
)

SETTINGS = SoundGateSettings(quiet_db=-55.0, most_age_s=10.0)
TIMES = np.arange(WINDOW) / RATE


def hum(seed: int, amplitude: float = 0.02) -> np.ndarray:
    """A fan: noise that stays as it is, and mains."""
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(WINDOW)
    return (amplitude * (drawn + np.sin(2 * np.pi * 100 * TIMES))).astype(np.float32)


def judged(samples: np.ndarray, ends_s: float, before=None):
    return passes(log_mel(samples), level_db(samples), ends_s, before, SETTINGS)


def test_levels_are_decibels_of_full_scale() -> None:
    square = np.where(TIMES * 400 % 1 < 0.5, 1.0, -1.0).astype(np.float32)
    assert level_db(square) == pytest.approx(0.0, abs=1e-4)
    assert level_db(np.float32(0.1) * square) == pytest.approx(-20.0, abs=1e-4)
    assert level_db(np.zeros(WINDOW, np.float32)) == -120.0


@pytest.mark.parametrize("begins", [0, 4321, WINDOW - RATE // 10])
def test_a_tenth_of_a_second_is_enough_not_to_be_quiet(begins: int) -> None:
    samples = np.zeros(WINDOW, np.float32)
    assert judged(samples, 1.0) == "quiet"
    samples[begins : begins + RATE // 5] = 0.003  # -50 dB
    assert judged(samples, 1.0) is None


def test_what_goes_on_as_before_is_known_for_a_while() -> None:
    known = reference(log_mel(hum(0)), 5.0)
    assert all(judged(hum(seed), 5.5, known) == "unchanged" for seed in range(1, 40))
    assert judged(hum(1), 15.0, known) == "unchanged"
    assert judged(hum(1), 15.01, known) is None
    assert judged(hum(1), 4.0, known) is None  # time went back
    assert judged(hum(1), 5.5, None) is None


@pytest.mark.parametrize("hertz", [200, 1000, 3100, 6000])
def test_a_tone_that_begins_in_it_is_looked_at(hertz: float) -> None:
    known = reference(log_mel(hum(0)), 5.0)
    beep = 0.05 * np.sin(2 * np.pi * hertz * TIMES) * (TIMES > 0.7)
    assert judged((hum(1) + beep).astype(np.float32), 5.5, known) is None


def test_a_click_is_looked_at_and_so_is_what_ended() -> None:
    known = reference(log_mel(hum(0)), 5.0)
    click = hum(1)
    click[5000:5160] += 0.3 * np.sign(np.sin(np.arange(160)))
    assert judged(click, 5.5, known) is None
    assert judged(hum(1, amplitude=0.008), 5.5, known) is None
