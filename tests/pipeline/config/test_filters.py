"""`[filters.NAME]`: objects that are dropped before tracking."""

from __future__ import annotations

import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.object_filters import ObjectFilter


def read(*lines: str) -> ObjectFilter:
    return read_config("test.toml", "[filters.street]\n" + "\n".join(lines)).filters["street"]


def test_a_filter_is_read() -> None:
    found = read(
        'sources = ["door"]',
        'labels = ["person"]',
        "area = [[0, 0], [1, 0], [1, 0.3]]",
        'at = "center"',
        "min_height = 0.05",
    )
    assert found == ObjectFilter(
        sources=("door",),
        labels=("person",),
        area=((0, 0), (1, 0), (1, 0.3)),
        at="center",
        min_height=0.05,
    )
    assert (found.is_for("door"), found.is_for("yard")) == (True, False)
    assert read('labels = ["person"]').is_for("yard")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([], "labels: missing, as are area, box and every limit"),
        (["area = [[0, 0], [1, 0]]"], "filters.street.area: must be three or more points"),
        (["area = [[0, 0], [640, 0], [1, 1]]"], "[640, 0] is outside the picture"),
        (["min_height = 0.9", "max_height = 0.1"], "must not be above max_height = 0.1"),
        (["min_heigth = 0.1"], "unknown key"),
        (["min_height = 20"], "min_height = 20: must be a number, 0 to 1"),
        (["box = [0.1, 0.1, 0.1, 0.2]"], "must be [left, top, right, bottom]"),
        (["box = [0.1, 0.1, 0.5]"], "must be [left, top, right, bottom]"),
        (['labels = ["person"]', 'at = "head"'], 'must be "foot" or "center"'),
        (['labels = ["person"]', 'sources = ["The door"]'], "not the name of a source"),
    ],
)
def test_a_wrong_filter_is_refused_with_its_key(lines: list[str], fault: str) -> None:
    with pytest.raises(ConfigFaults) as refused:
        read(*lines)
    assert fault in str(refused.value)
    assert "filters.street" in str(refused.value)
