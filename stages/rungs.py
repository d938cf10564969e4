"""A whole frame is looked at by the rung of a ladder that is enough for it; see models.ladder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from models import ladder
from models.boxes import Boxes
from models.crops import DEFAULT as CROPS
from models.detector import Detector
from models.ladder import LadderSettings, LadderState
from models.picture import Picture
from models.recall import Recall
from stages.model_options import rungs_fault

_WHOLE = replace(CROPS, share=0.0)  # no size but the whole's is warmed up


@dataclass(frozen=True)
class LadderOptions:
    """The table `[ladder]`.

    rungs  models, the cheapest first, of which the last is detect's own; none: no ladder
    limit  what a rung may lose of the last one's F1, as expected
    """

    rungs: tuple[str, ...] = field(default=(), metadata={"check": rungs_fault})
    limit: float = field(default=0.1, metadata={"least": 0.0, "most": 1.0})


class Climbed(NamedTuple):
    """What a whole look found, by which rung, and where the ladder stands then."""

    boxes: Boxes
    rung: int
    state: LadderState


@dataclass(frozen=True, slots=True, eq=False)
class Rungs:
    """Detectors, the cheapest first; the last one also looks at parts. One thread."""

    settings: LadderSettings
    detectors: tuple[Detector, ...]

    def look(self, state: LadderState | None, picture: Picture, recall: Recall | None) -> Climbed:
        """Look at all of a picture, at the rung that `state` asks for (None: at the start)."""
        state = state or ladder.at_start(self.settings)
        choice = ladder.choose(state)
        [found] = self.detectors[choice.rung].detect([picture], [recall])
        largest = found if choice.rung == self.settings.top else None
        if choice.probe and largest is None:
            [largest] = self.detectors[-1].detect([picture], [recall])
        size = picture.width, picture.height
        after = ladder.after(state, choice, found, largest, size, self.settings)
        return Climbed(found, choice.rung, after)

    def models(self, used: int) -> tuple[str, ...]:
        """Names of the rungs in a set of bits, the cheapest first."""
        return tuple(
            name
            for rung, using in enumerate(self.detectors)
            if used >> rung & 1
            for name in using.models
        )

    def warm_up(self, width: int, height: int) -> None:
        """All but the last one, which its stage warms up. Raises WarmUpFailed."""
        for using in self.detectors[:-1]:
            using.warm_up(width, height, _WHOLE)
