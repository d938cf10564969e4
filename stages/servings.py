"""Which model looks at which source; models that come or went are warm beside those in use."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from models.picture import Picture
from pipeline.errors import ModelTooSlow
from pipeline.stage import Context
from stages.model_options import ModelOptions, Wanted, wanted
from stages.remembering import Remembering
from stages.serving import Server, Serving

KEPT_S: Final = 600.0  # for which a model that nobody wants stays warm, so that a way back is short
MOST_UNWANTED: Final = 2
_RUNS: Final = 5
_USUAL_SIZE: Final = (640, 360)


class Servings:
    """The models of detect's sources.

    Thread rule: `prepare` on any thread, all else on the stage's.
    """

    def __init__(
        self, server: Server, usual: Wanted, options: ModelOptions, context: Context
    ) -> None:
        """usual: what is wanted of a source of which nothing else is said."""
        self._server, self._usual, self._options, self._context = server, usual, options, context
        self._open: dict[Wanted, Serving] = {}
        self._by: dict[str, Wanted] = {}
        self._unwanted: dict[Wanted, float] = {}
        self._sizes: tuple[tuple[int, int], ...] = (_USUAL_SIZE,)
        self._changing = threading.Lock()  # never while a model is opened: frames would wait

    def open_usual(self) -> None:
        """Have that ready before the first frame."""
        self._add(self._usual, self._ready(self._usual))

    def of(self, source: str) -> Serving:
        """The model of a source from now on. One that nobody prepared is opened here."""
        want = self._wanted(source, self._context.model(source))
        if self._by.get(source) != want:
            if want not in self._open:
                self._add(want, self._ready(want))
            self._by[source] = want
            self._note_unwanted()
        if self._unwanted:
            self._let_go()
        return self._open[want]

    def prepare(self, model: str, sources: Sequence[str]) -> None:
        """Open, warm up and check what `of` would give for these sources with this model.

        Raises ModelTooSlow, and as Server.open and Detector.warm_up.
        """
        for want in dict.fromkeys(self._wanted(source, model) for source in sources):
            if want not in self._open:
                serving = self._ready(want)
                _check(want.model, serving, self._options.most_ms, self._sizes)
                self._add(want, serving)

    def saw(self, width: int, height: int) -> None:
        """A source has pictures of this size: models that come are warmed up for it."""
        if (width, height) not in self._sizes:
            self._sizes = (*self._sizes, (width, height))

    def forget(self, source: str) -> None:
        """It ended, or goes on elsewhere."""
        self._by.pop(source, None)
        self._note_unwanted()

    def remembered(self) -> list[Remembering]:
        """What all of them remember."""
        return [each for serving in list(self._open.values()) for each in serving.remembered]

    def _wanted(self, source: str, model: str) -> Wanted:
        return wanted(self._usual, self._options, source, model)

    def _ready(self, want: Wanted) -> Serving:
        serving = self._server.open(want)
        for width, height in self._sizes:
            serving.warm_up(width, height)
        return serving

    def _add(self, want: Wanted, serving: Serving) -> None:
        with self._changing:
            self._open.setdefault(want, serving)
            self._unwanted[want] = time.monotonic()  # until a source has it

    def _note_unwanted(self) -> None:
        now, wanted_now = time.monotonic(), set(self._by.values())
        with self._changing:
            self._unwanted = {
                want: self._unwanted.get(want, now) for want in self._open if want not in wanted_now
            }

    def _let_go(self) -> None:
        """Those that were unwanted for long, and the oldest of too many."""
        now = time.monotonic()
        if len(self._unwanted) <= MOST_UNWANTED and now - min(self._unwanted.values()) < KEPT_S:
            return
        with self._changing:
            newest = sorted(self._unwanted, key=lambda want: -self._unwanted[want])
            for n, want in enumerate(newest):
                if n >= MOST_UNWANTED or now - self._unwanted[want] >= KEPT_S:
                    del self._unwanted[want], self._open[want]


def _check(model: str, serving: Serving, most_ms: float, sizes: Sequence[tuple[int, int]]) -> None:
    """Lets it look at noise: what fails or takes too long fails here, not on a source's frame."""
    width, height = sizes[-1]
    noise = np.random.default_rng(0)
    half = ((height + 1) // 2, (width + 1) // 2)
    planes = [noise.integers(0, 256, size, np.uint8) for size in ((height, width), half, half)]
    picture = Picture(planes[0], planes[1], planes[2], "bt709", full_range=True)
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        serving.detector.detect([picture])
        times.append(1000 * (time.perf_counter() - began))
    taken_ms = statistics.median(times)
    if taken_ms > most_ms:
        raise ModelTooSlow(model, taken_ms, most_ms)
