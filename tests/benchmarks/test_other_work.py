"""CPU time of other programs beside a benchmark: counted, and a reason not to keep the result."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from benchmarks import all as every
from benchmarks.harness import other_work, report
from benchmarks.harness.other_work import MARK, OtherWork
from tests.support.servers import server

BURN = """
import sys, time
while time.process_time() < 0.5: pass
print("burnt", flush=True)
sys.stdin.read()
"""


ORPHAN = 'exec 3<&0; "$0" -c "$1" <&3 & echo $!'  # its parent ends at once


@contextmanager
def burnt(environment: Mapping[str, str]) -> Iterator[int]:
    """Run an orphan that has used half a second of CPU time and then waits; yield its number."""
    with orphan(BURN, environment) as (process, pid):
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        yield pid


@contextmanager
def orphan(
    code: str, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run Python code in a process without a parent of ours; yield its pipes and its number."""
    with subprocess.Popen(
        ("sh", "-c", ORPHAN, sys.executable, code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert process.wait(30) == 0
        yield process, number


def without_mark() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != MARK}


def test_work_of_others_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "this-run")
    with orphan(f"input()\n{BURN}", without_mark()) as (process, _):
        assert process.stdin is not None
        assert process.stdout is not None
        others, of_minutes = OtherWork(), OtherWork(minute_s=0.0)
        with others, of_minutes:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"burnt\n"
        assert others._spent_s >= 0.4
        assert others.worst_minute == 0.0  # none is over
        assert of_minutes.worst_minute > 0.0


def test_processes_of_the_run_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "this-run")
    with burnt(os.environ) as ours, burnt(without_mark()) as theirs:
        counted = dict(other_work._others("this-run"))
        assert ours not in counted
        assert os.getpid() not in counted
        assert counted[theirs] >= 0.4


def test_a_server_that_wrote_over_its_variables_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(MARK, "this-run")
    with server(tmp_path / "store") as store, redis.Redis.from_url(store.url) as client:
        pid = client.info("server")["process_id"]
        assert Path("/proc", str(pid)).exists()
        assert pid not in dict(other_work._others("this-run"))


def test_a_disturbed_result_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    benchmark = report.Benchmark(name="cache", measure=lambda _: {"conditions": {}})
    monkeypatch.setattr(report, "OTHER_CORES", -1.0)
    assert benchmark.main(["--write"]) == report.DISTURBED
    assert list(tmp_path.iterdir()) == []
    assert "cache: not kept: other work used" in capsys.readouterr().out
    monkeypatch.setattr(report, "OTHER_CORES", 1000.0)
    monkeypatch.setattr(report, "OTHER_CORES_A_MINUTE", -1.0)
    assert benchmark.main(["--write"]) == report.DISTURBED
    monkeypatch.setattr(report, "OTHER_CORES_A_MINUTE", 1000.0)
    assert benchmark.main(["--write"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]


def test_a_disturbed_benchmark_runs_once_more_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(name: str, _: argparse.Namespace) -> list[str]:
        code = report.DISTURBED if name == "cache" else report.LACKS
        return [sys.executable, "-c", f"import sys; sys.exit({code})"]

    monkeypatch.setattr(every, "_command", command)
    given = argparse.Namespace(quick=False, data=None, peers=None)
    ended = [*every.measured(given, ["cache", "truth"], 1)]
    assert [one.name for one in ended] == ["truth", "cache"]
    assert ended[1].fault == "not kept: other work ran beside it"
    assert capsys.readouterr().out.count("cache: runs") == 2
