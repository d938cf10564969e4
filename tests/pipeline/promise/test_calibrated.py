"""What `framegate calibrate` says of footage: what to set, what else it takes, what is lacking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from framegate.cli.main import main
from framegate.pipeline.config.config import packaged_text
from framegate.pipeline.promise.calibration import FootageTallies, Raise, Tally, judged, verdict
from framegate.pipeline.promise.period import Promise

TERMS = Promise(alpha=0.01, confidence=0.95)
RAISES = (Raise("per_s", 2.0, 6.25), Raise("all_per_s", 4.0, 9.5))


def footage(
    draws: int, wrong: int, distinct: int | None = None, raised: tuple[Raise, ...] = ()
) -> FootageTallies:
    """Asking always, in doubt of .1, never: wrong never, in one draw for each three, in `wrong`."""
    tallies = (Tally(0.0, 0, 2000), Tally(0.1, wrong // 3, 100), Tally(1.01, wrong, 0))
    return FootageTallies(tallies, 2000, draws, distinct or draws, (RAISES, raised, ()))


def said(of: FootageTallies) -> list[str]:
    return verdict(judged(of, TERMS), TERMS).splitlines()


def test_what_would_do_is_told_as_the_option_that_does_it() -> None:
    assert said(footage(30, 0)) == [
        "30 draws are too few for 1.00% at 95.0% confidence: even without one wrong frame they "
        "show 9.50%. --frames 299 would do"
    ]
    short = replace(footage(30, 0), frames=100)
    assert said(short)[0].endswith("--frames 299, and footage of more than 100 frames would do")
    [best, _, more] = said(footage(400, 3))
    assert best.startswith("1.00% at 95.0% confidence: [escalate] doubt = 0 asks about 100.0%")
    assert more == (
        "With --frames 628, the next setting is certified, too, if the added frames are alike"
    )


def test_asks_beyond_the_budget_are_told_with_the_keys_to_raise() -> None:
    within, beyond = said(footage(1000, 9)), said(footage(1000, 9, raised=RAISES))
    assert "doubt = 0.1" in within[0]
    assert not any("budget" in line for line in within)
    assert beyond[1] == (
        "It needs a budget for all these asks: raise [escalate] per_s from 2 to 6.25, all_per_s "
        "from 4 to 9.5 (cameras: as if all sources were, of one worker)"
    )
    [told] = [line for line in said(footage(1000, 9, raised=RAISES[:1])) if "budget" in line]
    assert told.endswith("raise [escalate] per_s from 2 to 6.25")


def test_many_draws_of_few_frames_are_told_for_what_they_are() -> None:
    told = said(footage(1000, 0, distinct=40))
    assert told[-1] == (
        "1000 draws are of 40 different frames: for other footage they are worth 40 draws, which "
        "show 7.22%"
    )
    assert len(said(footage(1000, 0, distinct=632))) == 1  # as 1000 draws of 1000 frames are


def test_a_plot_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day.mp4").write_bytes(b"no video: reading it would be another fault")
    plot = tmp_path / "none" / "risk.svg"
    assert main(["calibrate", "day.mp4", "--plot", str(plot)]) == 2
    assert f"--plot {plot.parent}: " in capfd.readouterr().err


def test_a_confidence_that_no_promise_has_is_refused_before_the_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day.mp4").write_bytes(b"no video: reading it would be another fault")
    assert main(["calibrate", "day.mp4", "--confidence", "0.2"]) == 2
    assert "promise.confidence = 0.2" in capfd.readouterr().err


def test_a_detect_of_another_name_is_found_and_none_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day.mp4").write_bytes(b"no video: reading it would be another fault")
    text = packaged_text()
    named = text.replace("stages.detect]", "stages.look]").replace('"detect"', '"look"')
    (tmp_path / "named.toml").write_text(named, encoding="utf-8")
    assert main(["calibrate", "day.mp4", "-c", "named.toml"]) == 1
    assert "day.mp4" in capfd.readouterr().err
    stages = {
        "decode": "decode:Decode",
        "escalate": "escalate:Escalate",
        "cache": "publish:Publish",
    }
    own, before = "", ""
    for name, path in stages.items():
        own += f'[stages.{name}]\nuse = "framegate.stages.{path}"\n{before}'
        before = f'input = "{name}"\n'
    (tmp_path / "own.toml").write_text(own, encoding="utf-8")
    assert main(["calibrate", "day.mp4", "-c", "own.toml"]) == 2
    assert "stages: none is framegate.stages.detect:Detect" in capfd.readouterr().err


def test_trying_a_plot_leaves_what_was_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day.mp4").write_bytes(b"no video")
    (tmp_path / "old.svg").write_text("as it was", encoding="utf-8")
    assert main(["calibrate", "day.mp4", "--plot", "old.svg"]) == 2
    assert "old.svg already exists" in capfd.readouterr().err
    for name in ("old.svg", "new.svg"):
        assert main(["calibrate", "day.mp4", "--plot", name, "--overwrite"]) != 0
    assert "--plot" not in capfd.readouterr().err
    assert (tmp_path / "old.svg").read_text(encoding="utf-8") == "as it was"
    assert not (tmp_path / "new.svg").exists()
