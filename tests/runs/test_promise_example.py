"""The promise as its page shows it, on the clip that the page names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.support.commands import Command, framegate

pytestmark = pytest.mark.whole_run

PAGE = Path(__file__).parents[2] / "docs" / "promise.md"


@pytest.mark.long
def test_the_example_of_the_page_is_certified(tmp_path: Path) -> None:
    """One of its two whole periods at least: which frames are audited is a secret, and one draw in
    some fifty finds more wrong ones than may be.
    """
    [example] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    data = os.environ.get("FRAMEGATE_DATA")
    if data is None:
        pytest.skip("FRAMEGATE_DATA names no folder with the clips")
    (tmp_path / "pipeline.toml").write_text(example, encoding="utf-8")
    clip = Path(data, "clips", "one-by-one-person-detection.mp4")
    with Command(tmp_path, "run", f"people={clip}", "-d", "data", "--http", "off") as command:
        ended = command.wait(800)
    assert ended.code == 0, ended.err
    names = [f"data/certificates/people-{number}.json" for number in (1, 2)]
    found = {name: json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in names}
    assert all(one["lost"] == 0 for one in found.values())
    [good, *_] = [name for name, one in found.items() if one["verdict"] == "certified"]
    told = framegate(tmp_path, "verify", good)
    assert told.code == 0
    assert "at most 0.05 of the frames differ" in told.out
