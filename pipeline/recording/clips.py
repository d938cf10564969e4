"""Pin the parts of recordings that belong to episodes. The index must not stop the episodes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER, RecordingLost, repeat_if_replaced

log = logging.getLogger(__name__)


def pin_clips(data: Path, changes: Sequence[Change]) -> list[Change]:
    """Pin the clips of episodes, as these changes define them, if anything is recorded. It may be
    repeated.

    Return the changes that the index refuses now. That is logged and not raised: episodes matter
    more than their clips.
    """
    waiting = [change for change in changes if change.clip is not None]
    if not waiting or not (data / FOLDER).is_dir():
        return []
    try:
        with closing(Index(data)) as index:
            while waiting:
                repeat_if_replaced(partial(index.pin_clip, waiting[0]))
                del waiting[0]
    except RecordingLost as error:
        log.warning("clips of %d changes of episodes are pinned later: %s", len(waiting), error)
    return waiting


def recorded_clips(data: Path, changes: Sequence[Change]) -> list[Change]:
    """Return the changes whose clips are at least partly recorded in a data folder.

    A source with an unfinished file counts as recorded, and so does each source while the index
    cannot be read: a pin without a recording does no harm.
    """
    clips = [change for change in changes if change.clip is not None]
    if not clips or not (data / FOLDER).is_dir():
        return []
    try:
        with closing(Index(data)) as index:
            unfinished = {
                state.source
                for state in index.recorders.states()
                if state.growing_file and (index.folder / state.growing_file).exists()
            }
            return [each for each in clips if each.source in unfinished or index.has_clip(each)]
    except RecordingLost:
        return clips
