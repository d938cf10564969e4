"""Cost and error of each threshold of doubt on footage: the code of the stages, replayed.

All thresholds see the same frames and the same answers of the heavy pass, so the pass looks at a
frame once, however many thresholds ask about it. The answers are kept on this machine, so a
repeated call with more frames or another threshold starts from them.
"""

from __future__ import annotations

import contextlib
import select
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from framegate.models.detector import detector
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.source import Frame
from framegate.pipeline.contracts.stage import WAITS, Context, Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.promise.calibration import Float64Array, FootageTallies, Tally, raises
from framegate.pipeline.system import machine
from framegate.pipeline.system.loading import load, options_of
from framegate.stages.audit.open_audits import PATH, differs, seen_in
from framegate.stages.decode.file import FileSource
from framegate.stages.detect import Detect
from framegate.stages.detect.options import labels_wanted
from framegate.stages.detections import Detections
from framegate.stages.escalate import Escalate
from framegate.stages.escalate.heavy_pass import LocalHeavy
from framegate.stages.escalate.options import EscalateOptions, StageOptions
from framegate.stages.learning.teaching import KeptAnswers

BLOCK: Final = 50  # frames in a row that are held against the heavy pass
WARM: Final = 50  # frames before such a block for which only the light path looks
_BOUNDLESS: Any = {"per_s": 1000.0, "burst": 1000.0}


class Remembered:
    """A place that answers from the heavy pass, or from its kept answers to the same pixels.
    `looked` counts the passes.
    """

    lanes, most = 1, 1
    sent_bytes, wire_s = 0, 0.0

    def __init__(self, heavy: LocalHeavy, file: Path) -> None:
        """file: where answers of one policy are kept."""
        self.looked = 0
        self._heavy, self._kept = heavy, KeptAnswers(file)

    def answer(self, questions: Sequence[Query]) -> Sequence[Predictions]:
        """Answer questions about one frame."""
        content = questions[0].content
        known = self._kept.find(content)
        if known is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                return [msgspec.msgpack.decode(known, type=Predictions)]
        [found] = self._heavy.answer(questions)
        self._kept.keep(content, msgspec.msgpack.encode(found))
        self.looked += 1
        return [found]

    def close(self) -> None:
        """Write the answers."""
        self._kept.close()


def answers_file(classes: Sequence[str] | None) -> Path:
    """Return the file of the heavy pass's answers; other models or classes have another one."""
    policy_id = detector.policy_id("heavy", classes)
    return machine.user_cache() / "calibrate" / f"{policy_id[:16]}.msgpack"


class AskTimes:
    """The times at which each threshold asks, by the clock of each source, s."""

    def __init__(self) -> None:
        self._times: dict[tuple[float, str], array[float]] = {}

    def note(self, least: float, source: str, now_s: float) -> None:
        """Note a question; those of a source come in order."""
        self._times.setdefault((least, source), array("d")).append(now_s)

    def of(self, least: float) -> list[Float64Array]:
        """Return one row of seconds for each source that asks."""
        return [np.array(times) for (one, _), times in self._times.items() if one == least]


class Replay:
    """Detect, and escalate once for each threshold between always and never.

    One thread.
    """

    def __init__(self, detect: Mapping[str, Any], folder: Path) -> None:
        """Open the stages. detect: options of detect; folder: for files that stages pin."""
        self._pixels = b""
        self._detect = Detect(options_of(Detect, dict(detect)), self._context(folder, "decode"))
        self._classes = self._detect.options.classes
        looked_for = labels_wanted("heavy", self._classes)
        self.heavy = Remembered(LocalHeavy(looked_for), answers_file(looked_for))
        context = self._context(
            folder, "detect", asks=lambda _, patience_s: Asks(self.heavy, patience_s=patience_s)
        )
        self._arms = {least: self._arm(least, context) for least in PATH[1:-1]}
        self._states: dict[object, Any] = {}
        self.times = AskTimes()

    def _context(self, folder: Path, before: str, **others: Any) -> Context:
        return context_alone(self._held, lambda: 0.0, folder, before, **others)

    def _arm(self, least: float, context: Context) -> Escalate:
        options = EscalateOptions("local", doubt=least, **_BOUNDLESS)
        return Escalate(StageOptions(self._classes, options), context)

    @contextmanager
    def _held(self, item: Item) -> Iterator[memoryview]:  # noqa: ARG002
        yield memoryview(self._pixels)

    def look(self, item: Item, pixels: bytes) -> Detections:
        """Return the output of the light path for a frame."""
        self._pixels = pixels
        return self._said(self._detect, "detect", item)

    def frame(self, item: Item, pixels: bytes, drawn: bool) -> Sequence[tuple[bool, bool | None]]:
        """Return, for each threshold, whether it asks, and whether its output is wrong; None: not
        drawn.

        The threshold that always asks is never wrong.
        """
        found = self.look(item, pixels)
        said = msgspec.structs.replace(
            item.record, said={"detect": msgspec.Raw(records.encode(found))}
        )
        after = item._replace(record=said)
        served = [self._said(arm, least, after) for least, arm in self._arms.items()]
        asked = [*(one.escalation == "done" for one in served), False]
        now_s = self._states[PATH[1], item.source].clock_s
        for least, asks in zip(PATH, (True, *asked), strict=True):
            if asks:
                self.times.note(least, item.source, now_s)
        if not drawn:
            return [(True, None), *((asks, None) for asks in asked)]
        question = QueryId(item.source, item.position)
        [true] = self.heavy.answer([Query(question, item.record.form, pixels)])
        wrong = [differs(seen_in(one.objects), true) for one in (*served, found)]
        return [(True, False), *zip(asked, wrong, strict=True)]

    def _said(self, stage: Any, name: object, item: Item) -> Detections:
        """Run one frame through a stage, from the stage's last state."""
        at = name, item.source
        states = {item.source: self._states.get(at, stage.State())}
        answers = select.poll()
        if stage.asks is not None:
            answers.register(stage.asks.fileno(), select.POLLIN)
        while True:
            [output], after = stage.process([item], states)
            if isinstance(output, Detections):
                self._states[at] = after[item.source]
                return output
            assert output is WAITS
            answers.poll()
            stage.asks.hear()

    def close(self) -> None:
        """Close the stages, and write the answers of the heavy pass."""
        for arm in self._arms.values():
            arm.close()
        self.heavy.close()


def chosen(frames: int, most: int, seed: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the frames to compare with the heavy pass, at most `most`: blocks in a row,
    drawn at random. A larger `most` includes the frames of a smaller one, whose answers are kept.
    """
    taken = np.zeros(frames, np.bool_)
    left = most
    for block in np.random.default_rng(seed).permutation(-(-frames // BLOCK)):
        first = int(block) * BLOCK
        taken[first : first + min(BLOCK, left)] = True
        left = most - int(np.count_nonzero(taken))
        if left <= 0:
            break
    return taken


def tallied(
    files: Mapping[str, str],
    stages: Sequence[tuple[str, dict[str, Any]]],
    most: int,
    seed: int,
    tell: OnProgress,
) -> FootageTallies:
    """Return the tallies of the thresholds of PATH on files. ConfigFaults for stages without a
    Detect.

    files   path by source; stages  class and options of the configured stages
    most    most frames to compare with the heavy pass, and number of draws

    KeyboardInterrupt ends the replay with the tallies so far; before the first frame it is raised.
    """
    detect = _of_kind(stages, Detect)
    if detect is None:
        raise ConfigFaults(
            ["stages: none is framegate.stages.detect:Detect; allowed is a configuration with one"]
        )
    escalate = options_of(Escalate, _of_kind(stages, Escalate) or {})
    assert isinstance(escalate, StageOptions)
    budget = escalate.escalate
    available = sum(_counted(files, tell))
    taken = chosen(available, most, seed)
    frames = int(np.count_nonzero(taken))
    draws = np.bincount(
        np.random.default_rng((seed, 1)).integers(frames, size=most), minlength=frames
    )
    tallies = [Tally(least) for least in PATH]
    done = 0
    tell("opening the models")
    with (
        tempfile.TemporaryDirectory(prefix="framegate-calibrate-") as folder,
        closing(Replay(detect, Path(folder))) as replay,
    ):
        try:
            for item, pixels, is_taken in _items(files, taken):
                if not is_taken:
                    replay.look(item, pixels)
                    continue
                times = int(draws[done])
                outcomes = replay.frame(item, pixels, times > 0)
                tallies = [
                    tally.after(asked, wrong, times)
                    for tally, (asked, wrong) in zip(tallies, outcomes, strict=True)
                ]
                done += 1
                passes = f"{replay.heavy.looked} heavy passes"
                tell("frames", done, frames, more=passes)
        except KeyboardInterrupt:
            if not done:
                raise
        limits = budget.per_s, budget.burst, budget.all_per_s
        needs = tuple(raises(replay.times.of(least), *limits) for least in PATH)
    drawn = draws[:done]
    distinct = int(np.count_nonzero(drawn))
    left = frames - done
    return FootageTallies(tuple(tallies), done, int(drawn.sum()), distinct, needs, left, available)


def _of_kind(stages: Sequence[tuple[str, dict[str, Any]]], kind: type) -> dict[str, Any] | None:
    """Return the options of the first stage of a class, or of a subclass; None: there is none."""
    for use, options in stages:
        used = load(use)
        if isinstance(used, type) and issubclass(used, kind):
            return options
    return None


def _counted(files: Mapping[str, str], tell: OnProgress) -> list[int]:
    """Return the number of frames of each file."""
    counts = []
    for number, path in enumerate(files.values()):
        tell("reading files", number, len(files), more=Path(path).name)
        with closing(FileSource(path)) as source:
            counts.append(sum(1 for _ in source.frames()))
    return counts


def _items(
    files: Mapping[str, str], taken: npt.NDArray[np.bool_]
) -> Iterator[tuple[Item, bytes, bool]]:
    """Yield the drawn frames, and those right before them, with their pixels."""
    wanted = taken.copy()
    for first in np.flatnonzero(taken & ~np.concatenate(([False], taken[:-1]))):
        wanted[max(0, first - WARM) : first] = True
    number = 0
    for name, path in files.items():
        with closing(FileSource(path)) as source:
            for seq, frame in enumerate(source.frames()):
                if wanted[number]:
                    item = Item(name, Position(1, seq), _record(frame, seq))
                    yield item, _bytes(frame), bool(taken[number])
                number += 1


def _record(frame: Frame, seq: int) -> Record:
    return Record(records.VERSION, frame.pts, 0.0, 0.0, seq, frame.form, key_frame=frame.key_frame)


def _bytes(frame: Frame) -> bytes:
    held = bytearray(frame.nbytes)
    frame.write(memoryview(held))
    return bytes(held)
