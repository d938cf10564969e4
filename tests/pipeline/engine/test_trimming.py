"""Trims keep the entries that later stages of the main path have not reached."""

from __future__ import annotations

import pytest

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.spec import StageSpec, WorkerSpec
from framegate.pipeline.engine.trimming import Trimming
from framegate.pipeline.store.hop import trim_command

STAGES = [
    StageSpec("decode", "", None, main=True, reliable=True, publishes=False),
    StageSpec("detect", "", "decode", main=True, reliable=True, publishes=False),
    StageSpec("mine", "", "detect", main=True, reliable=True, publishes=False),
    StageSpec("escalate", "", "mine", main=True, reliable=True, publishes=False),
    StageSpec("cache", "", "escalate", main=True, reliable=True, publishes=True),
    StageSpec("side", "", "detect", main=False, reliable=False, publishes=False),
    StageSpec("sure", "", "side", main=False, reliable=True, publishes=False),
    StageSpec("numbers", "", "cache", main=False, reliable=True, publishes=False),
]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("stage", "readers"),
    [
        ("detect", ("mine", "escalate", "cache")),
        ("escalate", ("cache",)),
        ("side", ("sure",)),
    ],
)
def test_an_entry_stays_until_each_later_stage_has_read_its_frame(
    stage: str, readers: tuple[str, ...], live: bool
) -> None:
    """A run may continue without the stages between: `escalate` then reads `detect`."""
    spec = WorkerSpec("w", "run", "", "", 0, STAGES, ["detect", "escalate", "cache", "side"], [])
    trimming = Trimming(spec)
    trimming.make_all_due(["a"])
    trims = trimming.commands({"a": live})
    assert len(trims) == 3  # the published stream has its own limit
    assert ("a", trim_command("a", keys.out("a", stage), readers)) in trims
