"""What a hop stores is small: states of at most 2 KB, and at most 2 KB of entries for a frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.footage import bikes
from tests.support.runs import Run, published_in

pytestmark = pytest.mark.whole_run

LIMIT = 2048
FRAMES = 250


def logged(data: bytes) -> Iterator[tuple[list[bytes], int]]:
    """Yield the commands of an append-only file, each with its size in bytes."""
    at = 0
    while at < len(data):
        begin, end = at, data.index(b"\r\n", at)
        if data[at : at + 1] == b"#":  # a time stamp
            at = end + 2
            continue
        words, at = [], end + 2
        for _ in range(int(data[begin + 1 : end])):
            end = data.index(b"\r\n", at)
            nbytes = int(data[at + 1 : end])
            words.append(data[end + 2 : end + 2 + nbytes])
            at = end + 2 + nbytes + 2
        yield words, at - begin


def test_a_hop_stores_little(tmp_path: Path) -> None:
    """The append-only file holds every write. How many frames a hop has depends on the machine, so
    the states of a hop count as those of one frame: it has no less. Keys and positions are not
    counted for states, as their number is that of the stages.
    """
    run = Run(tmp_path / "data", f"bikes={bikes()}")
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    (log,) = (run.folder / "store" / "appendonlydir").glob("*.incr.aof")
    states: Counter[bytes] = Counter()
    hops: Counter[bytes] = Counter()
    entries = 0
    for words, size in logged(log.read_bytes()):
        name = b" ".join(words[:2])
        if name.startswith(b"HSET fg:{bikes}:at:"):
            fields = dict(zip(words[2::2], words[3::2], strict=True))
            states[name] += len(fields.get(b"s", b""))
            hops[name] += 1
        elif name.startswith(b"XADD fg:{bikes}:"):
            entries += size
    assert len(published_in(run.folder, ["bikes"])["bikes"].results) == FRAMES
    stages = {name.rpartition(b":")[2] for name in states}
    assert stages == {b"decode", b"detect", b"escalate", b"windows", b"cache", b"visits", b"events"}
    assert sum(states[name] / hops[name] for name in states) <= LIMIT
    assert entries / FRAMES <= LIMIT
