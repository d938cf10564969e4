"""What servers of tests answer: the picture says it. Only numpy and the tensors of the protocol.

`damaged` is no picture, `hold` waits until the test opens the pipe that a variable names, any other
is seen whole, its length in thousands as score.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.heavy.kserve_tensors import Facts, Tensor, outputs_of, pictures_of

POLICY = "policy-of-the-test"
HOLD = "FRAMEGATE_TEST_HOLD"


def answer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As framegate.stages.escalate.heavy_pass does."""
    return outputs_of(
        [_seen(picture, facts) for picture, facts in pictures_of(inputs)], POLICY, 0.0
    )


def _seen(picture: bytes, facts: Facts) -> Predictions | None:
    if picture == b"damaged":
        return None
    if picture == b"hold":
        Path(os.environ[HOLD]).read_bytes()
    part = facts.part or (0, 0, facts.width, facts.height)
    left, top, right, bottom = (float(edge) for edge in part)
    return Predictions(
        ((left, top, right, bottom),), (len(picture) / 1000,), (7,), ("told", "model")
    )
