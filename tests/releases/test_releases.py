"""The kept data folders of earlier versions can be read and resumed. make.py makes them."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Reader, framegate
from tests.support.servers import server

KEPT = sorted(Path(__file__).parent.glob("*.tar.xz"))
KEPT_BYTES = 300_000


def unpacked(kept: Path, target: Path) -> Path:
    """Unpack a folder, and have its run.json name the video where it lies now."""
    with tarfile.open(kept) as tar:
        tar.extractall(target, filter="data")
    folder = target / kept.name.removesuffix(".tar.xz")
    file = folder / "data" / "run.json"
    run = json.loads(file.read_text(encoding="utf-8"))
    clip = folder / "clip.mp4"
    run["sources"][0]["url"] = str(clip)
    file.write_text(json.dumps(run), encoding="utf-8")
    changed_ns = run["sources"][0]["file"]["mtime_ns"]
    os.utime(clip, ns=(changed_ns, changed_ns))
    return folder


def lines(folder: Path, command: str) -> list[dict[str, Any]]:
    ended = framegate(folder, command, "-d", "data", "--json")
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def counted(results: list[dict[str, Any]]) -> list[list[int]]:
    return [[r["epoch"], r["seq"], len(r["objects"])] for r in results]


def test_there_is_a_folder_of_each_version_and_it_is_small() -> None:
    assert {"0.2.0.dev0.tar.xz", "0.3.0.tar.xz"} <= {kept.name for kept in KEPT}
    assert all(kept.stat().st_size < KEPT_BYTES for kept in KEPT)


@pytest.mark.whole_run
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name.removesuffix(".tar.xz"))
def test_a_folder_of_an_earlier_version_is_read_and_resumed(kept: Path, tmp_path: Path) -> None:
    """What that version said of it is still said, and the run in it ends with each frame once."""
    folder = unpacked(kept, tmp_path)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert counted(lines(folder, "results")) == expected["results"]
    assert [episode["id"] for episode in lines(folder, "events")] == expected["episodes"]
    (recording,) = lines(folder, "recordings")
    (as_before,) = expected["recordings"]
    for name in ("source", "segments", "seconds", "nbytes"):
        assert recording[name] == as_before[name]

    ended = framegate(folder, "run", "-d", "data", "--resume", "--http", "off")
    assert ended.code == 0, ended.err
    with server(folder / "data" / "store") as store:
        reader = Reader(store.url)
        results = reader.whole("door", expected["frames"])
        reader.close()
    assert counted(results)[: len(expected["results"])] == expected["results"]
    episodes = [episode["id"] for episode in lines(folder, "events")]
    assert episodes[: len(expected["episodes"])] == expected["episodes"]
    assert len(episodes) == len(set(episodes))
    (recording,) = lines(folder, "recordings")
    assert recording["seconds"] >= as_before["seconds"]
