"""The visits that runs make of the labelled clips, and which labelled visit each shows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

import framegate
from benchmarks.alike.visit_labels import Track, VisitLabels, match
from benchmarks.harness import configuration
from benchmarks.harness.configuration import Tables
from benchmarks.harness.engine_run import EngineRun
from benchmarks.truth import clips
from framegate.pipeline.contracts.visits import Visit
from framegate.pipeline.review.event_database import FILE, open_to_read
from framegate.pipeline.review.visit_rows import all_visits

VISITS: Final = Path(__file__).parent / "visits.json"
_RUN_S: Final = 3600.0


class RunVisit(msgspec.Struct, frozen=True):
    """A visit of a run.

    clip     name of the clip
    visit    as the run stored it
    shows    number of the labelled visit that it shows; None: none, so it is a false object
    is_sure  whether it is judged: it shows no object that the labellers were unsure about
    frames   frames in which it agrees with the label
    first    its first frame
    last     its last frame
    """

    clip: str
    visit: Visit
    shows: int | None
    is_sure: bool
    frames: int
    first: int
    last: int


def source_of(clip: str) -> str:
    """Return the name of a clip's source."""
    return clip.replace("-", "_").lower()


def run_clips(data: Path, all_labels: Mapping[str, VisitLabels]) -> list[RunVisit]:
    """Run Framegate on the labelled clips, one after the other, and return their visits.

    data  folder of the clips. Raises NotLabelled and RunFailed.
    """
    found: list[RunVisit] = []
    for name, labels in all_labels.items():
        found += _run_clip(data, name, labels)
    return found


def _run_clip(data: Path, name: str, labels: VisitLabels) -> list[RunVisit]:
    clip = clips.find_clips(data, [name])[0]
    source = source_of(name)
    with tempfile.TemporaryDirectory() as scratch:
        footage = clips.at_recorded_speed(clip, Path(scratch), labels.frames)
        tables: Tables = {
            f"sources.{source}": {"url": str(footage.path)},
            "http": {"listen": "off"},
            "log": {"level": "WARNING"},
        }
        with EngineRun(configuration.packaged(tables), [source]) as engine:
            engine.wait_for_end(_RUN_S)
            tracks: dict[int, dict[int, tuple[float, float, float, float]]] = {}
            with framegate.subscribe(engine.data, start="earliest", until_end=True) as stored:
                for result in stored:
                    for each in result.objects:
                        if each.track is not None:
                            tracks.setdefault(each.track, {})[result.seq] = each.box
            with closing(open_to_read(engine.data / FILE)) as database:
                visits = all_visits(database)
    return matched(name, labels, visits, tracks)


def matched(
    clip: str, labels: VisitLabels, visits: Sequence[Visit], tracks: Mapping[int, Track]
) -> list[RunVisit]:
    """Return the visits of a run with the labelled visit that each of them shows."""
    matches = match(labels, tracks)
    found = []
    for visit in visits:
        if visit.track not in matches:
            continue
        shown = matches[visit.track]
        found.append(
            RunVisit(
                clip,
                visit,
                shown.visit,
                shown.is_judged,
                shown.frames,
                visit.began.seq,
                visit.last.seq,
            )
        )
    return found


def read(path: Path = VISITS) -> list[RunVisit]:
    """Read the visits of the last run that was written."""
    return msgspec.json.decode(path.read_bytes(), type=list[RunVisit])


def write(visits: Sequence[RunVisit], path: Path = VISITS) -> None:
    """Write the visits of a run, one a line."""
    rows = ",\n".join(msgspec.json.encode(visit).decode() for visit in visits)
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
