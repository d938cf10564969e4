"""Save writes each frame once, whatever is tried again, and names what it begins."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import msgspec
import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults, FrameLost
from framegate.pipeline.contracts.records import End, Position, Record
from framegate.pipeline.contracts.results import GateView, Object
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.stages.detections import Detections
from framegate.stages.draw.save import Save, SaveOptions, SaveState
from tests.support.runs import DEADLINE_S

FORM = Form(64, 48)
THING = Object(1, "person", 0, 0.9, (8.0, 8.0, 40.0, 40.0), "detected")
FOUND = Detections("detected", "whole", "every_frame", (THING,), ("x@1",))


class Pixels:
    """Pictures, grey or noise; those of the numbers in `lost` are not there."""

    def __init__(self, noisy: bool = False) -> None:
        self.lost: set[int] = set()
        self.noisy = noisy

    @contextmanager
    def __call__(self, item: Item) -> Iterator[memoryview]:
        if item.record.number in self.lost:
            raise FrameLost(f"frame {item.record.number}")
        luma = bytes([100]) * (64 * 48)
        if self.noisy:
            luma = random.Random(item.record.number).randbytes(64 * 48)
        yield memoryview(luma + bytes([128]) * (64 * 48 // 2))


@pytest.fixture
def pixels() -> Pixels:
    return Pixels()


def save(folder: Path, pixels: Pixels, run: str = "", overwrite: bool = False) -> Save:
    options = SaveOptions(str(folder), run, overwrite)
    return Save(options, context_alone(pixels, lambda: 0.0, folder, "detect"))


def items(
    numbers: range, source: str = "a", epoch: int = 1, found: Detections = FOUND
) -> list[Item]:
    said = {"detect": msgspec.Raw(records.encode(found))}
    return [
        Item(
            source,
            Position(epoch, n),
            Record(v=1, pts=n / 25, captured=0.0, arrived=0.0, number=n, form=FORM, said=said),
        )
        for n in numbers
    ]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as video:
        return [round(f.time or 0.0, 3) for f in video.decode(video=0)]


def stamps(numbers: range) -> list[float]:
    return [n / 25 for n in numbers]


def last(frames: int) -> End:
    return End(v=1, frames=frames, last=True)


def test_one_video_a_source_with_every_frame(tmp_path: Path, pixels: Pixels) -> None:
    stage = save(tmp_path / "new" / "videos", pixels)
    states = {"a": SaveState(), "b": SaveState()}
    batch = [i for pair in zip(items(range(9)), items(range(9), "b"), strict=True) for i in pair]
    said, states = stage.process(batch, states)
    assert said == [None] * 18
    for source in ("a", "b"):
        assert stage.end(source, last(9), states[source]) == (None, SaveState(1))
        assert times(tmp_path / "new" / "videos" / f"{source}.framegate.mp4") == stamps(range(9))
    stage.close()


def test_what_the_gate_saw_is_drawn_where_it_is_told(tmp_path: Path, pixels: Pixels) -> None:
    view = GateView(4, 3, 16, b"\x00\x10", (), b"")  # the last tile but none
    gated = Detections("carried", "no", "waiting", (), ("x@1",), gate=view)
    stage, states = save(tmp_path, pixels), {"a": SaveState()}
    _, states = stage.process(items(range(1), found=gated), states)
    stage.end("a", last(1), states["a"])
    with av.open(str(tmp_path / "a.framegate.mp4")) as video:
        (frame,) = video.decode(video=0)
    luma = frame.to_ndarray(format="gray").astype(int)
    assert luma[36:44, 52:60].mean() > luma[4:12, 4:12].mean() + 10


def test_a_batch_that_is_tried_again_doubles_nothing(tmp_path: Path, pixels: Pixels) -> None:
    """The runner tries frame by frame after a fault, and all anew after a broken connection."""
    stage, state = save(tmp_path, pixels), {"a": SaveState()}
    pixels.lost = {5}
    with pytest.raises(FrameLost):
        stage.process(items(range(8)), state)
    for n in range(5):
        _, after = stage.process(items(range(n, n + 1)), state)
        assert after == {"a": SaveState(1)}
    pixels.lost = set()
    stage.process(items(range(8)), state)
    stage.process(items(range(8)), state)
    stage.end("a", last(8), SaveState(1))
    assert times(tmp_path / "a.framegate.mp4") == stamps(range(8))


def test_a_worker_that_takes_over_begins_the_next_file(tmp_path: Path, pixels: Pixels) -> None:
    first = save(tmp_path, pixels)
    _, states = first.process(items(range(6)), {"a": SaveState()})
    second = save(tmp_path, pixels)
    stored = records.decode(records.encode(states["a"]), SaveState)
    _, states = second.process(items(range(6, 9)), {"a": stored})
    assert states == {"a": SaveState(2)}
    second.close()
    first.close()
    assert times(tmp_path / "a.framegate.mp4") == stamps(range(6))
    assert len(times(tmp_path / "a.framegate-2.mp4")) == 3


def test_a_new_epoch_goes_on_in_the_same_file(tmp_path: Path, pixels: Pixels) -> None:
    stage = save(tmp_path, pixels)
    _, states = stage.process(items(range(3)), {"a": SaveState()})
    stage.end("a", End(v=1, frames=3, last=False), states["a"])
    stage.process(items(range(3), epoch=2), states)
    stage.close()
    assert len(times(tmp_path / "a.framegate.mp4")) == 6


def at(item: Item, pts: float, captured: float) -> Item:
    """The frame at other times."""
    return item._replace(record=msgspec.structs.replace(item.record, pts=pts, captured=captured))


def test_a_camera_that_comes_back_goes_on_as_much_later_as_it_was_away(
    tmp_path: Path, pixels: Pixels
) -> None:
    """Its time began long ago, and begins anew with each connection."""
    stage, first, second = save(tmp_path, pixels), items(range(3)), items(range(3), epoch=2)
    before = [at(item, 95443.7 + n / 10, 1000.0 + n / 10) for n, item in enumerate(first)]
    after = [at(item, 0.5 + n / 10, 1030.0 + n / 10) for n, item in enumerate(second)]
    stage.process([*before, *after], {"a": SaveState()})
    stage.close()
    expected = [0.0, 0.1, 0.2, 30.0, 30.1, 30.2]
    assert times(tmp_path / "a.framegate.mp4") == pytest.approx(expected, abs=0.002)


def test_a_file_whose_pictures_change_their_size_keeps_its_time(
    tmp_path: Path, pixels: Pixels
) -> None:
    """It is read faster than its time goes."""
    stage = save(tmp_path, pixels)
    before = [at(item, n / 10, 1000.0) for n, item in enumerate(items(range(3)))]
    after = [at(item, 3 + n / 10, 1000.1) for n, item in enumerate(items(range(3), epoch=2))]
    stage.process([*before, *after], {"a": SaveState()})
    stage.close()
    expected = [0.0, 0.1, 0.2, 3.0, 3.1, 3.2]
    assert times(tmp_path / "a.framegate.mp4") == pytest.approx(expected, abs=0.002)


def test_a_video_that_cannot_be_written_is_given_up_alone(
    tmp_path: Path, pixels: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.framegate.mp4..part").mkdir()
    stage = save(tmp_path, pixels)
    batch = [*items(range(4)), *items(range(4), "b")]
    said, _ = stage.process(batch, {"a": SaveState(), "b": SaveState()})
    assert said == [None] * 8
    stage.close()
    assert times(tmp_path / "b.framegate.mp4") == stamps(range(4))
    assert caplog.text.count("the run continues without it") == 1


def test_a_folder_that_cannot_be_one_refuses_the_start(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigFaults, match=r"--save .*file: "):
        save(tmp_path / "file", pixels)


def test_each_run_begins_with_the_plain_name(tmp_path: Path, pixels: Pixels) -> None:
    state = SaveState()
    for run in ("first", "second"):
        folder = tmp_path / run
        context = context_alone(pixels, lambda: 0.0, folder, "detect")
        stage = Save(SaveOptions(str(folder), run), context)
        _, states = stage.process(items(range(3)), {"a": state})
        state = states["a"]
        stage.close()
        assert [path.name for path in folder.iterdir()] == ["a.framegate.mp4"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_video_has_its_name_when_it_is_whole(tmp_path: Path, pixels: Pixels) -> None:
    stage = save(tmp_path, pixels, "r1")
    _, states = stage.process(items(range(3)), {"a": SaveState()})
    assert names(tmp_path) == ["a.framegate.mp4.r1.part"]
    stage.end("a", last(3), states["a"])
    assert names(tmp_path) == ["a.framegate.mp4"]
    stage.close()


def killed(folder: Path, run: str, frames: int) -> SaveState:
    """A worker begins a video and is killed with its last commit written."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.stages.draw.test_save import Pixels, SaveState, items, save\n"
        "stage = save(Path(sys.argv[1]), Pixels(noisy=True), sys.argv[2])\n"
        "stage.process(items(range(int(sys.argv[3]))), {'a': SaveState()})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", script, str(folder), run, str(frames)]
    assert subprocess.run(words, check=False, timeout=DEADLINE_S).returncode == -signal.SIGKILL
    return SaveState(1, run)


def test_what_a_killed_worker_left_gets_its_name_and_stays_playable(
    tmp_path: Path, pixels: Pixels
) -> None:
    state = killed(tmp_path, "r1", 200)
    assert names(tmp_path) == ["a.framegate.mp4.r1.part"]
    stage = save(tmp_path, pixels, "r1")
    _, states = stage.process(items(range(200, 203)), {"a": state})
    stage.end("a", last(203), states["a"])
    stage.close()
    assert names(tmp_path) == ["a.framegate-2.mp4", "a.framegate.mp4"]
    assert times(tmp_path / "a.framegate.mp4")[:12] == stamps(range(12))


def test_a_killed_worker_whose_frames_come_again_leaves_nothing(
    tmp_path: Path, pixels: Pixels
) -> None:
    killed(tmp_path, "r1", 200)
    stage = save(tmp_path, pixels, "r1")
    stage.process(items(range(5)), {"a": SaveState()})
    stage.close()
    assert names(tmp_path) == ["a.framegate.mp4"]
    assert times(tmp_path / "a.framegate.mp4") == stamps(range(5))


def test_what_a_killed_run_left_does_not_stay_a_part_for_ever(
    tmp_path: Path, pixels: Pixels
) -> None:
    killed(tmp_path, "r1", 200)
    other = save(tmp_path, pixels, "r2")  # goes on: what it writes is not touched
    other.process(items(range(60)), {"a": SaveState()})
    stage = save(tmp_path, pixels, "r3")
    stage.process(items(range(2)), {"a": SaveState()})
    stage.close()
    other.close()
    assert names(tmp_path) == [
        "a.framegate-2.mp4", "a.framegate-3.mp4", "a.framegate.mp4",
    ]  # fmt: skip
    assert len(times(tmp_path / "a.framegate.mp4")) == 2
    assert len(times(tmp_path / "a.framegate-2.mp4")) > 12
    assert len(times(tmp_path / "a.framegate-3.mp4")) == 60


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_others_made_is_replaced_only_if_that_is_said(
    tmp_path: Path, pixels: Pixels, overwrite: bool
) -> None:
    theirs = tmp_path / "a.framegate.mp4"
    theirs.write_bytes(b"holiday")
    stage = save(tmp_path, pixels, "r1", overwrite)
    stage.process(items(range(3)), {"a": SaveState()})
    stage.close()
    if overwrite:
        assert names(tmp_path) == ["a.framegate.mp4"]
        assert times(theirs) == stamps(range(3))
    else:
        assert theirs.read_bytes() == b"holiday"
        assert times(tmp_path / "a.framegate-2.mp4") == stamps(range(3))


def test_what_came_to_be_there_meanwhile_stays(tmp_path: Path, pixels: Pixels) -> None:
    stage = save(tmp_path, pixels, "r1")
    stage.process(items(range(3)), {"a": SaveState()})
    (tmp_path / "a.framegate.mp4").write_bytes(b"holiday")
    stage.close()
    assert (tmp_path / "a.framegate.mp4").read_bytes() == b"holiday"
    assert times(tmp_path / "a.framegate-2.mp4") == stamps(range(3))
