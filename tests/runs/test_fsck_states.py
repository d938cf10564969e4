"""The state planes of a data folder are compared with what the store says they contain."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.fsck.read_folder import read_states
from framegate.pipeline.fsck.read_store import StateRef
from framegate.pipeline.shared_memory.mapping import open_kept_file
from framegate.pipeline.shared_memory.state import StatePlane, state_plane_bytes


def test_the_content_of_a_state_is_in_one_of_its_files(tmp_path: Path) -> None:
    """A camera whose pictures change size has a file for each; a full disk leaves an empty one."""
    file = tmp_path / "gate.state-detect-64"
    descriptor = open_kept_file(file, state_plane_bytes(64))
    reference = StatePlane(descriptor, 64).write(Position(1, 7), b"cells", None)
    os.close(descriptor)
    (tmp_path / "gate.state-detect-128").touch()

    [state] = read_states(tmp_path, [StateRef("gate", "detect", reference)])
    assert state.is_whole
    assert state.position == Position(1, 7)

    file.write_bytes(bytes(file.stat().st_size))
    [state] = read_states(tmp_path, [StateRef("gate", "detect", reference)])
    assert not state.is_whole
    assert not [*read_states(tmp_path, [StateRef("yard", "detect", reference)])]


def test_a_state_is_read_without_permission_to_write(tmp_path: Path) -> None:
    """The file is sealed memory, because the permission bits do not limit root."""
    descriptor = os.memfd_create("state", os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, state_plane_bytes(64))
    reference = StatePlane(descriptor, 64).write(Position(1, 7), b"cells", None)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    (tmp_path / "gate.state-detect-64").symlink_to(f"/proc/self/fd/{descriptor}")
    [state] = read_states(tmp_path, [StateRef("gate", "detect", reference)])
    os.close(descriptor)
    assert state.is_whole
