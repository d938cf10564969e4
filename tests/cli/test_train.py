"""`framegate train`: words that it refuses before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.cli.learning import train
from framegate.cli.main import main
from framegate.pipeline.contracts.errors import Exit


def test_without_torch_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "find_spec", lambda _: None)
    assert main(["train", "gate", "--from", "monday.mp4"]) == Exit.USAGE
    assert "pip install '.[train]' (or make extras)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--from SOURCE is missing: the footage to learn from"),
        (["--resume", "--from", "a.mp4"], "leave out --from"),
        (["--resume", "--use"], "leave out --if-needed and --use"),
        (["--resume", "--if-needed"], "use the model with framegate models use gate"),
        (
            ["--from", "a.mp4", "--minutes", "0"],
            "--minutes must be above 0 and at most 1440, got 0",
        ),
        (["--from", "a.mp4", "--frames", "0"], "--frames must be 1 to 3000, got 0"),
        (["--from", "a.mp4", "--frames", "3001"], "--frames must be 1 to 3000, got 3001"),
        (["--from", "a.mp4", "--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "find_spec", lambda _: True)
    assert main(["train", "gate", *words]) == Exit.USAGE
    assert told in capsys.readouterr().err


def test_a_picture_is_never_written_over_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "monday.png"
    clip.write_bytes(b"footage")
    monkeypatch.setattr(train, "find_spec", lambda _: True)
    words = ["train", "gate", "--from", str(clip), "--show", str(clip), "--overwrite"]
    assert main(words) == Exit.USAGE
    assert clip.read_bytes() == b"footage"
    assert "--show" in capsys.readouterr().err
