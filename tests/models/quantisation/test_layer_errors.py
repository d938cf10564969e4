"""Layers' errors, against the same network computed in numpy."""

import numpy as np
import pytest

from framegate.models.quantisation.int8 import layer_errors
from tests.support.small_network import computed, network, pictures


def decibels(signal, noise):
    return 10 * np.log10((signal**2).sum() / (noise**2).sum())


@pytest.mark.parametrize("levels", [16, 256])
def test_the_noise_of_a_layer_that_reads_rounded_numbers(levels):
    inputs = pictures(3)
    exact = np.stack([computed(one) for one in inputs])
    rounded = np.stack([computed(one, levels, top=3.0) for one in inputs])
    [found] = layer_errors(network(), network(levels, top=3.0), inputs)
    assert (found.name, found.kind) == ("second", "Convolution")
    assert found.own_db == pytest.approx(decibels(exact, exact - rounded), abs=0.05)
    # It is the only one, so nothing had added up before it.
    assert found.total_db == pytest.approx(found.own_db, abs=1e-6)


def test_a_network_that_is_not_quantised_has_no_such_layer():
    assert layer_errors(network(), network(), pictures(1)) == []


def test_of_what_nncf_makes_every_layer_is_there():
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    from framegate.models.quantisation.int8 import quantised

    inputs = pictures(12)
    float_one = network()
    found = {e.name: e for e in layer_errors(float_one, quantised(float_one, inputs), inputs)}
    assert {"first", "second"} <= set(found)
    assert 25 < found["second"].own_db < 60  # about 7 bits of weights
    assert found["first"].total_db == pytest.approx(found["first"].own_db, abs=0.5)
    assert list(found.values()) == sorted(found.values(), key=lambda one: one.own_db)
