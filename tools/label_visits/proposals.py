"""Propose visits: the tracks of a whole run with the gate off."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

import framegate
from benchmarks.alike.visit_labels import Anchor
from benchmarks.harness import configuration
from benchmarks.harness.configuration import Tables
from benchmarks.harness.engine_run import EngineRun
from benchmarks.truth import clips
from benchmarks.truth.configurations import for_groups
from framegate.pipeline.contracts.results import Result
from tools.label.proposals import clip_entry

FILE: Final = "proposals.json"
LEAST_S: Final = 0.5  # a shorter track is not proposed
_LEAST_BOXES: Final = 3
_SOURCE: Final = "clip"
_RUN_S: Final = 3600.0
_SEEN: Final = ("detected", "escalated")


class ProposedTrack(msgspec.Struct, frozen=True):
    """A track of the run.

    score  mean of its boxes
    boxes  frames in which a network saw it
    """

    track: int
    label: str
    score: float
    boxes: tuple[Anchor, ...]

    @property
    def first(self) -> int:
        """Return the first frame."""
        return self.boxes[0].frame

    @property
    def last(self) -> int:
        """Return the last frame."""
        return self.boxes[-1].frame


class VisitProposals(msgspec.Struct, frozen=True):
    """The proposals of a clip, by first frame. fps: of the recording."""

    clip: str
    sha256: str
    width: int
    height: int
    frames: int
    fps: float
    detector: str
    tracks: tuple[ProposedTrack, ...]


def propose(
    data: Path, name: str, folder: Path, detector: str, more: Sequence[str]
) -> VisitProposals:
    """Run Framegate on the clip and write its tracks into `folder`.

    data  folder of the clips and their MANIFEST.json
    more  classes besides those of cameras

    Raises NotLabelled for a clip without labels of frames, and RunFailed.
    """
    clip = clips.find_clips(data, [name])[0]
    entry = clip_entry(data, name)
    most = None
    if clip.fps is not None:
        most = int(entry["frames"])
    tables: Tables = {"gate": {"mode": "off"}, "stages.detect": {"detector": detector}}
    changes = for_groups(tables, more)
    if changes is None:
        raise ValueError(f"the detector {detector} does not know one of {', '.join(more)}")
    with tempfile.TemporaryDirectory() as scratch:
        footage = clips.at_recorded_speed(clip, Path(scratch), most)
        results = list(_results(footage.path, changes))
    size = results[0].width, results[0].height
    tracks = tuple(_tracks(results, round(LEAST_S * footage.fps)))
    proposals = VisitProposals(
        name, entry["sha256"], *size, len(results), round(footage.fps, 3), detector, tracks
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(msgspec.json.encode(proposals))
    return proposals


def read(folder: Path) -> VisitProposals:
    """Read what `propose` wrote. Raises ValueError."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run `propose` first")
    return msgspec.json.decode(path.read_bytes(), type=VisitProposals)


def _results(path: Path, changes: Tables) -> Iterator[Result]:
    tables: Tables = {
        f"sources.{_SOURCE}": {"url": str(path)},
        "http": {"listen": "off"},
        "log": {"level": "WARNING"},
        **changes,
    }
    with EngineRun(configuration.packaged(tables), [_SOURCE]) as engine:
        engine.wait_for_end(_RUN_S)
        with framegate.subscribe(engine.data, start="earliest", until_end=True) as stored:
            yield from stored


def _tracks(results: Sequence[Result], least: int) -> Iterator[ProposedTrack]:
    """Yield the tracks that last for at least that many frames, by first frame."""
    boxes: dict[int, list[Anchor]] = {}
    scores: dict[int, list[float]] = {}
    labels: dict[int, Counter[str]] = {}
    for result in results:
        for each in result.objects:
            if each.track is None or each.origin not in _SEEN:
                continue
            left, top, right, bottom = (round(edge, 1) for edge in each.box)
            anchor = Anchor(result.seq, left, top, right, bottom)
            boxes.setdefault(each.track, []).append(anchor)
            scores.setdefault(each.track, []).append(each.score)
            labels.setdefault(each.track, Counter())[each.label] += 1
    for track, seen in sorted(boxes.items(), key=lambda item: item[1][0].frame):
        if len(seen) >= _LEAST_BOXES and seen[-1].frame - seen[0].frame >= least:
            mean = round(sum(scores[track]) / len(scores[track]), 2)
            yield ProposedTrack(track, labels[track].most_common(1)[0][0], mean, tuple(seen))
