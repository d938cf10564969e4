"""Which model looks at which source; models that come or went are warm beside those in use."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from framegate.models.detector.recall import Recall
from framegate.models.picture import Picture
from framegate.pipeline.counts import CacheCounts
from framegate.pipeline.errors import ModelTooSlow
from framegate.pipeline.stage import Context
from framegate.stages.detect.model_options import ModelOptions, Wanted, configured, wanted
from framegate.stages.detect.remembering import count
from framegate.stages.detect.serving import Server, Serving

KEPT_S: Final = 600.0  # for which a model that nobody wants stays warm, so that a way back is short
MOST_UNWANTED: Final = 2  # models; each as open as its sources ask for
MOST_SIZES: Final = 8
_RUNS: Final = 5
_USUAL_SIZE: Final = (640, 360)


class Servings:
    """The models of detect's sources.

    past  what came of the look-ups of models that were let go

    Thread rule: `prepare` on any thread, all else on the stage's.
    """

    def __init__(
        self, server: Server, usual: Wanted, options: ModelOptions, context: Context
    ) -> None:
        """usual: what is wanted of a source of which nothing else is said."""
        self._server, self._usual, self._options, self._context = server, usual, options, context
        self._open: dict[Wanted, Serving] = {}
        self._by: dict[str, Wanted] = {}
        self._seen_s: dict[Wanted, float] = {}
        self._refused: dict[Wanted, Exception] = {}
        self._configured = configured(usual, options)
        self._sizes: tuple[tuple[int, int], ...] = (_USUAL_SIZE,)
        self.past = CacheCounts()
        self._changing = threading.Lock()  # never while a model is opened: frames would wait
        self._opening = threading.Lock()

    def open_configured(self) -> None:
        """Have all that the configuration wants ready before the first frame."""
        for want in self._configured:
            self._ready(want)

    def of(self, source: str) -> Serving:
        """The model of a source from now on. One that nobody prepared is opened here, once."""
        want = self._wanted(source, self._context.model(source))
        if self._by.get(source) != want or want not in self._open:
            if want in self._refused:
                raise self._refused[want]
            try:
                self._ready(want)
            except Exception as error:  # each frame would open it again
                self._refused[want] = error
                raise
            self._by[source] = want
        self._let_go()
        return self._open[want]

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Open and warm up what `of` would give for these sources with this model.

        is_new: see that it is fast enough, too. Raises ModelTooSlow, and as Server.open and
        Detector.warm_up.
        """
        for want in dict.fromkeys(self._wanted(source, model) for source in sources):
            self._refused.pop(want, None)
            self._ready(want, self._options.most_ms if is_new else math.inf)

    def saw(self, width: int, height: int) -> None:
        """A source has pictures of this size: models that come are warmed up for it."""
        if (width, height) not in self._sizes:
            self._sizes = (*self._sizes, (width, height))[-MOST_SIZES:]

    def forget(self, source: str) -> None:
        """It ended, or goes on elsewhere."""
        self._by.pop(source, None)

    def remembered(self) -> list[Recall]:
        """What all of them remember."""
        return [each for serving in list(self._open.values()) for each in serving.remembered]

    def _wanted(self, source: str, model: str) -> Wanted:
        return wanted(self._usual, self._options, source, model)

    def _ready(self, want: Wanted, most_ms: float = math.inf) -> None:
        """Open it, unless it is, and keep it for a while even if nobody wants it yet."""
        with self._opening:
            serving = self._open.get(want)
            if serving is None:
                serving = self._server.open(want)
                for width, height in self._sizes:
                    serving.warm_up(width, height)
                if most_ms < math.inf:
                    _check(want.model, serving, most_ms, self._sizes)
            with self._changing:
                self._open[want] = serving
                self._seen_s[want] = time.monotonic()

    def _let_go(self) -> None:
        """Those that are unwanted for long, and all but the newest few models of them."""
        if len(self._open) <= len(self._configured):  # on every batch: what is configured stays
            return
        now, in_use = time.monotonic(), {*self._by.values(), *self._configured}
        with self._changing:
            for want in in_use:
                self._seen_s[want] = now
            idle = sorted(self._open.keys() - in_use, key=lambda want: -self._seen_s[want])
            kept = list(dict.fromkeys(want.model for want in idle))[:MOST_UNWANTED]
            for want in idle:
                if want.model not in kept or now - self._seen_s[want] >= KEPT_S:
                    del self._seen_s[want]
                    count(gone := CacheCounts(), self._open.pop(want).remembered)
                    self.past = self.past.plus(gone)


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
