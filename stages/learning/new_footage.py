"""The amount of footage that is newer than a model's, for `tune --if-needed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from framegate.models.errors import UnknownModel
from framegate.models.learning.teacher import EARLIER
from framegate.models.registry.model_folder import Learned
from framegate.models.registry.registry import Registry
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts.keys import is_name
from framegate.stages.footage.kept import FOLDER, kept_frames
from framegate.stages.learning.choices import LEAST_NEW
from framegate.stages.model_faults import model_faults


@dataclass(frozen=True, slots=True)
class NewFootage:
    """New footage for a model's name.

    learned  pictures that the newest model of the name learned from; None: there is no such model
    new      pictures that are later than those and the judging ones, or of other sources
    """

    learned: int | None
    new: int


def new_footage(name: str, words: tuple[str, ...], registry: Path | None) -> NewFootage:
    """Count what is new for the newest model of that name; words: as `read_footage` takes them.

    A video file that the model did not learn from counts as enough: it is not looked through.
    """
    with model_faults():
        try:
            learned = Registry(registry).find(name).manifest.learned
        except UnknownModel:
            learned = None
    if learned is None:
        return NewFootage(None, 0)
    return NewFootage(learned.frames, sum(_new_at(*named, learned)
                                          for named in named_sources(words).items()))  # fmt: skip


def _new_at(name: str, place: str, learned: Learned) -> int:
    # The later pictures of the span judged the model.
    until = {
        span.source: span.from_s + (span.until_s - span.from_s) / EARLIER for span in learned.spans
    }
    folder, _, source = place.rpartition(":")
    if not Path(place).exists() and is_name(source) and Path(folder, FOLDER).is_dir():
        kept = {of: found for of, found in kept_frames(Path(folder)).items() if of == source}
    elif Path(place, FOLDER).is_dir():
        kept = kept_frames(Path(place))
    else:
        return 0 if name in until else max(learned.frames, LEAST_NEW)
    return sum(
        one.record.moment_s > until.get(of, float("-inf"))
        for of, found in kept.items()
        for one in found.files
    )
