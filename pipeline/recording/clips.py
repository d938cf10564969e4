"""Pin the parts of recordings that belong to episodes. The index must not stop the episodes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from framegate.pipeline.recording.index import Index, Pin
from framegate.pipeline.recording.index_tables import FOLDER, RecordingLost, repeat_if_replaced

log = logging.getLogger(__name__)


def pin_clips(data: Path, pins: Sequence[Pin]) -> list[Pin]:
    """Pin the clips of episodes if anything is recorded. It may be repeated.

    Return the pins that the index refuses now. That is logged and not raised: episodes matter more
    than their clips.
    """
    waiting = list(pins)
    if not waiting or not is_recorded(data):
        return []
    try:
        with closing(Index(data)) as index:
            while waiting:
                pin = waiting[0]
                repeat_if_replaced(
                    partial(index.pin, pin.source, pin.since, pin.until, pin.why, pin.severity)
                )
                del waiting[0]
    except (RecordingLost, OSError) as error:
        log.warning("clips of %d changes of episodes are pinned later: %s", len(waiting), error)
    return waiting


def is_recorded(data: Path) -> bool:
    """Return whether a data folder has, or had, recordings of any source.

    True if the disk does not answer: the caller learns it from the index.
    """
    try:
        return (data / FOLDER).is_dir()
    except OSError:  # is_dir returns False for a missing folder, and raises for a failing disk
        return True


def recorded_clips(data: Path, pins: Sequence[Pin]) -> list[Pin]:
    """Return the pins whose ranges are at least partly recorded in a data folder.

    A source with an unfinished file counts as recorded, and so does each source while the index
    cannot be read: a pin without a recording does no harm.
    """
    if not pins or not is_recorded(data):
        return []
    try:
        with closing(Index(data)) as index:
            unfinished = {
                state.source
                for state in index.recorders.states()
                if state.growing_file and (index.folder / state.growing_file).exists()
            }
            return [pin for pin in pins if pin.source in unfinished or index.has_part(pin)]
    except (RecordingLost, OSError):
        return list(pins)
