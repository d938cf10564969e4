"""States lie in the data folder as long as their source does; without room, in memory."""

from __future__ import annotations

from pathlib import Path

from pipeline.control import SharedWanted
from pipeline.shared_files import SharedFiles

PLANE, PIXELS = "state detect 4096", "frames 64x48 bt601 0"


def wanted(name: str, source: str = "a") -> SharedWanted:
    return SharedWanted(1, source, name, 4096)


def test_states_are_files_until_their_source_is_removed(tmp_path: Path) -> None:
    """Those of an earlier run that nobody asked for in this one go, too."""
    folder = tmp_path / "state"
    earlier = SharedFiles(folder)
    for name in (PLANE, "rows detect 4096", PIXELS):
        assert earlier.answer(wanted(name))[0].fault is None
    earlier.answer(wanted(PLANE, "ab"))
    earlier.close()
    later = SharedFiles(folder)
    later.answer(wanted(PLANE))
    kept = {"a.state-detect-4096", "a.rows-detect-4096", "ab.state-detect-4096"}
    assert {path.name for path in folder.iterdir()} == kept
    later.drop("a")
    assert {path.name for path in folder.iterdir()} == {"ab.state-detect-4096"}
    later.close()


def test_without_a_folder_to_write_to_states_lie_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("no folder")
    files = SharedFiles(blocked)
    reply, descriptor = files.answer(wanted(PLANE))
    assert reply.fault is None
    assert descriptor is not None
    files.close()
