"""`[record]` in a run: what is served stays the same, and what was recorded is what came."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import pytest

from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.stages.decode.clip import write_clip
from tests.support.commands import framegate
from tests.support.episodes import WALK, stored_changes
from tests.support.recorded import payload, segments, write_both
from tests.support.runs import published_in, said

pytestmark = pytest.mark.whole_run

DONE = 0
DETECT = '[stages.detect]\ndetector = "nanodet-plus-128"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "user"
    made.mkdir()
    return made


def test_a_file_is_recorded_whole_and_its_results_are_the_same(folder: Path) -> None:
    file = write_both(folder / "gate.mp4", 6.0)
    results = []
    for name, config in (("off", DETECT), ("on", f'{DETECT}[record]\nsources = ["gate"]\n')):
        (folder / "pipeline.toml").write_text(config, encoding="utf-8")
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


def test_a_resumed_run_records_the_file_that_its_first_command_named(folder: Path) -> None:
    write_both(folder / "gate.mp4", 1.0)
    (folder / "pipeline.toml").write_text(DETECT, encoding="utf-8")
    words = ("--record", "-d", "data")
    assert framegate(folder, "run", "gate.mp4", *words).code == DONE
    resumed = framegate(folder, "run", "--resume", *words)
    assert resumed.code == DONE, resumed.err
    assert "all cameras, and there is none" not in resumed.err


def test_a_recording_is_detected_again_with_equal_results(folder: Path) -> None:
    write_both(folder / "gate.mp4", 6.0)
    (folder / "pipeline.toml").write_text(
        f'{DETECT}[record]\nsources = ["gate"]\n[sources.gate]\nurl = "gate.mp4"\n',
        encoding="utf-8",
    )
    ended = framegate(folder, "run", "-d", "first")
    assert ended.code == DONE, ended.err
    words = ("run", "--from-recording", "first/gate")
    ended = framegate(folder, *words, "-d", "again")
    assert ended.code == DONE, ended.err
    assert not (folder / "again" / FOLDER).exists(), "it is not recorded again"
    ended = framegate(folder, "diff", "first", "again")
    assert (ended.code, ended.err) == (DONE, "")
    [first, *_] = published_in(folder / "again", ["gate"])["gate"].results
    assert first.captured_from == "file"
    assert first.captured == segments(folder / "first")[0].captured
    (folder / "pipeline.toml").write_text(
        f'{DETECT}[sources.yard]\nurl = "gate.mp4"\n[sinks.hook]\nkind = "webhook"\n'
        'url = "http://127.0.0.1:9/"\n',
        encoding="utf-8",
    )
    ended = framegate(folder, "run", "--resume", "-d", "again")
    assert ended.code == DONE, ended.err
    assert "yard" not in ended.err, "its tables of sources and sinks are left out again"
    assert "hook" not in ended.err
    ended = framegate(folder, *words, "-d", "again", "--resume")
    assert "leave --from-recording out" in ended.err
    ended = framegate(folder, *words, "gate.mp4", "--record")
    assert ended.err == (
        "framegate: give SOURCE or --from-recording, not both\n"
        "framegate: --record: what is read from a recording is not recorded again\n"
    )
    ended = framegate(folder, "run", "--from-recording", "first/gates")
    assert "it recorded: gate; did you mean gate?" in ended.err
    ended = framegate(folder, *words, "--since", "12:00", "--until", "11:00")
    assert "--since 12:00 --until 11:00: the end must be after the start" in ended.err


WALKED = """
[record]
sources = ["gate"]
[events.areas.middle]
points = [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]]
[events.rules.visitor]
when = "inside"
area = "middle"
severity = "alert"
clip = { before_s = 2.0, after_s = 1.0 }
[stages.walk]
use = "walk:Walk"
input = "decode"
[stages.cache]
input = "walk"
"""


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"bf": "2"}), ("libx265", {})], ids=["h264_b", "hevc"]
)
def test_each_alert_has_its_clip(folder: Path, codec: str, options: dict[str, str]) -> None:
    """From a key frame on, with what came before its first evidence, of the packets that came."""
    file = write_both(folder / "gate.mp4", 9.0, codec, sound=None, options=options)
    (folder / "walk.py").write_text(WALK, encoding="utf-8")
    (folder / "pipeline.toml").write_text(WALKED, encoding="utf-8")
    ended = framegate(folder, "run", "gate.mp4", "-d", "data")
    assert ended.code == DONE, ended.err
    ends = [
        one
        for _, changes in stored_changes(folder / "data", "gate")
        for one in changes.changes
        if one.step == "end"
    ]
    with closing(Index(folder / "data")) as index:
        clips = {pin.why: index.between("gate", pin.since, pin.until) for pin in index.pins("gate")}
    assert len(ends) > 3
    assert clips.keys() == {one.episode for one in ends}
    whole = payload(file)
    for number, one in enumerate(ends):
        held = clips[one.episode]
        assert held[0].is_key
        assert held[0].pts <= max(one.began.media_s - 2.0, 0.0)
        assert held[-1].pts_end > one.last.media_s
        clip = folder / f"{number}.mp4"
        write_clip(folder / "data" / FOLDER, held, clip)
        kept = payload(clip)
        assert kept == whole[whole.index(kept[0]) :][: len(kept)]
        with av.open(str(clip)) as shown:
            pictures = sum(1 for _ in shown.decode(video=0))
        assert pictures == len(kept)
