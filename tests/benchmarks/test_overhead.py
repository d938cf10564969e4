"""The overhead benchmark: its arithmetic, and one short run of each side."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.harness.engine_run import growth
from benchmarks.harness.process_tree import tree, usage
from benchmarks.harness.report import median_of_ratios, percentile
from benchmarks.overhead import JOBS, Measured, headline
from benchmarks.overhead.hop_time import hop_times_s
from benchmarks.rivals.queue_pipeline import delay_s
from tests.support.runs import DEADLINE_S

KEYS = [
    *("cpu_ms_file_1", "cpu_ms_file_4", "cpu_ms_live_spread", "cpu_ms_live_tick"),
    *("cpu_ratio_file_1", "cpu_ratio_file_4", "cpu_ratio_live_spread", "cpu_ratio_live_tick"),
    *("hop_p50_us", "hop_p99_us", "e2e_p50_ms", "e2e_p99_ms", "aof_bytes_per_frame"),
]


def test_percentile_is_the_value_that_a_share_does_not_exceed() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_ratio_is_the_median_of_pairs() -> None:
    assert median_of_ratios([1, 2, 90], [2, 2, 30]) == 1.0


def test_delay_counts_from_the_phase_whatever_the_second() -> None:
    assert delay_s(1007.262, 3.25, 0.01) == pytest.approx(0.002)
    assert delay_s(1007.2595, 3.25, 0.01) == pytest.approx(-0.0005)


def test_growth_of_files_counts_a_new_one_from_nothing() -> None:
    assert growth({"a": 100}, {"a": 150, "b": 30}) == 80
    assert growth({"a": 100, "b": 30}, {"b": 50}) == 20


def test_usage_sees_children_and_what_they_burnt() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = usage(os.getpid())
    child = subprocess.Popen(
        (sys.executable, "-c", burn), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert child.pid in tree(os.getpid())
    assert usage(os.getpid()).since(before) >= 0.28
    child.communicate(b"\n")
    assert usage(os.getpid()).since(before) >= 0.28


def test_headline_has_the_keys_of_the_issue() -> None:
    one = Measured(100, 1.0, {"python": 0.1}, [0.001, 0.002], 1000)
    runs = {name: {"engine": [one], "queue": [one]} for name in JOBS}
    result = headline(runs, [1e-5, 2e-5])
    assert list(result) == KEYS
    assert result["cpu_ms_file_1"] == 1.0
    assert result["cpu_ratio_live_tick"] == 1.0
    assert result["aof_bytes_per_frame"] == 10


ONE_OF_EACH = """
from benchmarks.overhead import JOBS, measure_engine, measure_queue
from benchmarks.harness.report import percentile
for measure in (measure_engine, measure_queue):
    one = measure(JOBS["live_spread"], 1.0)
    print(one.frames, one.cpu_ms, percentile(one.delays_s, 0.5))
"""


@pytest.mark.long
def test_both_sides_run_and_keep_the_phases_that_they_are_given() -> None:
    # In a process of its own: multiprocessing keeps a tracker as long as its process lives.
    command = (sys.executable, "-c", ONE_OF_EACH)
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=DEADLINE_S, encoding="utf-8"
    )
    for line in told.stdout.splitlines():
        frames, cpu_ms, delay_s = map(float, line.split())
        assert 90 <= frames <= 150
        assert 0 < cpu_ms < 50
        # A negative delay would say that a source does not keep its phase.
        assert -0.002 < delay_s < 0.2
    assert len(told.stdout.splitlines()) == 2


def test_a_hop_is_measured_against_a_real_store() -> None:
    times = hop_times_s(50)
    assert len(times) == 50
    assert 0 < percentile(times, 0.5) < 0.05
