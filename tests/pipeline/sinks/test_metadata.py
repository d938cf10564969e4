"""Boxes of frames as ONVIF metadata: the payload by hand, and a real broker."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.sinks.delivery import CameraPictures
from framegate.pipeline.sinks.metadata import MetadataThread, frame_of
from framegate.pipeline.sinks.mqtt import Mqtt
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.brokers import ABSENT, Broker
from tests.support.published import result
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.said import Sayer
from tests.support.told_episodes import following

PERSON = Object(7, "person", 0, 0.8125, (160.0, 90.0, 320.0, 180.0), "detected")
CUP = Object(None, "cup", 41, 0.5, (0.0, 0.0, 320.0, 180.0), "detected", "new")


def test_a_frame_is_in_the_coordinates_of_onvif() -> None:
    """-1 to 1 from left to right and from the bottom to the top: a box has top > bottom."""
    seen = msgspec.structs.replace(
        result("door", 1, 5), captured=1_633_446_807.321, width=320, height=180,
        objects=(PERSON, CUP),
    )  # fmt: skip
    assert frame_of(seen) == {
        "Frame": [
            {
                "@UtcTime": "2021-10-05T15:13:27.321Z",
                "@Source": "framegate",
                "Object": [
                    {
                        "@ObjectId": 7,
                        "Appearance": {
                            "Shape": {
                                "BoundingBox": {
                                    "@left": 0.0, "@top": 0.0, "@right": 1.0, "@bottom": -1.0
                                },
                                "CenterOfGravity": {"@x": 0.5, "@y": -0.5},
                            },
                            "Class": {
                                "Type": [
                                    {"@Likelihood": 0.812, "#text": "Human"},
                                    {"@Likelihood": 0.812, "#text": "person"},
                                ]
                            },
                        },
                    },
                    {
                        "Appearance": {
                            "Shape": {
                                "BoundingBox": {
                                    "@left": -1.0, "@top": 1.0, "@right": 1.0, "@bottom": -1.0
                                },
                                "CenterOfGravity": {"@x": 0.0, "@y": 0.0},
                            },
                            "Class": {"Type": [{"@Likelihood": 0.5, "#text": "cup"}]},
                        }
                    },
                ],
            }
        ]
    }  # fmt: skip


def test_a_frame_without_objects_is_published_too() -> None:
    [frame] = frame_of(msgspec.structs.replace(result("door", 1, 5), objects=()))["Frame"]
    assert set(frame) == {"@UtcTime", "@Source"}


def test_only_the_newest_frame_is_published_at_most_so_often(store: EmbeddedStore) -> None:
    """A receiver that takes a frame holds the thread up; the frames in between are not sent."""
    sayer = Sayer(store)
    sayer.client.flushall()
    published: list[float] = []
    may_continue = threading.Event()

    def publish(topic: str, payload: bytes) -> bool:
        assert topic == "onvif-mj/VideoAnalytics/door/framegate"
        published.append(len(json.loads(payload)["Frame"][0].get("Object", ())))
        may_continue.wait(DEADLINE_S)
        return True

    sayer.publish("door", 1, objects=(PERSON,))
    users = {"k": "frame", "d": msgspec.msgpack.encode({"mine": 1})}  # of a user's stage
    sayer.client.xadd(keys.results("yard"), users, id="1-1")
    thread = MetadataThread("vms", store.url, 60.0, publish)
    thread.take_sources(["door", "yard"])
    thread.start()
    wait_until("the first is published", lambda: published)
    for seq in range(2, 50):
        sayer.publish("door", seq, objects=())
    sayer.publish("door", 50, objects=(PERSON, CUP))
    may_continue.set()
    wait_until("the newest is published", lambda: len(published) == 2)
    assert published == [1, 2]
    sayer.publish("door", 51, outcome="failed")
    sayer.publish("door", 52, objects=())
    wait_until("the next is published", lambda: len(published) == 3)
    thread.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    sayer.client.close()


def test_a_store_that_goes_away_is_reported_once_and_asked_with_growing_pauses(
    store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "framegate.pipeline.sinks.metadata")
    sayer = Sayer(store)
    sayer.client.flushall()
    sayer.publish("door", 1, objects=())
    published: list[str] = []
    thread = MetadataThread(
        "vms", store.url, 60.0, lambda topic, _: published.append(topic) is None
    )
    thread.take_sources(["door"])
    thread.start()
    wait_until("it serves", lambda: published)

    def reports() -> list[logging.LogRecord]:
        return [each for each in caplog.records if "no metadata" in each.message]

    store.stop()
    try:
        wait_until("seven attempts", lambda: len(reports()) >= 7, DEADLINE_S)
    finally:
        store.start()
        thread.stop()
        thread.join(DEADLINE_S)
    first, *_, last = reports()[:7]
    # Six pauses: at least half of 20, 40, 80, 160, 320 and 640 ms.
    assert last.relativeCreated - first.relativeCreated > 600.0
    assert [each.levelno for each in reports()].count(logging.WARNING) == 1
    sayer.client.close()


@pytest.mark.skipif(ABSENT, reason="needs Debian's mosquitto")
def test_a_broker_gets_boxes_also_after_it_was_away(
    tmp_path: Path, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(tmp_path / "broker")
    monkeypatch.setenv("BROKER_URL", broker.url)
    broker.start()
    sayer = Sayer(store)
    sayer.client.flushall()
    config = SinkConfig("mqtt", url_env="BROKER_URL", metadata_fps=50.0)
    receiver = Mqtt("vms", config, "run1", {}, CameraPictures(), store.url)
    topic = "framegate/onvif-mj/VideoAnalytics/door/framegate"
    with (
        broker.reader("framegate/onvif-mj/#") as reader,
        following(store, "vms", config, receiver, "door"),
    ):
        seq = 0

        def arrives() -> bool:
            nonlocal seq
            seq += 1
            sayer.publish("door", seq, objects=(PERSON,))
            return topic in reader.last

        wait_until("a frame arrives", arrives)
        [frame] = json.loads(reader.last[topic])["Frame"]
        assert frame["Object"][0]["@ObjectId"] == 7
        broker.kill()
        reader.last.clear()
        broker.start()
        wait_until("a frame arrives again", arrives)
    broker.stop()
    sayer.client.close()


SINK = '[sinks.vms]\nkind = "{kind}"\nurl = "{url}"\nmetadata_fps = 5\n'


def test_metadata_needs_no_rule_and_a_broker() -> None:
    assert read_config("it", SINK.format(kind="mqtt", url="mqtt://broker.example")).sinks
    with pytest.raises(ConfigFaults, match="metadata_fps: only for kind mqtt"):
        read_config("it", SINK.format(kind="webhook", url="https://hook.example"))
