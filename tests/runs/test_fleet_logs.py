"""What a slot logs when another one takes over its sources: the plan wanted that, so no error."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from framegate.pipeline.store.admin import StoreAdmin
from tests.support import footage
from tests.support.fleets import fleet
from tests.support.runs import wait_until

FRAMES = 7500  # 300 s at the pace of its time stamps


@pytest.mark.whole_run
def test_a_source_that_another_slot_takes_over_is_neither_an_error_nor_a_fault(
    tmp_path: Path,
) -> None:
    """As a slot sees it that was cut off while the plan moved its sources."""
    clip = footage.write_scene(tmp_path / "clip.mp4", footage.steady(FRAMES))
    source = {"url": str(clip), "pace": "realtime"}
    with fleet(tmp_path) as at:
        at.apply({"a": 2.0}, {"one": source})
        slot = at.start("a", "host_a")
        at.until("one", 5)
        with closing(StoreAdmin(at.url)) as admin:
            admin.claim("one", "0b", "slot b, host there", take_over=True, since=2)
        slot.says("source one: another slot of the fleet took it over")
        wait_until("it is released", lambda: "source one: removed" in slot.err)
        slot.interrupt()
        ended = slot.wait()
    assert ended.code == 0, ended.err
    assert [line for line in ended.err.splitlines() if " ERROR " in line] == []
