"""`framegate recordings`: what people are told, and files that they get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framegate.cli.main import main
from framegate.pipeline.recording.index import Index
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from tests.support.footage import write_sizes
from tests.support.recorded import payload, record, segments, times, write_both


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    record(Path("data").absolute(), write_both(tmp_path / "gate.mp4", 10.0))
    return tmp_path


def test_what_there_is_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recordings", "-d", "data"]) == 0
    told = capsys.readouterr().out
    assert "gate" in told
    assert "10.0 s" in told
    assert max(len(line) for line in told.splitlines()) <= 80
    assert main(["recordings", "-d", "data", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["seconds"] == pytest.approx(10.0)
    del folder


def test_a_whole_recording_is_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recordings", "export", "gate", "-d", "data"]) == 0
    (file,) = folder.glob("gate-*.mp4")
    assert capsys.readouterr().out == f"written: {file.name}\n"
    assert payload(file) == payload(folder / "gate.mp4")
    assert main(["recordings", "export", "gate", "-d", "data"]) == 2  # it is there
    assert main(["recordings", "export", "gate", "-d", "data", "--overwrite"]) == 0


def test_a_range_is_exported(folder: Path) -> None:
    first = segments(folder / "data")[0].captured
    span = ["--from", f"{first:.6f}", "--to", f"{first + 2:.6f}"]
    assert main(["recordings", "export", "gate", "-d", "data", *span, "-o", "clip.mp4"]) == 0
    assert 50 <= len(times(folder / "clip.mp4")) <= 53


def test_what_no_one_file_holds_becomes_several(folder: Path) -> None:
    file = write_sizes(folder / "sizes.h264", [(96, 64), (64, 96)], 50)
    record(folder / "data", file, "yard")
    assert main(["recordings", "export", "yard", "-d", "data", "-o", "yard.mp4"]) == 0
    assert sorted(path.name for path in folder.glob("yard*.mp4")) == ["yard-2.mp4", "yard.mp4"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["gat"],
            "gat: the run recorded nothing of this source; it recorded: gate; did you mean gate?",
        ),
        (["gate", "--from", "soon"], "--from must be a time "),
        (["gate", "--from", "1h", "--to", "2h"], "the end must be after the start"),
        (["gate", "--from", "1-20"], "--from must be a time "),
        (
            ["gate", "--to", "2000-01-01"],
            "nothing was recorded in this range; recordings exist from",
        ),
        (["gate", "-o", "none/a.mp4"], "none"),
    ],
)
def test_what_cannot_be_exported_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["recordings", "export", "-d", "data", *words]) == 2
    assert says in capsys.readouterr().err
    assert not [*folder.glob("gate-*")]


@pytest.mark.parametrize("command", ["recordings", "events", "results", "sources", "snapshot gate"])
def test_a_folder_that_has_nothing_of_the_kind_is_a_fault_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([*command.split(), "-d", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert str(tmp_path) in said.err
    assert said.out == ""
    assert not [*tmp_path.iterdir()]


def test_none_of_what_was_asked_for_is_no_fault_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of results: tests/runs/test_results_command.py."""
    Index(tmp_path).close()
    Projection(tmp_path / FILE).close()
    notes = {"recordings": "the run has no recordings", "events": "there are no such episodes"}
    for command, note in notes.items():
        assert main([command, "-d", str(tmp_path), "--json"]) == 0
        said = capsys.readouterr()
        assert note in said.err
        assert said.out == ""


def test_removed_recordings_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = Index(folder / "data")
    index.remove(segments(folder / "data")[:1], "bytes")
    index.close()
    assert main(["recordings", "-d", "data"]) == 0
    assert "gate: 1 files" in capsys.readouterr().out


def test_a_recording_to_detect_again_needs_its_own_folder_without_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hint must not name -d, which is the folder of the new run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    assert main(["run", "--from-recording", "gate", "-d", "again"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "name its data folder: --from-recording DATA/gate" in told
    assert "with -d" not in told
