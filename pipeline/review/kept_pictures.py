"""Pictures of judged episodes and marked visits, which stay after their recording was removed.

They are in the database of the run, and go with their episode or visit.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from framegate.pipeline.review.event_database import open_database

MAX_PICTURES: Final = 2000  # in a database; the oldest give way
MAX_BYTES: Final = 32 << 10  # of a picture; a larger one is not kept
WIDTH: Final = 320


def keep_picture(file: Path, owner: str, jpeg: bytes) -> bool:
    """Store the picture of an episode or a visit, and remove the oldest above MAX_PICTURES.

    owner  id of an episode with a verdict, or of a visit with a mark

    Returns whether it is stored: not if it is larger than MAX_BYTES, or if the verdict or the mark
    was removed meanwhile. Any thread. DatabaseRefused; sqlite3.Error if the disk fails.
    """
    if len(jpeg) > MAX_BYTES:
        return False
    with closing(open_database(str(file))) as database:
        stored = database.execute(
            "INSERT OR REPLACE INTO picture (owner, jpeg) SELECT ?1, ?2"
            " WHERE EXISTS (SELECT 1 FROM verdict WHERE episode = ?1)"
            " OR EXISTS (SELECT 1 FROM mark WHERE visit = ?1)",
            (owner, jpeg),
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


def drop_picture(database: sqlite3.Connection, owner: str) -> None:
    """Remove the picture of an episode without a verdict, or of a visit without a mark."""
    database.execute(
        "DELETE FROM picture WHERE owner = ?1"
        " AND NOT EXISTS (SELECT 1 FROM verdict WHERE episode = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM mark WHERE visit = ?1)",
        (owner,),
    )
