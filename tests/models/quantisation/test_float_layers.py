"""What stays float: the order of the search, and that it is judged by answers."""

import sys

import numpy as np
import pytest

from framegate.models.boxes import Boxes
from framegate.models.errors import NotInstalled, NotQuantised
from framegate.models.matching import Interval
from framegate.models.quantisation import int8
from framegate.models.quantisation.int8 import (
    Chosen,
    QuantisedNetwork,
    answers,
    choose,
    times,
    weight_bytes,
)
from tests.support.small_network import FIRST, SECOND, computed, network, pictures


def brightest(outputs):
    """A box at each of the ten strongest cells: one small step of noise moves it away."""
    [maps] = outputs
    cells = np.argsort(-maps.ravel(), kind="stable")[:10]
    classes, rows, columns = np.unravel_index(cells, maps.shape)
    corner = np.stack([columns, rows], axis=1).astype(np.float32)
    scores = np.linspace(0.9, 0.5, 10, dtype=np.float32)
    return Boxes(np.concatenate([corner, corner + 1], axis=1), scores, classes.astype(np.int32))


def test_answers_are_those_of_the_network():
    [one] = pictures(1)
    [boxes] = answers(network(), [one], brightest)
    expected = brightest([computed(one).astype(np.float32)])
    assert np.array_equal(boxes.xyxy, expected.xyxy)


def test_weights_are_counted_as_they_are_stored():
    n = FIRST.size + SECOND.size
    assert 0 <= weight_bytes(network()) - 4 * n < 64  # shapes and the divisor


def test_times_are_one_a_network():
    assert all(ms > 0 for ms in times([network(), network(16)], pictures(1)[0]))


def candidate(low, n_float):
    return QuantisedNetwork(network(), ("x",) * n_float, Interval(low, low, low))


def test_what_is_accepted_is_the_best_or_nothing():
    tried = (candidate(0.5, 0), candidate(0.8, 1), candidate(0.7, 3))
    assert Chosen(tried, (), 0.9).accepted is None
    assert Chosen(tried, (), 0.9).best is tried[1]
    assert Chosen(tried, (), 0.6).accepted is tried[1]


def test_without_nncf_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(NotInstalled, match=r"pip install '\.\[train\]'"):
        int8.quantised(network(), pictures(1))


def test_what_nncf_cannot_do_is_said():
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    with pytest.raises(NotQuantised, match="cannot quantise"):
        int8.quantised(network(), [np.zeros((1, 5, 5), np.uint8)])


def test_nothing_to_judge_on():
    with pytest.raises(ValueError, match="judge"):
        choose(network(), pictures(1), [], brightest, 0.9)


def test_an_easy_bound_is_met_at_once_and_once_more_with_the_noisiest_layer_float():
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    chosen = choose(network(), pictures(8), pictures(6, seed=2), brightest, 0.0)
    first, second = chosen.candidates
    assert chosen.accepted in (first, second)
    assert (first.float_layers, second.float_layers) == ((), (chosen.errors[0].name,))
    assert 0 < first.agreement.middle <= 1
    assert {one.name for one in chosen.errors} >= {"first", "second"}


def test_a_bound_out_of_reach_is_given_up_and_more_float_layers_agree_more():
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")
    told = []
    inputs = pictures(8), pictures(6, seed=2)
    chosen = choose(network(), *inputs, brightest, 1.1, (0, 0.1, 1.0), told.append)
    assert chosen.accepted is None
    assert told == list(chosen.candidates)
    counts = [len(one.float_layers) for one in told]
    assert counts == sorted(set(counts))
    assert counts[0] == 0
    # The last has none of its layers quantised: it is the float network.
    assert told[-1].agreement.middle == 1 > told[0].agreement.middle
    noisiest = [one.name for one in chosen.errors]
    assert list(told[1].float_layers) == noisiest[: counts[1]]


def test_seven_bits_are_half_the_range_and_eight_all_of_it():
    pytest.importorskip("nncf", reason="nncf is not installed (train extra)")

    def most(bits):
        model = int8.quantised(network(), pictures(4), weight_bits=bits)
        constants = [n.get_data() for n in model.get_ops() if n.get_type_name() == "Constant"]
        return max(int(np.abs(c.astype(int)).max()) for c in constants if c.dtype == np.int8)

    assert most(7) <= 64
    assert most(8) >= 127
