"""Evidence does not rot: every benchmark still runs, tells all its figures, and says how old they
are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import all as every
from benchmarks import figures, missed, stale
from benchmarks.harness import code_behind
from benchmarks.harness.report import LACKS, RESULTS, Bar, Benchmark, percentile
from tests.support.runs import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]
CHEAP = ("promise_statistics", "batching")


def test_every_benchmark_is_called_as_its_module_and_every_result_is_of_one() -> None:
    assert len(every.NAMES) >= 20
    assert all(every.declared(name).name == name for name in every.NAMES)
    assert {path.stem.partition("-")[0] for path in RESULTS.glob("*.json")} <= set(every.NAMES)


def test_results_name_version_commit_date_machine_and_load() -> None:
    for path in RESULTS.glob("*.json"):
        conditions = json.loads(path.read_text(encoding="utf-8"))["conditions"]
        assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", conditions["version"]), path
        assert re.fullmatch(r"[0-9a-f]{40}\+?", conditions["commit"]), path
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", conditions["date"]), path
        assert conditions["cpu"], path
        assert conditions["cores"] > 0, path
        assert conditions["load_average"] >= 0, path
        # Results of code before digests were recorded have none: they are always stale.
        assert re.fullmatch(r"[0-9a-f]{16}", conditions.get("code") or "0" * 16), path


def test_every_missed_target_has_a_reason_and_every_reason_a_missed_target() -> None:
    assert all(item.reason.measured and item.reason.remedy for item in missed.missed())
    assert missed.unused() == []


def test_a_missed_target_without_a_reason_is_an_error() -> None:
    item = missed.Missed("overhead", Bar("bytes of a new kind", 2.0, "<=", 1.0))
    with pytest.raises(missed.NoReason, match="overhead misses 'bytes of a new kind'; add"):
        _ = item.reason


def test_a_reason_of_an_earlier_result_is_shown_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(missed, "RESULTS", tmp_path)
    monkeypatch.setattr(every, "RESULTS", tmp_path)
    monkeypatch.setattr(stale, "RESULTS", tmp_path / "none")
    result = {"oracle": {"asked": 0.1}, "asked": 0.3, "wrong": 0.0, "certified": 1.0}
    monkeypatch.setattr(missed, "bars_of", lambda *_: [Bar("asked", 0.3, "<=", 0.2)])
    commits = (missed.EXPLAINED["policy"], "0123456789")
    for commit in commits:
        conditions = {"commit": f"{commit}abcdef"}
        (tmp_path / "policy.json").write_text(
            json.dumps({**result, "conditions": conditions}), encoding="utf-8"
        )
        is_earlier = commit != commits[0]
        note = f"(of an earlier result, commit {commits[0]})"
        assert (note in missed.table()) is is_earlier
        assert stale.main() == 0
        assert ("reasons of policy" in capsys.readouterr().out) is is_earlier


def test_results_of_own_clips_count_and_what_was_not_measured_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed, "RESULTS", tmp_path)
    monkeypatch.setattr(every, "RESULTS", tmp_path)
    for name in ("live-own", "live"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"conditions": {"commit": "0" * 40}}), encoding="utf-8")
    monkeypatch.setattr(missed, "bars_of", lambda name, _: [Bar(f"of {name}", None, "<=", 1.0)])
    lines = missed.table().splitlines()
    assert {"- live: of live", "- live-own: of live-own", "- soak: no result is kept"} <= {*lines}


@pytest.mark.long  # `make bench-quick` does so with all of them
@pytest.mark.parametrize("name", CHEAP)
def test_a_quick_run_tells_every_key_of_the_kept_result(name: str) -> None:
    command = (sys.executable, "-m", f"benchmarks.{name}", "--quick")
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    kept = every.kept(name)
    assert kept is not None
    assert every.declared(name).differences(kept, result) == []
    assert {"version", "commit", "date", "code"} <= set(result["conditions"])


def test_a_result_names_the_options_that_are_not_the_usual_ones(tmp_path: Path) -> None:
    live, truth = every.declared("live"), every.declared("truth")
    assert live.unusual(live.given([])) == []
    words = ["--seconds", "8", "--peers", str(tmp_path / "python")]
    assert live.unusual(live.given(words)) == ["--seconds 8.0", "--peers PATH"]
    words = ["--clips", "bottle-detection", "car-detection", "--at-once", "6"]
    assert truth.unusual(truth.given(words)) == [
        "--clips bottle-detection car-detection",
        "--at-once 6",
    ]


def test_a_table_names_the_options_of_its_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every, "RESULTS", tmp_path)
    result = json.loads((RESULTS / "swaps.json").read_text(encoding="utf-8"))
    result["conditions"]["options"] = ["--rounds 2", "--swaps 50"]
    (tmp_path / "swaps.json").write_text(json.dumps(result), encoding="utf-8")
    ending = figures.table("swaps").rpartition("Measured at")[2]
    assert ending.split()[-5:] == ["with", "`--rounds", "2", "--swaps", "50`."]


def test_without_clips_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert every.declared("cache").main(["--quick", "--data", str(tmp_path)]) == LACKS
    assert "a folder with clips/, which is missing" in capsys.readouterr().err


def test_without_an_extra_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    monkeypatch.setattr("benchmarks.harness.report.find_spec", lambda _: None)
    assert every.declared("quantization").main(["--quick", "--data", str(tmp_path)]) == LACKS
    assert "needs the extra `bench`" in capsys.readouterr().err


def test_a_quick_result_is_not_kept() -> None:
    with pytest.raises(SystemExit) as ended:
        every.declared("overhead").main(["--quick", "--write"])
    assert ended.value.code == 2


def test_what_the_command_line_says_goes_before_quick() -> None:
    given = every.declared("overhead").given(["--quick", "--rounds", "3"])
    assert (given.rounds, given.hops) == (3, 500)


def told(**more: Any) -> Benchmark:
    return Benchmark(name="overhead", measure=lambda _: {}, **more)


def test_a_key_that_is_gone_or_of_another_kind_is_told() -> None:
    whole = {"a": 1, "b": [{"c": 1}, {"d": "x"}], "e": {"one": {"f": 1}}, "g": None}
    assert told().differences(whole, whole | {"a": 2.5, "more": 1}) == []
    quick = {"a": "1", "b": [{"c": 1}], "e": {"two": {"f": 1}}, "g": 3}
    assert told().differences(whole, quick) == [
        "a is text, was a number",
        "b[].d is missing",
        "e.one is missing",
    ]
    assert told(keyed=("e",)).differences(whole, whole | {"e": {"two": {"f": 1}}}) == []
    lacking = whole | {"e": {"two": {}}}
    assert told(keyed=("e",)).differences(whole, lacking) == ["e.*[].f is missing"]
    assert told().differences({"a": True}, {"a": 1}) == ["a is a number, was yes or no"]
    assert told().differences({"a": [{"b": 1}]}, {"a": []}) == ["a is empty"]
    assert told().differences({"a": [1]}, {"a": []}) == []  # none of these came
    assert told().differences({"a": [[1, 2]]}, {"a": []}) == []  # nor of these: alarms, say


def test_a_bar_is_held_missed_or_not_measured() -> None:
    assert [Bar("", value, "<=", 1.0).verdict for value in (1.0, 1.1, None)] == [
        "held",
        "MISSED",
        "not measured",
    ]
    assert Bar("", 0.9, ">=", 1.0).held is False


def test_code_that_is_only_named_counts_as_imported() -> None:
    behind = {
        str(path.relative_to(ROOT)) for path in code_behind.code_behind("benchmarks.overhead")
    }
    assert {
        "benchmarks/rivals/queue_pipeline.py",  # imported
        "framegate/cli/__main__.py",  # what its processes run
        "pipeline/store/hop.lua",
        "stages/escalate/__init__.py",  # named in a configuration
        "stages/detect/__init__.py",  # named in the packaged pipeline.toml
    } <= behind
    assert "benchmarks/gate/__init__.py" not in behind


def test_labels_count_as_code_and_what_a_benchmark_writes_does_not() -> None:
    behind = {str(path.relative_to(ROOT)) for path in code_behind.code_behind("benchmarks.alike")}
    assert {
        "benchmarks/alike/questions.json",
        "benchmarks/alike/labels/car-detection.json",
        "benchmarks/truth/labels/car-detection.json",
    } <= behind
    assert "benchmarks/alike/visits.json" not in behind
    faces = {str(path.relative_to(ROOT)) for path in code_behind.code_behind("benchmarks.faces")}
    assert "benchmarks/faces/labels.json" in faces


def test_a_short_commit_states_changes_that_were_not_committed() -> None:
    assert code_behind.short_commit("0123456789abcdef") == "012345678"
    assert code_behind.short_commit("0123456789abcdef+") == "012345678+"
    assert code_behind.short_commit(None) == "unknown"


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(0.99, 100, 99), (0.99, 150, 149), (0.99, 125, 124), (0.5, 3, 2), (0.07, 100, 7), (0.0, 5, 1)],
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    share: float, count: int, expected: int
) -> None:
    assert percentile(range(1, count + 1), share) == expected


def test_a_result_is_stale_once_code_behind_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(code_behind, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "benchmarks" / "cache.py").write_text(
        "from framegate.models import light\n", encoding="utf-8"
    )
    (tmp_path / "models" / "light.py").write_text("A = 1\n", encoding="utf-8")
    (tmp_path / "models" / "other.py").write_text("A = 1\n", encoding="utf-8")

    def digest() -> str:
        for each in (code_behind.code_behind, code_behind.digest_of, code_behind._reaches):
            each.cache_clear()
        return code_behind.digest_of("benchmarks.cache")

    monkeypatch.setattr(every, "RESULTS", tmp_path)
    monkeypatch.setattr(stale, "RESULTS", tmp_path)
    monkeypatch.setattr(missed, "RESULTS", tmp_path)
    conditions = {
        "version": "0.2.0",
        "commit": "0123456789",
        "date": "2026-11-29",
        "cpu": "AMD EPYC",
        "cores": 2,
        "load_average": 0.5,
        "code": digest(),
    }
    figures_of_cache = {
        "hit_rate_second_round": 1.0,
        "detector_cpu_ratio": 9.0,
        "look_up_ms": 0.1,
        "noisy_cost": 0.0,
        "collisions_believed": 0,
    }
    figure = {**figures_of_cache, "conditions": conditions}
    (tmp_path / "cache.json").write_text(json.dumps(figure), encoding="utf-8")
    (tmp_path / "models" / "other.py").write_text("A = 2\n", encoding="utf-8")
    digest()
    assert stale.main() == 0
    assert capsys.readouterr().out == ""
    shown = figures.table("cache")
    assert shown.endswith(
        "\nMeasured at 0.2.0 (commit 012345678, 2026-11-29; AMD EPYC, 2 cores, load 0.5).\n"
    )
    (tmp_path / "models" / "light.py").write_text("A = 2\n", encoding="utf-8")
    digest()
    assert stale.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "stale: cache: measured at 0.2.0, commit 012345678, 2026-11-29",
        "before a release: python -m benchmarks.all --resume",
    ]
    assert figures.table("cache") == shown
    for each in (code_behind.code_behind, code_behind.digest_of, code_behind._reaches):
        each.cache_clear()


def test_one_that_takes_too_long_is_ended_and_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "QUICK_S", 0.2)
    given = argparse.Namespace(quick=True, data=None, peers=None)
    ended = every.measured(given, ["promise_statistics"], 1)
    assert [*ended] == [every.Ended("promise_statistics", None, "FAILED: took too long")]


def test_ctrl_c_ends_those_that_run_and_tells_what_there_is() -> None:
    names = ("batching", "end_to_end", "many")
    program = """
import os, sys
from benchmarks import all as every
os.sched_getaffinity = lambda _: {0}
sys.exit(every.main())
"""
    command = (sys.executable, "-c", program, "--quick", "--only", *names)
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert running.stdout is not None
    started = [running.stdout.readline() for _ in range(2)]
    assert started == ["batching: runs\n", "end_to_end: runs\n"]
    children = (
        Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="utf-8").split()
    )
    assert len(children) == 2
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130, said
    assert "batching" in said
    assert "many: runs" not in said
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
