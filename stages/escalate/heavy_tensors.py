"""The heavy pass behind a KServe v2 server: tensors in, tensors out."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from framegate.pipeline import records
from framegate.pipeline.heavy.kserve_tensors import Array, asked, outputs_of
from framegate.pipeline.heavy.queue import AskedFar
from framegate.stages.escalate.heavy_worker import HeavyLooker


class HeavyTensors:
    """What a server's own model class calls; see heavy/kserve_tensors for both sides."""

    def __init__(self, threads: int | None = None) -> None:
        """Load, compile, warm up. threads: of one inference; None: one a core."""
        self._looker = HeavyLooker(threads)
        self._turn = threading.Lock()

    def answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Look at each picture. ValueError if these are no questions. Any thread, one at a time."""
        begun = time.monotonic()
        questions = [
            AskedFar(
                records.VERSION,
                "",
                0,
                number,
                "kserve",
                facts.form,
                picture,
                facts.part,
                exact=bool(facts.exact),
            )
            for number, (picture, facts) in enumerate(asked(inputs))
        ]
        with self._turn:
            seen = self._looker.look(questions)
        return outputs_of(seen, self._looker.policy, time.monotonic() - begun)
