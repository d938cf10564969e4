"""The check of a data folder from end to end, and its repair."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.fsck.check_folder import check_folder
from framegate.pipeline.fsck.check_store import check_store
from framegate.pipeline.fsck.read_folder import read_folder
from framegate.pipeline.fsck.repair import repair
from framegate.pipeline.fsck.snapshot import PARTS, Discrepancy, FolderSnapshot
from framegate.pipeline.run.ended import RunActive, open_ended, read_locked


class Checked(NamedTuple):
    """The result of a check. repaired: what was inconsistent before the repair."""

    snapshot: FolderSnapshot
    findings: list[Discrepancy]
    repaired: list[Discrepancy]

    @property
    def is_consistent(self) -> bool:
        """Return whether nothing contradicts anything else."""
        return all(finding.kind != "fault" for finding in self.findings)


def findings_of(snapshot: FolderSnapshot) -> list[Discrepancy]:
    """Return all that is inconsistent in a snapshot."""
    return [*check_store(snapshot), *check_folder(snapshot)]


def fsck(folder: Path, *, store: str | None = None, repairs: bool = False) -> Checked:
    """Check the data folder of a run that has ended or was killed.

    store    URL of the store of the run; None: the embedded one, in the folder
    repairs  rebuild what can be rebuilt; without it nothing in the folder changes

    ConfigFaults if no run was in the folder, or if one uses it; StoreLost, StoreBusy, StoreRefused.
    """
    try:
        with read_locked(folder) as lock, ExitStack() as close:
            url = store or close.enter_context(open_ended(folder)).url
            if repairs:
                _keep_others_out(lock)
            return _checked(folder, url, repairs, is_shared=store is not None)
    except RunActive:
        raise ConfigFaults(
            [
                f"{folder}: a run uses this folder; fsck checks the folder of a run that has "
                "ended: stop the run first (Ctrl-C, or SIGTERM)"
            ]
        ) from None


def _checked(folder: Path, url: str, repairs: bool, *, is_shared: bool) -> Checked:
    snapshot = read_folder(folder, url, is_shared=is_shared)
    findings = before = findings_of(snapshot)
    for part in PARTS if repairs else ():
        if any(finding.part == part for finding in findings):
            repair(folder, part, snapshot)
            snapshot = read_folder(folder, url, is_shared=is_shared)
            findings = findings_of(snapshot)
    return Checked(snapshot, findings, [each for each in before if each not in findings])


def _keep_others_out(lock: int) -> None:
    """Keep readers out of a folder that is about to change. RunActive if there is one."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunActive("another process reads the folder") from error
