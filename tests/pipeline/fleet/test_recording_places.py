"""The places of recordings in a store, as slots of any age wrote them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.fleet.recording_places import (
    RecordingPlace,
    all_places,
    note_places,
    places_of,
)
from tests.support.servers import server

REFUSED = f"/{'x' * 300}"  # the system answers each question about this folder with an error


def test_an_entry_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    place = RecordingPlace("door", "a", "box", "/data", "", 1.0, 2.0)
    far = msgspec.structs.replace(place, until=1e300)
    faulty = (b"{", b'{"source":"\xff"}', b"{}", msgspec.json.encode(far))
    with server(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        client.sadd(keys.FLEET_RECORDINGS, "door")
        for number, entry in enumerate((*faulty, msgspec.json.encode(place))):
            client.hset(keys.fleet_recordings("door"), f"box{number}:/data", entry)
        assert places_of(store.url, "door") == all_places(store.url) == [place]


def test_a_disk_that_fails_leaves_the_places_as_they_were() -> None:
    before = {"door": RecordingPlace("door", "a", "box", "/data", "", 1.0, 2.0)}
    assert note_places("redis://127.0.0.1:1", "a", REFUSED, "", before) == before
