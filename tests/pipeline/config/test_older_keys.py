"""Keys, tables and values that older versions had are told with what to write instead."""

from __future__ import annotations

import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[gate]\nnative = true", "gate.native: an older Framegate had this key; remove it: for"),
        ("[cache]\nnear_age_s = 1.0", "cache.near_age_s: an older Framegate had this key"),
        ("[ladder]\nsizes = [320]", 'remove it: for one size, detector = "nanodet-320"'),
        ("[promise]\nmost_boxes = 3", "promise.most_boxes: an older Framegate had this key"),
        ('[promise]\nmeasure = "boxes"', 'had this value: "counts" is the promise about frames'),
        ("[models.sources.a]\nrungs = [1]", "a.rungs: an older Framegate had this key"),
    ],
)
def test_what_to_write_instead(written: str, told: str) -> None:
    with pytest.raises(ConfigFaults) as caught:
        read_config("old.toml", written)
    (fault,) = caught.value.faults
    assert told in fault
    assert "unknown" not in fault
