"""Pictures of judged episodes and marked visits, which stay after their recording was removed.

They are in the database of the run, and go with their episode or visit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from framegate.pipeline.review.event_database import open_database
from framegate.pipeline.review.visit_rows import visit_named

MAX_PICTURES: Final = 2000  # in a database; the oldest give way
MAX_BYTES: Final = 32 << 10  # of a picture; a larger one is not kept
WIDTH: Final = 320


def keep_picture(file: Path, owner: str, jpeg: bytes, is_blurred: bool = False) -> bool:
    """Store the picture of an episode or a visit, and remove the oldest above MAX_PICTURES.

    owner       id of an episode with a verdict, or of a visit with a mark
    is_blurred  whether its faces are blurred

    Returns whether it is stored: not if it is larger than MAX_BYTES, or if the verdict or the mark
    was removed meanwhile. Any thread. DatabaseRefused; sqlite3.Error if the disk fails.
    """
    if len(jpeg) > MAX_BYTES:
        return False
    with closing(open_database(str(file))) as database:
        stored = database.execute(
            "INSERT OR REPLACE INTO picture (owner, jpeg, is_blurred) SELECT ?1, ?2, ?3"
            " WHERE EXISTS (SELECT 1 FROM verdict WHERE episode = ?1)"
            " OR EXISTS (SELECT 1 FROM mark WHERE visit = ?1)",
            (owner, jpeg, is_blurred),
        )
        database.execute(
            "DELETE FROM picture WHERE number <= (SELECT max(number) FROM picture) - ?",
            (MAX_PICTURES,),
        )
        return bool(stored.rowcount)


def kept_picture(database: sqlite3.Connection, owner: str) -> bytes | None:
    """Return the picture of an episode or a visit; None if none is kept."""
    row = database.execute("SELECT jpeg FROM picture WHERE owner = ?", (owner,)).fetchone()
    if row is None:
        return None
    return bytes(row[0])


class PictureOwner(NamedTuple):
    """A judged episode or a marked visit, and the frame that its picture shows."""

    id: str
    source: str
    epoch: int
    media_s: float


# The newest owners, as many as there can be pictures: an older one would only displace a newer one.
_WITHOUT_PICTURE: Final = f"""
SELECT owner FROM (
  SELECT owner, max(at) AS at FROM (
    SELECT episode AS owner, judged AS at FROM verdict
    UNION ALL SELECT visit, marked FROM mark
  ) GROUP BY owner ORDER BY at DESC LIMIT {MAX_PICTURES}
) WHERE at >= ? AND owner NOT IN (SELECT owner FROM picture) ORDER BY at"""


def without_picture(database: sqlite3.Connection, since: float) -> list[PictureOwner]:
    """Return the owners without a picture that were judged or marked after a time, oldest first.

    since  UNIX seconds
    """
    owners = []
    for (name,) in database.execute(_WITHOUT_PICTURE, (since,)).fetchall():
        row = database.execute(
            "SELECT source, began_epoch, began_media_s FROM episode WHERE id = ?", (name,)
        ).fetchone()
        if row is not None:
            owners.append(PictureOwner(name, *row))
            continue
        visit = visit_named(database, name)
        if visit is not None and visit.path:
            middle = visit.path[len(visit.path) // 2]
            media_s = visit.began.media_s + middle.seconds
            owners.append(PictureOwner(name, visit.source, visit.began.epoch, media_s))
    return owners


def hide_pictures(database: sqlite3.Connection, blurs_faces: bool, masked: Collection[str]) -> int:
    """Remove the pictures that a run with these settings would not keep. Return their number.

    blurs_faces  remove those without blurred faces
    masked       remove those of these sources, which cannot be recorded
    """
    removed = 0
    if blurs_faces:
        removed += database.execute("DELETE FROM picture WHERE NOT is_blurred").rowcount
    for source in masked:
        removed += database.execute(
            "DELETE FROM picture WHERE substr(owner, 1, length(?1)) = ?1", (f"{source}/",)
        ).rowcount
    return removed


def drop_picture(database: sqlite3.Connection, owner: str) -> None:
    """Remove the picture of an episode without a verdict, or of a visit without a mark."""
    database.execute(
        "DELETE FROM picture WHERE owner = ?1"
        " AND NOT EXISTS (SELECT 1 FROM verdict WHERE episode = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM mark WHERE visit = ?1)",
        (owner,),
    )
