"""The decision of a slot about a source that it should serve, case by case."""

from __future__ import annotations

import pytest

from framegate.pipeline.fleet.fleet_store import SourceOwner
from framegate.pipeline.run.slot import HAND_OVER_S, NextStep, next_step

MINE = "run-1"
OTHER = "run-2"


@pytest.mark.parametrize(
    ("owner", "since", "is_alive", "waited_s", "expected"),
    [
        pytest.param(SourceOwner(), 1, False, 0.0, NextStep.CLAIM, id="never owned"),
        pytest.param(
            SourceOwner("", "old", 1), 2, False, 0.0, NextStep.CLAIM, id="released"
        ),
        pytest.param(
            SourceOwner(MINE, "me", 1), 2, True, 0.0, NextStep.CLAIM, id="ours, from before"
        ),
        pytest.param(
            SourceOwner(OTHER, "b", 1), 2, True, 0.0, NextStep.WAIT, id="b still finishes"
        ),
        pytest.param(
            SourceOwner(OTHER, "b", 1), 2, True, HAND_OVER_S, NextStep.CLAIM,
            id="b takes too long",
        ),
        pytest.param(
            SourceOwner(OTHER, "b", 1), 2, False, 0.0, NextStep.CLAIM, id="b is dead"
        ),
        pytest.param(
            SourceOwner(OTHER, "a", 2), 2, True, 0.0, NextStep.CLAIM,
            id="an older instance of this slot",
        ),
        pytest.param(
            SourceOwner(OTHER, "b", 3), 2, True, 99.0, NextStep.WAIT,
            id="a plan that this slot has not read",
        ),
        pytest.param(
            SourceOwner("", "b", 3), 2, True, 99.0, NextStep.WAIT,
            id="released under a plan that this slot has not read",
        ),
        pytest.param(
            SourceOwner(OTHER, "a run", 0), 2, True, 99.0, NextStep.REFUSE, id="no slot"
        ),
    ],
)  # fmt: skip
def test_the_next_step(
    owner: SourceOwner,
    since: int,
    is_alive: bool,
    waited_s: float,
    expected: NextStep,
) -> None:
    assert next_step(owner, MINE, since, is_alive, waited_s) is expected
