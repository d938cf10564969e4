"""What the gate's benchmark says of its figures, and what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gate.cpu import config_text
from benchmarks.gate.judged import bars, line, summary
from benchmarks.harness.gate_clips import GateClip

Row = dict[str, Any]


def row(clip: str, group: str, **more: Any) -> Row:
    given: Row = {
        "clip": clip,
        "group": group,
        "frames": 300,
        "size": [768, 432],
        "share": 0.1,
        "f1": 0.95,
        "ceiling": 0.96,
        "rival_f1": 0.93,
        "lead": [0.02, -0.01, 0.04],
        "boxes": {"matched": 190, "gated": 200, "dense": 200},
        "event_recall": 0.9,
        "events": 10,
        "events_missed": 1,
        "share_warm_up": 0.2,
        "frame_ms": 1.5,
        "gate_ms": 0.25,
        "cpu_ratio": 0.3,
        "curves": {name: [[0.1, 0.9], [0.4, 0.95]] for name in ("gate", "carried", "moved")},
        "motion_rules": {
            name: {"share": 0.5, "f1": 0.6} for name in ("previous_frame", "running_average")
        },
        "by_second": {"share": [0.1, 0.4, 0.0], "boxes": [0.0, 2.0, 1.0]},
    }
    return given | more


ROWS = [
    row("bottle-detection", "quiet", share=0.2, cpu_ratio=0.4),
    row("idle-room", "quiet", share=0.0, cpu_ratio=0.2, f1=None, events_missed=0, events=0),
    row("one-by-one-hevc", "quiet", share=0.9, cpu_ratio=0.9, size=[640, 360]),
    row("car-detection", "busy", lead=[-0.05, -0.08, -0.02], gate_ms=0.35),
]
del ROWS[1]["curves"]


def test_means_are_those_of_the_quiet_scenes() -> None:
    found = summary(ROWS, large_ms=0.5)
    assert found["quiet_share"] == pytest.approx(0.1)
    assert found["quiet_cpu_ratio"] == pytest.approx(0.3)
    assert found["gate_ms_768x432"] == pytest.approx((0.25 + 0.25 + 0.35) / 3, abs=1e-4)
    assert found["hota_loss"] is None
    assert [clip["clip"] for clip in found["clips"]] == [each["clip"] for each in ROWS]


def test_bars_say_what_is_met_and_what_is_not() -> None:
    said = {bar.what: bar.verdict for bar in bars(summary(ROWS, 0.7))}
    assert said["quiet: share in the mean"] == "held"
    assert said["gate at 1080p, ms"] == "MISSED"
    assert said["HOTA lost"] == "not measured"
    assert said["idle-room: share"] == "held"
    assert said["bottle-detection: event recall (1 where one or none is missed)"] == "held"
    assert said["car-detection: lead at equal time, upper end"] == "MISSED"
    assert said["car-detection: CPU, times gate off"] == "held"
    assert "idle-room: F1 (ceiling - .03)" not in said


def test_a_clip_with_few_boxes_is_told_by_counts() -> None:
    assert "boxes 200, dense 200, matched 190" in line(ROWS[1])
    assert "F1 0.950, ceiling 0.960" in line(ROWS[0])


def test_the_gate_can_be_switched_off_in_the_packaged_configuration(tmp_path: Path) -> None:
    clip = GateClip("clip", "quiet", tmp_path / "clip.mp4", 300, 25.0)
    clip.path.write_bytes(b"")
    on, off = (config_text(clip, "on"), config_text(clip, "off"))
    changed = [(a, b) for a, b in zip(on.splitlines(), off.splitlines(), strict=True) if a != b]
    assert len(changed) == 1
    assert changed[0][1] == 'mode = "off"'


def test_figures_are_drawn_from_a_result(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (bench extra)")
    from benchmarks.gate.figures import draw

    paths = draw(summary(ROWS, large_ms=0.5), tmp_path)
    assert all(path.stat().st_size > 10_000 for path in paths)
    assert len(paths) == 3
