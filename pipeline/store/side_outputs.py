"""What a side stage has said of each source, and the state that it keeps: for who looks later."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from framegate.pipeline import keys, records
from framegate.pipeline.records import SideOutput
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.store_faults import store_errors
from framegate.pipeline.store.store_url import connect


class SideOutputs(NamedTuple):
    """Of one source. state: as stored, empty where there is none; said: outputs, oldest first."""

    source: str
    state: bytes
    said: list[bytes]


def side_outputs(url: str, stage: str, sources: Collection[str]) -> list[SideOutputs]:
    """Of these sources, or of all for none, where the stage was ever attached."""
    with closing(connect(url)) as client, store_errors(url):
        names = sorted(sources or (name.decode() for name in client.hkeys(keys.SOURCES)))
        found = []
        for source in names:
            state = client.hget(keys.at(source, stage), "s")
            entries = client.xrange(keys.out(source, stage))
            said = [
                bytes(records.decode_versioned(fields[b"d"], SideOutput).said)
                for _, fields in entries
                if fields[b"k"] == FRAME.encode()
            ]
            if state is not None or said:
                found.append(SideOutputs(source, state or b"", said))
        return found
