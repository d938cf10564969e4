"""What is measured of this machine depends little on what else runs on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from framegate.cli.setup.capacity import undisturbed_s
from framegate.pipeline.system.machine import queued_s
from tests.support.runs import wait_until


@pytest.mark.parametrize(
    ("wall_s", "cpu_s", "queued_s", "alone_s"),
    [
        (1.0, 1.0, 0.0, 1.0),  # an idle machine, one thread
        (1.0, 2.0, 0.0, 1.0),  # an idle machine, two threads
        (6.0, 1.0, 5.0, 1.0),  # a busy machine, one thread
        (6.0, 2.0, 10.0, 1.0),  # two threads that waited at the same time
        (3.0, 0.1, 0.0, 3.0),  # another device computes
        (0.5, 2.0, 0.0, 0.5),  # more cores than this process may use at other times
    ],
)
def test_time_that_others_took_does_not_count(
    wall_s: float, cpu_s: float, queued_s: float, alone_s: float
) -> None:
    assert undisturbed_s(wall_s, cpu_s, queued_s, cores=2) == pytest.approx(alone_s)


def test_a_thread_that_waits_for_its_core_is_known() -> None:
    """Beside a process that has as much right to the only core that this thread may use."""
    cores = os.sched_getaffinity(0)
    core = min(cores)
    busy = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as other:
        os.sched_setaffinity(0, {core})
        try:
            before_s = queued_s()
            wait_until("it waited", lambda: _computed_for(0.01) and queued_s() > before_s + 0.05)
        finally:
            os.sched_setaffinity(0, cores)
            other.kill()


def _computed_for(seconds: float) -> bool:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return True
