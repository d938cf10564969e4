"""The promise as its page shows it, on the clip that the page names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.support.commands import Command, framegate

PAGE = Path(__file__).parents[2] / "docs" / "promise.md"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_example_of_the_page_is_certified(tmp_path: Path) -> None:
    """Its first period: two of these and a rest are in the clip, and which frames are audited is a
    secret; in the first hardly a frame is wrong, so that no coin fails it.
    """
    [example] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    data = os.environ.get("FRAMEGATE_DATA")
    if data is None:
        pytest.skip("FRAMEGATE_DATA names no folder with the clips")
    (tmp_path / "pipeline.toml").write_text(example)
    clip = Path(data, "clips", "one-by-one-person-detection.mp4")
    with Command(tmp_path, "run", f"people={clip}", "-d", "data", "--http", "off") as command:
        ended = command.wait(800)
    assert ended.code == 0, ended.err
    first = json.loads((tmp_path / "data/certificates/people-1.json").read_text())
    assert (first["verdict"], first["lost"], first["served"]) == ("certified", 0, 650)
    told = framegate(tmp_path, "verify", "data/certificates/people-1.json")
    assert told.code == 0
    assert "at most 0.05 of the frames differ" in told.out
