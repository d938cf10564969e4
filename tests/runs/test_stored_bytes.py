"""What a hop stores is small: at most 2 KB a frame on average (DESIGN section 3)."""

from __future__ import annotations

from pathlib import Path

from tests.support.footage import bikes
from tests.support.runs import Run, published_in

HOPS = 5
LIMIT = 2048


def test_a_hop_stores_at_most_two_kilobytes_a_frame(tmp_path: Path) -> None:
    """The append-only file holds every write: entries, states, counters, ids and keys."""
    run = Run(tmp_path / "data", f"bikes={bikes()}")
    assert run.wait() == 0, run.log.read_text()
    log = sum(f.stat().st_size for f in (run.folder / "store" / "appendonlydir").iterdir())
    frames = len(published_in(run.folder, ["bikes"])["bikes"].results)
    assert frames == 250
    assert log / (frames * HOPS) <= LIMIT
