"""A slot whose sources come and go keeps nothing of those that went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.commands import user_folder
from tests.support.fleets import Fleet, fleet
from tests.support.runs import wait_until

TIMES = 30
FEW = 5
CAMERAS = ("one", "two")
CONFIG = """
[live]
stall_s = 60
[record]
sources = true
free_bytes = 16777216
[events.rules.visitor]
when = "inside"
labels = ["person"]
until_s = 0.0
gap_s = 0.3
clip = { before_s = 1.0, after_s = 1.0 }
"""
COUNTED = '''
import gc, json
from collections import Counter
from pathlib import Path

from user_stages import PassOn

HERE = Path(__file__).parent


class Counted(PassOn):
    """It counts the objects of Framegate in its process when the file `count` exists.

    Tuples are left out, because records of frames are tuples, whose number varies with the load.
    """

    def see(self, item):
        wanted = HERE / "count"
        if wanted.exists():
            wanted.unlink()
            gc.collect()
            kinds = [type(each) for each in gc.get_objects() if not isinstance(each, tuple)]
            names = [each.__qualname__ for each in kinds if "framegate." in str(each.__module__)]
            part = HERE / "counts.part"
            part.write_text(json.dumps(Counter(names)))
            part.rename(HERE / "counts.json")
'''


def owners(at: Fleet) -> list[str]:
    """The cameras that a run owns."""
    own = {name: f"fg:{{{name}}}:own" for name in CAMERAS}
    return [name for name in CAMERAS if at.reader.client.hget(own[name], "run")]


def counts_in(folder: Path) -> dict[str, int]:
    """The objects of Framegate in the worker of a slot, by class."""
    counts = folder / "counts.json"
    counts.unlink(missing_ok=True)
    (folder / "count").touch()
    wait_until("the objects are counted", counts.exists)
    found: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    return found


@pytest.mark.long
def test_a_slot_that_takes_sources_over_thirty_times_keeps_no_object_of_them(
    tmp_path: Path,
) -> None:
    """With recordings and episodes. Each time, its cameras connect anew and begin an epoch."""
    with (
        ScriptedCamera(lambda: paced(1_000_000, fps=10)) as camera,
        fleet(tmp_path, more=CONFIG) as at,
    ):
        here = user_folder(at.folder / "host_a", CONFIG, main='use = "counted:Counted"')
        (here / "counted.py").write_text(COUNTED, encoding="utf-8")
        at.apply({"a": 2.0}, {name: {"url": camera.url, "cost": 0.1} for name in CAMERAS})
        slot = at.start("a", "host_a")
        counts: list[dict[str, int]] = []
        for _ in range(TIMES):
            published = {name: at.published(name) for name in CAMERAS}
            for name in CAMERAS:
                at.until(name, published[name] + 3)
            counts.append(counts_in(here))
            at.does("drain", "a")
            wait_until("both are released", lambda: not owners(at))
            at.does("undrain", "a")
        slot.interrupt()
        ended = slot.wait()
    assert ended.code == 0
    assert " ERROR " not in ended.err, "not even for the sources that it gets while it ends"
    # What is in flight varies with the load. What is kept of each source that went only grows.
    first, last = counts[:FEW], counts[-FEW:]
    least = {kind: min(each.get(kind, 0) for each in last) for kind in last[0]}
    grown = {kind: least[kind] - max(each.get(kind, 0) for each in first) for kind in least}
    kept = (TIMES - 2 * FEW) * len(CAMERAS)  # with one object of each
    assert least["Runner"] == 1
    assert {kind: number for kind, number in grown.items() if number >= kept / 2} == {}
