"""Pictures of recordings, and those that are kept of judged episodes and marked visits."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Final

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.recording.index import Index, RecordedPlace
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.kept_pictures import (
    MAX_BYTES,
    WIDTH,
    PictureOwner,
    keep_picture,
    kept_picture,
    without_picture,
)
from framegate.pipeline.web.limits import Refusal

log = logging.getLogger(__name__)

TURN_S: Final = 10.0  # for which a picture waits for the pictures before it
# A frame can be shown when its segment is finished: after 4 s, or at the next key frame, which is
# at most a minute later.
PATIENCE_S: Final = 120.0
_AGAIN_S: Final = 5.0  # until a frame that is not recorded so far is tried again
_MARKED_S: Final = 30.0  # until marks of the command line are noticed
_WIDTHS: Final = (WIDTH, 240, 160, 80)  # the first whose picture has at most MAX_BYTES is kept

AsPicture = Callable[[Path, RecordedPlace, int], bytes]
"""as_picture(folder, place, width) returns a JPEG: see stages.draw.pictures."""


class RecordedPictures:
    """Pictures of recordings, and those that are kept of judged episodes and marked visits.

    Any thread. One picture is made at a time, because each uses a whole core. A thread of its own
    makes those to be kept, after `start`. What it has to do is in the database: verdicts and marks
    without a picture, wherever they come from.
    """

    def __init__(
        self,
        data: Path,
        as_picture: AsPicture,
        is_blurred: bool = False,
        masked: Collection[str] = (),
    ) -> None:
        """data: the run's folder.

        is_blurred  whether `as_picture` blurs faces
        masked      sources with hidden areas: older recordings show these, so no picture is kept
        """
        self._data = data
        self._as_picture = as_picture
        self._is_blurred = is_blurred
        self._masked = masked
        self._turn = threading.Lock()
        self._judged = threading.Event()
        self._failed: set[str] = set()

    def jpeg(self, folder: Path, place: RecordedPlace, width: int) -> bytes:
        """Return a picture. Refusal if others are waited for, for TURN_S.

        folder  of the recordings
        """
        if not self._turn.acquire(timeout=TURN_S):
            raise Refusal(503, "many pictures are requested at once; try again in a second")
        try:
            return self._as_picture(folder, place, width)
        finally:
            self._turn.release()

    def kept(self, owner: str) -> bytes | None:
        """Return the picture that is kept of an episode or a visit; None if there is none."""
        with opened(self._data / FILE) as database:
            return kept_picture(database, owner)

    def notice(self) -> None:
        """Make the thread look for verdicts and marks without a picture now."""
        self._judged.set()

    def start(self) -> None:
        """Start the thread that keeps pictures. It ends with the process."""
        threading.Thread(target=self._keep_always, name="kept pictures", daemon=True).start()

    def _keep_always(self) -> None:
        since = 0.0  # at first all: some were marked while this process did not run
        waiting: list[str] = []
        while True:
            self._judged.clear()
            before, waiting = waiting, []
            try:
                waiting = self.keep_new(since)
            except (FramegateError, sqlite3.Error, OSError) as error:
                log.debug("pictures are kept later: %s", error)
            since = time.time() - PATIENCE_S
            if not waiting:
                self._judged.wait(_MARKED_S)
            elif waiting == before:
                self._judged.wait(_AGAIN_S)

    def keep_new(self, since: float) -> list[str]:
        """Keep the pictures of episodes and visits that were judged or marked after a time.

        since  UNIX seconds

        Returns the ids of those that may succeed later. A picture that cannot be made is logged: no
        verdict and no mark depends on it. FramegateError, sqlite3.Error, OSError.
        """
        if not ((self._data / FILE).is_file() and (self._data / FOLDER).is_dir()):
            return []
        with opened(self._data / FILE) as database:
            owners = without_picture(database, since)
        waiting = []
        with closing(Index(self._data)) as index:
            recorded = {each.source for each in index.recorded()}
            for owner in owners:
                is_hidden = owner.source in self._masked or owner.source not in recorded
                if not is_hidden and owner.id not in self._failed and not self._keep(index, owner):
                    waiting.append(owner.id)
        return waiting

    def _keep(self, index: Index, owner: PictureOwner) -> bool:
        """Keep a picture. Return whether it is done; False: it may succeed later."""
        place = index.place(owner.source, owner.epoch, owner.media_s)
        if place is None:
            log.debug("no picture of %s so far: its frame is not recorded", owner.id)
            return False
        try:
            for width in _WIDTHS:
                jpeg = self.jpeg(index.folder, place, width)
                if len(jpeg) <= MAX_BYTES:
                    keep_picture(self._data / FILE, owner.id, jpeg, self._is_blurred)
                    return True
            reason = f"it has more than {MAX_BYTES} bytes at {_WIDTHS[-1]} pixels"
        except Refusal:
            return False
        except FramegateError as error:
            reason = str(error)
        except Exception as error:  # of a codec or of the network that finds faces
            log.exception("a picture of %s cannot be made", owner.source)
            reason = repr(error)
        self._failed.add(owner.id)
        log.warning("no picture of %s is kept: %s", owner.id, reason)
        return True
