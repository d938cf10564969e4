"""What `watch` says of questions and look-ups."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.cli.control.watch import as_lines, counts_of
from framegate.cli.main import main
from framegate.pipeline.contracts.queries import AskCounts, CacheCounts
from framegate.pipeline.run.rpc import StageCounts


def test_each_stage_is_a_line() -> None:
    asks = AskCounts(4, 1, {"late": 2}, 1_500_000, 0.2, 0.4, "open", {"gate": 2.5, "door": 0.0})
    cache = CacheCounts(hits=30, misses=10, refused=1, sources=2, off=1)
    assert list(as_lines(StageCounts({"escalate": asks}, {"detect": cache}))) == [
        "escalate: 4 answers, 1 of them shared; breaker open; 100 ms a question; 2 late; "
        "1.5 MB up; questions left: door 0.0, gate 2.5",
        "detect: 75.0% of 40 inputs were exact repetitions, answered from memory; 1 refused; "
        "hits are rare: off in 1 of 2 sources",
    ]


def test_a_stage_that_looked_nothing_up_says_nothing() -> None:
    assert list(as_lines(StageCounts({}, {"detect": CacheCounts(sources=1)}))) == []


def test_where_no_run_goes_on_nothing_is_said(tmp_path: Path) -> None:
    assert list(as_lines(counts_of(tmp_path))) == []


def test_a_store_or_a_folder_selects_a_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["watch", "-d", "data", "--store", "redis://localhost"]) == 2
    assert "give --store or -d, not both" in capsys.readouterr().err
