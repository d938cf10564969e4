"""What all tests of recordings need."""

from __future__ import annotations

import pytest

from framegate.pipeline.recording import segment_writer
from framegate.pipeline.recording.index_tables import FOLDER
from tests.support.recorded import record, split, write_both
from tests.support.runs import DEADLINE_S


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[bytes]]:
    """The init part and the fragments, of half a second, of twelve seconds in three files."""
    data = tmp_path_factory.mktemp("clip")
    clip = write_both(data / "clip.mp4", 12.0, sound=None, options={"bf": "0"})
    parts = [split(data / FOLDER / one.path) for one in record(data, clip)]
    return parts[0][0], [piece for _, found in parts for piece in found]


@pytest.fixture(autouse=True)
def waits_for_adoption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a take wait until files without a row are taken in, however busy the machine is: a test
    looks at the rows right after it.
    """
    monkeypatch.setattr(segment_writer, "ADOPTION_S", DEADLINE_S)
