"""The places of recordings in a fleet: which host has recordings of a source, and of which times.

Recordings stay in the data folder of the slot that made them. Each slot writes its places into the
store, in the hash `fg:fleet:recordings:<source>` with one field for each data folder, so any host
can name the one that has a time. An entry stays when its slot ends: its files still exist.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.recording.adopt_files import finish_left_files
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import RecordingLost
from framegate.pipeline.store.redis_client import connect, store_errors

ANSWER_S = 2.0  # longest wait for a reply of the store

_Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]  # of which the calendar has a date


class RecordingPlace(msgspec.Struct, frozen=True):
    """The recordings of a source in one data folder.

    slot    slot that wrote this last
    host    its host name
    folder  its data folder
    http    HOST:PORT at which other hosts reach its HTTP port; "": they cannot
    since, until  first and last recorded time, UNIX seconds; the last one is up to 10 s old
    """

    source: str
    slot: str
    host: str
    folder: str
    http: str
    since: _Time
    until: _Time

    @property
    def key(self) -> str:
        """Return the name of the data folder in the fleet."""
        return f"{self.host}:{self.folder}"

    @property
    def words(self) -> str:
        """Return the place in words, with its time in local time."""
        http = "no HTTP port for other hosts"
        if self.http:
            http = f"http://{self.http}"
        first, last = datetime.fromtimestamp(self.since), datetime.fromtimestamp(self.until)
        return (
            f"slot {self.slot} on host {self.host} ({http}), {first:%Y-%m-%d %H:%M:%S} to "
            f"{last:%Y-%m-%d %H:%M:%S}"
        )


def own_key(folder: Path) -> str:
    """Return the name of a data folder of this host in the fleet."""
    return f"{socket.gethostname()}:{folder.resolve()}"


def overlapping(
    places: Sequence[RecordingPlace], own: str, since: float, until: float
) -> list[RecordingPlace]:
    """Return the places other than `own` that may have recordings of a time, by their begin.

    own  `key` of a data folder
    """
    others = [each for each in places if each.key != own]
    fitting = [each for each in others if each.since <= until and each.until >= since]
    return sorted(fitting, key=lambda each: (each.since, each.key))


def note_places(
    url: str, slot: str, folder: str, http: str, before: Mapping[str, RecordingPlace]
) -> dict[str, RecordingPlace]:
    """Write the changed places of a data folder of this host into a store, and return them all.
    Files that a killed recorder left are finished first.

    before  the places at the last call, by source; they are returned if the index cannot be read
    StoreLost, StoreBusy, StoreRefused.
    """
    try:
        now = _places_here(slot, folder, http)
    except (RecordingLost, OSError):
        return dict(before)
    changed = [place for name, place in now.items() if before.get(name) != place]
    gone = [place for name, place in before.items() if name not in now]
    if not changed and not gone:
        return now
    with store_errors(url), closing(connect(url, ANSWER_S)) as client:
        pipe = client.pipeline(transaction=False)
        for place in changed:
            pipe.sadd(keys.FLEET_RECORDINGS, place.source)
            pipe.hset(keys.fleet_recordings(place.source), place.key, msgspec.json.encode(place))
        for place in gone:
            pipe.hdel(keys.fleet_recordings(place.source), place.key)
        pipe.execute()
    return now


def _places_here(slot: str, folder: str, http: str) -> dict[str, RecordingPlace]:
    """Return the places in a data folder of this host, by source. RecordingLost."""
    data = Path(folder).resolve()
    try:
        with closing(Index(data, makes=False)) as index:
            finish_left_files(index)
            recorded = index.recorded()
    except ConfigFaults:  # nothing was recorded there
        return {}
    host = socket.gethostname()
    places = {}
    for each in recorded:
        place = RecordingPlace(each.source, slot, host, str(data), http, each.since, each.until)
        places[each.source] = place
    return places


def places_of(url: str, source: str) -> list[RecordingPlace]:
    """Return the places of a source in a store. StoreLost, StoreBusy, StoreRefused."""
    with store_errors(url), closing(connect(url, ANSWER_S)) as client:
        stored = client.hvals(keys.fleet_recordings(source))
    return _readable(stored)


def all_places(url: str) -> list[RecordingPlace]:
    """Return all places in a store, by source. StoreLost, StoreBusy, StoreRefused."""
    places = []
    with store_errors(url), closing(connect(url, ANSWER_S)) as client:
        sources = sorted(name.decode() for name in client.smembers(keys.FLEET_RECORDINGS))
        pipe = client.pipeline(transaction=False)
        for source in sources:
            pipe.hvals(keys.fleet_recordings(source))
        for stored in pipe.execute():
            places += sorted(_readable(stored), key=lambda each: (each.since, each.key))
    return places


def _readable(stored: Sequence[bytes]) -> list[RecordingPlace]:
    """Return the places in these entries, without those that cannot be read."""
    places = []
    for entry in stored:
        # MsgspecError, or UnicodeDecodeError: one faulty entry hides no other
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            places.append(msgspec.json.decode(entry, type=RecordingPlace))
    return places
