"""The trial's decisions, with times given; its cache; one short real run."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from framegate.models.detector import precision_trial
from framegate.models.detector.compiled_networks import locked
from framegate.models.detector.precision_trial import Choice, Tried


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ({("f32", 1): 20.0, ("int8", 1): 8.0}, ("int8", 1)),
        # Twice the threads for 12 % more CPU time: not worth it. For 8 %: worth it.
        ({("int8", 1): 10.0, ("int8", 2): 7.0}, ("int8", 1)),
        ({("int8", 1): 10.0, ("int8", 2): 5.6}, ("int8", 1)),
        ({("int8", 1): 10.0, ("int8", 2): 5.4}, ("int8", 2)),
        # Measured against the one in use.
        ({("int8", 1): 10.0, ("int8", 2): 5.6, ("int8", 4): 2.7}, ("int8", 4)),
        ({("int8", 1): 10.0, ("int8", 2): 5.2, ("int8", 4): 2.9}, ("int8", 2)),
        # Within a twentieth: the more exact one.
        ({("f32", 1): 10.4, ("int8", 1): 10.0}, ("f32", 1)),
        ({("f32", 1): 10.6, ("int8", 1): 10.0}, ("int8", 1)),
        ({("int8", 1): 8.37, ("int8+bf16", 1): 8.44, ("bf16", 1): 13.0}, ("int8+bf16", 1)),
        # More threads that slow it down.
        ({("f32", 1): 10.0, ("f32", 2): 12.0}, ("f32", 1)),
    ],
)
def test_choose(times, wanted):
    choice = precision_trial.choose(times)
    assert (choice.precision, choice.threads) == wanted
    assert choice.ms == times[wanted]


def test_nothing_measured():
    with pytest.raises(ValueError, match="no candidate"):
        precision_trial.choose({})


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, {1}), (2, {1, 2}), (3, {1, 3}), (4, {1, 2, 4}), (16, {1, 8, 16})]
)
def test_candidates(cores, threads):
    assert {t for _, t in precision_trial.candidates(("f32", "int8"), cores)} == threads


class StepClock:
    """Time that passes only when a run says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, *seconds: float):
        left = list(seconds)

        def once() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return once


def test_measure_takes_the_median_after_the_first_round():
    clock = StepClock()
    runs = {("f32", 1): clock.run(9.0, 0.010, 0.030, 0.020), ("int8", 1): clock.run(0.005)}
    taken = precision_trial.measure(runs, budget_s=0.0, clock=clock)
    assert taken == {("f32", 1): pytest.approx(20.0), ("int8", 1): pytest.approx(5.0)}


def test_measure_goes_on_until_the_budget_is_spent():
    clock = StepClock()
    precision_trial.measure({("f32", 1): clock.run(0.1)}, budget_s=1.0, clock=clock)
    assert 1.0 <= clock.now < 1.2


def test_who_cannot_be_chosen_takes_part_in_three_rounds_only():
    clock = StepClock()
    # Its best of three rounds is still 1.5 times the others' usual; one slow round is no reason.
    slow, jittery = clock.run(0.16), clock.run(9.0, 0.3, 0.3, 0.1)
    runs = {("f32", 1): slow, ("bf16", 1): jittery, ("int8", 1): clock.run(0.1)}
    runs["f32", 2] = clock.run(0.16)  # on as many threads nobody is faster
    taken = dict.fromkeys(runs, 0)

    def counted(one):
        taken[one] += 1
        runs[one]()

    times = precision_trial.measure({one: partial(counted, one) for one in runs}, 14.0, clock)
    assert [one for one in runs if taken[one] == 4] == [("f32", 1)]
    assert times["f32", 1] == pytest.approx(160.0)
    assert precision_trial.choose(times).precision == "bf16"  # of equal ones the more exact


def test_cache_round_trip(tmp_path):
    path = tmp_path / "deep" / "trial.json"
    choices = {"a": Choice("int8", 2, 5.5), "b": Choice("f32", 1, 20.0)}
    precision_trial.write_cache(path, choices)
    assert precision_trial.read_cache(path) == choices
    assert [p.name for p in path.parent.iterdir()] == ["trial.json"]


def test_a_cache_that_cannot_be_written_leaves_no_file(tmp_path):
    path = tmp_path / "trial.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        precision_trial.write_cache(path, {"a": Choice("int8", 2, 5.5)})
    assert [p.name for p in tmp_path.iterdir()] == ["trial.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"a": 3}',
        '{"a": {"precision": "int8"}}',
        '{"a": {"precision": "fp4", "threads": 1, "ms": 1.0}}',
        '{"a": {"precision": "int8", "threads": 0, "ms": 1.0}}',
        '{"a": {"precision": "int8", "threads": 1, "ms": -1.0}}',
        '{"a": {"precision": "int8", "threads": 1, "ms": 1.0, "more": 1}}',
    ],
)
def test_an_unreadable_cache_is_no_cache(tmp_path, text):
    path = tmp_path / "trial.json"
    path.write_text(text, encoding="utf-8")
    assert precision_trial.read_cache(path) == {}
    assert precision_trial.read_cache(tmp_path / "none.json") == {}


def test_a_trial_is_made_once(tmp_path):
    path = tmp_path / "trial.json"
    path.write_text("not JSON", encoding="utf-8")
    first = precision_trial.run(path, budget_s=0.0, cores=1)
    assert first.threads == 1
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written) == [precision_trial.machine_key(1, precision_trial.light())]
    # A second one would measure other milliseconds.
    assert precision_trial.run(path, budget_s=0.0, cores=1) == first


def test_two_at_once_choose_one_after_the_other_and_lose_nothing(tmp_path):
    """Each would have written what it had read, and its own."""
    cache = tmp_path / "precision.json"
    inside, seen = threading.Event(), []

    def opens(precision, threads):
        inside.set()
        seen.append(sorted(precision_trial.read_cache(cache)))
        return precision_trial.light().open(precision, threads)

    with ThreadPoolExecutor(2) as pool:
        with locked(cache.parent):
            runs = [
                pool.submit(
                    precision_trial.run, cache, 0.05, 1, Tried(("f32",), opens, (64, 64), weights)
                )
                for weights in ("a", "b", "b")
            ]
            assert not inside.is_set()
        choices = [run.result() for run in runs]
    assert len(precision_trial.read_cache(cache)) == 2
    assert choices[1] == choices[2]
    assert sorted(map(len, seen)) == [0, 1]


def test_another_machine_is_another_trial(tmp_path):
    path = tmp_path / "trial.json"
    other = Choice("f32", 64, 0.1)
    precision_trial.write_cache(path, {"another machine": other})
    chosen = precision_trial.run(path, budget_s=0.0, cores=1)
    assert chosen != other
    assert precision_trial.read_cache(path) == {
        "another machine": other,
        precision_trial.machine_key(1, precision_trial.light()): chosen,
    }
