"""`[record]` in a run: what is served stays the same, and what was recorded is what came."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.recording.tables import FOLDER
from framegate.stages.decode.clip import write_clip
from tests.support.commands import framegate
from tests.support.recorded import payload, segments, write_both
from tests.support.runs import published_in, said

DONE = 0
DETECT = '[stages.detect]\ndetector = "nanodet-128"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "user"
    made.mkdir()
    return made


def test_a_file_is_recorded_whole_and_its_results_are_the_same(folder: Path) -> None:
    file = write_both(folder / "gate.mp4", 6.0)
    results = []
    for name, config in (("off", DETECT), ("on", f'{DETECT}[record]\nsources = ["gate"]\n')):
        (folder / "pipeline.toml").write_text(config)
        ended = framegate(folder, "run", "gate.mp4", "-d", name)
        assert ended.code == DONE, ended.err
        results.append(published_in(folder / name, ["gate"])["gate"].results)
    assert said(results[0]) == said(results[1])
    assert not (folder / "off" / FOLDER).exists()
    held = segments(folder / "on")
    (epoch,) = {one.epoch for one in results[1]}
    assert {one.epoch for one in held} == {epoch}
    clip = folder / "clip.mp4"
    write_clip(folder / "on" / FOLDER, held, clip)
    assert payload(clip) == payload(file)
    assert payload(clip, "audio") == payload(file, "audio")
