"""Publish the boxes of frames as ONVIF metadata (Profile M), as JSON over MQTT.

    TOPIC/onvif-mj/VideoAnalytics/SOURCE/framegate     the objects of one frame

Topic and payload are those of the ONVIF Analytics Service Specification, 5.5. Boxes are for drawing
them: the newest frame of each source is published, at most `metadata_fps` times a second, with QoS
0. A slow broker loses frames; no frame waits in memory.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

MODULE: Final = "framegate"  # name of the analytics module in topics and payloads
_WAIT_MS: Final = 1000
_NO_SOURCE_S: Final = 1.0
_STEADY_S: Final = 60.0  # a connection that lasted longer resets the count of failures
# tt:ObjectType. Another class keeps its label, which the specification allows.
_CLASSES: Final[Mapping[str, str]] = {
    "person": "Human",
    **dict.fromkeys(("car", "truck", "bus", "train", "boat", "airplane"), "Vehicle"),
    "bicycle": "Bicycle",
    "motorcycle": "Bike",
    **dict.fromkeys(
        ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
        "Animal",
    ),
}

PublishFrame = Callable[[str, bytes], bool]
"""Publish a payload under a topic below the sink's; return False if the last one still waits."""


def topic_of(source: str) -> str:
    """Return the topic of a source, below the first part of the sink's topics."""
    return f"onvif-mj/VideoAnalytics/{source}/{MODULE}"


def frame_of(result: Result) -> dict[str, Any]:
    """Return the payload for a result, ready for JSON.

    Coordinates are -1 to 1, from left to right and from the bottom to the top. A frame without
    objects is published as well: it shows that there are none.
    """
    taken = datetime.fromtimestamp(result.captured, UTC)
    utc = taken.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    frame: dict[str, Any] = {"@UtcTime": utc, "@Source": MODULE}
    objects = [_object(each, result.width, result.height) for each in result.objects]
    if objects:
        frame["Object"] = objects
    return {"Frame": [frame]}


def _object(seen: Object, width: int, height: int) -> dict[str, Any]:
    x1, y1, x2, y2 = seen.box
    left, right = _across(x1, width), _across(x2, width)
    top, bottom = -_across(y1, height), -_across(y2, height)
    types = [{"@Likelihood": round(seen.score, 3), "#text": _CLASSES.get(seen.label, seen.label)}]
    if types[0]["#text"] != seen.label:
        types.append({"@Likelihood": round(seen.score, 3), "#text": seen.label})
    appearance = {
        "Shape": {
            "BoundingBox": {"@left": left, "@top": top, "@right": right, "@bottom": bottom},
            "CenterOfGravity": {
                "@x": round((left + right) / 2, 4),
                "@y": round((top + bottom) / 2, 4),
            },
        },
        "Class": {"Type": types},
    }
    if seen.track is None:
        return {"Appearance": appearance}
    return {"@ObjectId": seen.track, "Appearance": appearance}


def _across(pixel: float, pixels: int) -> float:
    """Return a coordinate as -1 to 1 of the picture."""
    return round(2 * pixel / max(1, pixels) - 1, 4) + 0.0  # not -0.0


class MetadataThread(threading.Thread):
    """Publishes the newest results of sources until `stop`. Any thread may call the methods."""

    def __init__(self, sink: str, store: str, fps: float, publish: PublishFrame) -> None:
        """Prepare the thread.

        sink     name of the sink, for messages
        store    URL of the store
        fps      greatest number of frames of a source per second, > 0
        publish  called in this thread
        """
        super().__init__(name=f"metadata-{sink}", daemon=True)
        self._sink = sink
        self._url = store
        self._period_s = 1.0 / fps
        self._publish = publish
        self._sources: tuple[str, ...] = ()
        self._stopping = threading.Event()

    def take_sources(self, sources: Iterable[str]) -> None:
        """Publish these sources from now on."""
        self._sources = tuple(sources)

    def stop(self) -> None:
        """Let the thread end within about a second."""
        self._stopping.set()

    def run(self) -> None:
        """Publish, connecting again whenever the store fails."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with store_errors(self._url), closing(connect(self._url)) as client:
                    self._serve(client)
            except FramegateError as error:
                if time.monotonic() - began > _STEADY_S:
                    failures = 0
                failures += 1
                level = logging.WARNING
                if failures > 1:
                    level = logging.DEBUG
                log.log(level, "sink %s: no metadata: %s", self._sink, error)
                self._stopping.wait(Backoff().delay_s(failures, random.random()))

    def _serve(self, client: Any) -> None:
        can_wait = not isinstance(client, redis.RedisCluster)
        published: dict[str, bytes] = {}  # id of the newest entry that was read, by source
        while not self._stopping.is_set():
            began = time.monotonic()
            sources = self._sources
            if not sources:
                self._stopping.wait(_NO_SOURCE_S)
                continue
            published = {name: published[name] for name in sources if name in published}
            for source in sources:
                newest = client.xrevrange(keys.results(source), count=1)
                if newest and newest[0][0] != published.get(source):
                    published[source] = newest[0][0]
                    self._send(source, newest[0][1])
            self._stopping.wait(max(0.0, began + self._period_s - time.monotonic()))
            if can_wait:
                after = {keys.results(name): published.get(name, b"0") for name in sources}
                client.xread(after, count=1, block=_WAIT_MS)

    def _send(self, source: str, fields: Mapping[bytes, bytes]) -> None:
        if fields[b"k"] != FRAME.encode():
            return
        try:
            result = records.decode_versioned(fields[b"d"], Result)
        except msgspec.MsgspecError:  # the output of a user's stage that publishes
            return
        if result.outcome != "failed":  # nothing is known about this frame
            self._publish(topic_of(source), msgspec.json.encode(frame_of(result)))
