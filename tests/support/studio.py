"""A source made by hand, as a run leaves it: results and records in a store, pixels in memory.

Frame n is of one grey, and its one object stands at a place of its own: whoever sees the one with
the other's sees it.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import msgspec
import numpy as np
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import VERSION, DecodeState, Position, Record
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.published import result

FORM = Form(320, 180, "bt601", False)
SLOTS = 5
KNOWN = {"door": "", "yard": "connecting: connection refused"}  # what a run says of its sources


def grey_of(seq: int) -> int:
    """Luma of frame `seq`."""
    return 40 + 5 * (seq % 30)


def object_of(seq: int) -> Object:
    """The object of frame `seq`: 40x40 pixels at its own place, a track of its own colour."""
    left = 10.0 + 10 * (seq % 26)
    return Object(1, "car", 2, 0.9, (left, 100.0, left + 40, 140.0), "detected")


class Studio:
    """One source, `door`."""

    def __init__(self, store: EmbeddedStore, form: Form = FORM) -> None:
        self.url, self.form = store.url, form
        self._client = redis.Redis.from_url(store.url, protocol=2)
        self._client.flushall()
        nbytes = form.nbytes
        descriptor = make_shared_file(frame_store_bytes(SLOTS, nbytes), "the studio")
        self.frames = FrameStore(descriptor, SLOTS, nbytes)
        os.close(descriptor)

    def frame_store(self, source: str, form: Form) -> FrameStore:
        if (source, form) != ("door", self.form):
            raise FrameLost(f"no frames of {source} in {form}")
        return self.frames

    def decode(self, seq: int, epoch: int = 1) -> None:
        """Write the pixels of a frame and its record."""
        luma = self.form.width * self.form.height
        with self.frames.writing(seq, Position(epoch, seq)) as pixels:
            pixels[:luma] = bytes([grey_of(seq)]) * luma
            pixels[luma:] = bytes([128]) * (self.form.nbytes - luma)
        record = Record(VERSION, seq / 25, 1.5, 1.5, seq, self.form)
        self._add(keys.out("door", "decode"), epoch, seq, "frame", record)

    def publish(self, seq: int, epoch: int = 1, **told: Any) -> None:
        """Publish the result of a frame; `told` are fields of it."""
        bare = result("door", epoch, seq)
        size = {"width": self.form.width, "height": self.form.height}
        seen = msgspec.structs.replace(bare, objects=(object_of(seq),), **size, **told)
        self._add(keys.results("door"), epoch, seq, "frame", seen)

    def show(self, seq: int, epoch: int = 1) -> None:
        """Decode and publish a frame."""
        self.decode(seq, epoch)
        self.publish(seq, epoch)

    def forget_records(self, seq: int, epoch: int = 1) -> None:
        """Leave of decode what a process does that has all stages: where it stands, its state."""
        state = DecodeState("run", seq + 1, open=True, form=self.form)
        at = {"p": f"{epoch}-{seq}", "s": records.encode(state)}
        self._client.hset(keys.at("door", "decode"), mapping=at)
        self._client.delete(keys.out("door", "decode"))

    def end(self, seq: int, epoch: int = 1) -> None:
        """End an epoch that had `seq` frames, the source goes on."""
        end = records.End(VERSION, frames=seq, last=False)
        for stream in (keys.out("door", "decode"), keys.results("door")):
            self._add(stream, epoch, seq, "end", end)

    def _add(self, stream: str, epoch: int, seq: int, kind: str, record: object) -> None:
        self._client.xadd(stream, {"k": kind, "d": records.encode(record)}, id=f"{epoch}-{seq}")

    def close(self) -> None:
        self._client.close()
        self.frames.close()


def decoded(jpeg: bytes) -> np.ndarray:
    """A JPEG's pixels, uint8 (H, W, 3), B, G, R."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
