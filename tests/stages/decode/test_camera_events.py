"""Events of a camera by ONVIF: which ones count, how long, and that they wake a lazy source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framegate.cli.setup.onvif import _query
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.camera_events import (
    ACTIVE_S,
    CameraEvents,
    Login,
    Refusals,
    _client,
    _subscription,
    login_of,
    refusals,
    states_after,
)
from framegate.stages.decode.options import DecodeOptions
from tests.support.calm_rooms import write_room
from tests.support.cameras.background import Background
from tests.support.cameras.onvif_events import EventService, RefusingService
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.runs import DEADLINE_S, wait_until

MOTION = "tns1:RuleEngine/tns1:CellMotionDetector/Motion"
CROSSED = "tns1:RuleEngine/LineDetector/Crossed"
LOGIN = ("viewer", "sword/fish")
REFUSED = "rtsp://other:sword%2Ffish@127.0.0.1/stream"
STREAM = "rtsp://viewer:sword%2Ffish@127.0.0.1/stream"


def message(topic: str, data: dict[str, str], operation: str = "Changed") -> dict[str, Any]:
    return {
        "topic": topic, "data": data, "property_operation": operation, "source": {"Rule": "r"}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "data", "operation", "event"),
    [
        (MOTION, {"IsMotion": "true"}, "Changed", "motion"),
        (MOTION, {"IsMotion": "1"}, "Initialized", "motion"),
        (MOTION, {"IsMotion": "false"}, "Changed", None),
        ("tns1:VideoSource/MotionAlarm", {"State": "True"}, "Changed", "motion"),
        ("tns1:VideoSource/GlobalSceneChange/ImagingService", {"State": "1"}, "Changed", "tamper"),
        (CROSSED, {"ObjectId": "1"}, "Changed", "line"),
        (CROSSED, {"ObjectId": "1"}, "", "line"),
        (CROSSED, {"ObjectId": "1"}, "Initialized", None),
        ("tns1:Device/HardwareFailure/StorageFailure", {"Failed": "true"}, "Changed", None),
        ("tns1:VideoSource/ImageTooDark", {"State": "true"}, "Changed", None),
        ("", {}, "", None),
    ],
)
def test_events_of_what_the_camera_sees_count(
    topic: str, data: dict[str, str], operation: str, event: str | None
) -> None:
    reported = states_after({}, [message(topic, data, operation)], 5.0)[1]
    assert reported == frozenset([event] if event else [])


# Topics and data as cameras of these makers send them (reported to Home Assistant, and recorded by
# the library axis).
@pytest.mark.parametrize(
    ("topic", "data", "event"),
    [
        ("tns1:RuleEngine/CellMotionDetector/People", {"IsPeople": "true"}, "person"),  # Tapo
        ("tns1:RuleEngine/PeopleDetector/People", {"IsPeople": "true"}, "person"),
        ("tns1:RuleEngine/TPSmartEventDetector/TPSmartEvent", {"IsVehicle": "true"}, "vehicle"),
        ("tns1:RuleEngine/CellMotionDetector/TpSmartEvent", {"IsPet": "true"}, "animal"),
        ("tns1:RuleEngine/CellMotionDetector/LineCross", {"IsLineCross": "true"}, "line"),
        ("tns1:RuleEngine/CellMotionDetector/Intrusion", {"IsIntrusion": "true"}, "area"),
        ("tns1:RuleEngine/CellMotionDetector/Tamper", {"IsTamper": "true"}, "tamper"),
        ("tns1:RuleEngine/MyRuleDetector/PeopleDetect", {"State": "true"}, "person"),  # Reolink
        ("tns1:RuleEngine/MyRuleDetector/VehicleDetect", {"State": "true"}, "vehicle"),
        ("tns1:RuleEngine/MyRuleDetector/DogCatDetect", {"State": "true"}, "animal"),
        ("tns1:RuleEngine/MyRuleDetector/FaceDetect", {"State": "true"}, "other"),
        ("tns1:RuleEngine/FieldDetector/ObjectsInside", {"IsInside": "true"}, "area"),  # Hikvision
        ("tns1:RuleEngine/TamperDetector/Tamper", {"IsTamper": "true"}, "tamper"),
        ("tns1:RuleEngine/MotionRegionDetector/Motion", {"State": "1"}, "motion"),
        ("tnsaxis:CameraApplicationPlatform/VMD/Camera1Profile1", {"active": "1"}, "motion"),
        ("tnsaxis:CameraApplicationPlatform/FenceGuard/Camera1Profile1", {"active": "1"}, "area"),
        (
            "tnsaxis:CameraApplicationPlatform/ObjectAnalytics/Device1Scenario1",
            {"active": "1", "classTypes": "human"},
            "person",
        ),
    ],
)
def test_the_kind_of_an_event(topic: str, data: dict[str, str], event: str) -> None:
    active, reported = states_after({}, [message(topic, data)], 5.0)
    assert reported == {event}
    assert [state.event for state in active.values()] == [event]


def test_states_of_one_topic_end_apart() -> None:
    topic = "tns1:RuleEngine/TPSmartEventDetector/TPSmartEvent"
    active, _ = states_after({}, [message(topic, {"IsPeople": "true"})], 5.0)
    active, _ = states_after(active, [message(topic, {"IsVehicle": "true"})], 5.0)
    active, _ = states_after(active, [message(topic, {"IsPeople": "false"})], 5.0)
    assert [state.event for state in active.values()] == ["vehicle"]


def test_a_state_lasts_until_it_ends_or_is_too_old() -> None:
    on = message(MOTION, {"IsMotion": "true"})
    active, _ = states_after({}, [on, message(CROSSED, {"ObjectId": "1"})], 5.0)
    none = frozenset[str]()
    assert list(active.values()) == [("motion", 5.0 + ACTIVE_S)]  # a moment has no state
    assert states_after(active, [], 6.0) == (active, none)
    assert states_after(active, [message(MOTION, {"IsMotion": "false"})], 6.0) == ({}, none)
    assert states_after(active, [message(MOTION, {}, "Deleted")], 6.0) == ({}, none)
    assert states_after(active, [], 5.0 + ACTIVE_S) == ({}, none)


def test_a_camera_with_many_states_fills_no_memory() -> None:
    many = [message(f"{MOTION}{number}", {"IsMotion": "true"}) for number in range(1000)]
    assert len(states_after({}, many, 0.0)[0]) < 100


def test_a_frame_carries_the_events_that_arrived_before_it() -> None:
    events = CameraEvents("yard", "http://127.0.0.1/onvif", STREAM)
    assert events.until(time.monotonic()) is None  # the camera did not answer so far
    events._see([])
    assert events.until(time.monotonic()) == ()
    before = time.monotonic()
    events._see([message(MOTION, {"IsMotion": "true"}), message(CROSSED, {"ObjectId": "1"})])
    assert events.until(before) == ()
    assert events.until(time.monotonic()) == ("motion", "line")
    assert events.until(time.monotonic()) == ("motion",)
    events._see([message(MOTION, {"IsMotion": "false"})])
    assert events.until(time.monotonic()) == ("motion",)  # it lasted until between the frames
    assert events.until(time.monotonic()) == ()


def test_events_that_no_frame_carries_fill_no_memory() -> None:
    events = CameraEvents("yard", "http://127.0.0.1/onvif", STREAM)
    for _ in range(10_000):
        events._see([message(CROSSED, {"ObjectId": "1"})])
    assert len(events._news) < 1000
    assert events.until(time.monotonic()) == ("line",)


@pytest.fixture
def service() -> Iterator[EventService]:
    with closing(EventService(*LOGIN)) as service:
        yield service


def test_the_state_of_a_camera_is_known_while_it_lasts(service: EventService) -> None:
    events = CameraEvents("yard", service.url, STREAM)
    events.start()
    assert not events.must_wake()
    service.send(MOTION, {"IsMotion": "true"})
    wait_until("motion begins", events.must_wake)
    assert events.must_wake()
    service.send(MOTION, {"IsMotion": "false"})
    wait_until("motion ends", lambda: not events.must_wake())
    service.send(CROSSED, {"ObjectId": "7"})
    wait_until("a line is crossed", events.must_wake)
    assert not events.must_wake()
    events.stop()
    events.join(DEADLINE_S)
    assert not events.is_alive()


def test_a_subscription_that_ends_is_made_again(service: EventService) -> None:
    """As when the camera starts again: the new subscription begins with the states that are on."""
    events = CameraEvents("yard", service.url, STREAM)
    events.start()
    assert service.has_subscriber.wait(DEADLINE_S)
    service.forget()
    service.send(MOTION, {"IsMotion": "true"})
    wait_until("the state is known", lambda: events.until(time.monotonic()) == ("motion",))
    assert service.n_subscribed == 2
    events.stop()
    events.join(DEADLINE_S)
    assert not service.subscriptions  # it unsubscribed


def test_a_subscription_is_renewed(service: EventService) -> None:
    login = Login(service.url, *LOGIN)
    with _client(login) as client, _subscription(client) as subscription:
        subscription.renew()
        subscription.pull()
    assert (service.n_subscribed, service.n_renewed) == (1, 1)


def test_the_clock_of_a_camera_may_be_wrong() -> None:
    """The digest of a login has the time of the camera, which refuses others."""
    with closing(EventService(*LOGIN, skew_s=86_400.0)) as service:
        events = CameraEvents("yard", service.url, STREAM)
        events.start()
        wait_until("it answers", lambda: events.until(time.monotonic()) is not None)
        service.send(CROSSED, {"ObjectId": "7"})
        wait_until("a line is crossed", lambda: events.until(time.monotonic()) == ("line",))
        events.stop()
        events.join(DEADLINE_S)


def test_the_events_of_a_camera_that_does_not_answer_any_more_are_unknown() -> None:
    with closing(EventService(*LOGIN)) as service:
        events = CameraEvents("yard", service.url, STREAM)
        events.start()
        service.send(MOTION, {"IsMotion": "true"})
        wait_until("it answers", lambda: events.until(time.monotonic()) is not None)
    wait_until("it is unknown", lambda: events.until(time.monotonic()) is None)
    events.stop()
    events.join(DEADLINE_S)


def test_a_camera_that_refuses_the_login_gives_no_events(
    service: EventService, caplog: pytest.LogCaptureFixture
) -> None:
    events = CameraEvents("yard", service.url, "rtsp://viewer:wrong@127.0.0.1/stream")
    events.start()
    wait_until("it is logged", lambda: "no events by ONVIF" in caplog.text)
    assert "source yard: " in caplog.text
    assert "refuses the login" in caplog.text
    assert not service.has_subscriber.is_set()
    assert not events.must_wake()
    assert "wrong" not in caplog.text
    events.stop()
    events.join(DEADLINE_S)


@pytest.mark.parametrize("challenge", ["", 'Basic realm="camera"'])
def test_the_password_is_never_sent_in_the_clear(
    caplog: pytest.LogCaptureFixture, challenge: str
) -> None:
    with closing(RefusingService(challenge)) as service:
        events = CameraEvents("yard", service.url, REFUSED)
        events.start()
        wait_until("it is logged", lambda: "no events by ONVIF" in caplog.text)
        events.stop()
        events.join(DEADLINE_S)
        camera = _query(service.url, "127.0.0.1", "Door", *LOGIN)
        assert camera.fault
        assert service.logins
        assert set(service.logins) == {None}


def test_a_refused_login_is_not_tried_again_soon(caplog: pytest.LogCaptureFixture) -> None:
    challenge = 'Digest realm="camera", nonce="abc", qop="auth"'
    with closing(RefusingService(challenge)) as service:
        for _ in range(3):  # as often as its stream was connected
            events = CameraEvents("yard", service.url, REFUSED)
            events.start()
            wait_until("it is logged", lambda: "refuses the login" in caplog.text)
            events.stop()
            events.join(DEADLINE_S)
        n_refused = sum(login is not None for login in service.logins)
        login = Login(service.url, "other", "sword/fish")
        assert refusals.until(login) > time.monotonic() + 1000.0
    assert 0 < n_refused <= 2  # services and time of the camera


def test_the_pause_after_a_refused_login_grows_until_it_is_accepted() -> None:
    login = Login("http://camera/onvif/device_service", "viewer", "sword/fish")
    refused = Refusals()
    assert refused.until(login) == 0.0
    assert [refused.add(login, 5.0, 1.0) for _ in range(3)] == [3600.0, 7200.0, 14400.0]
    assert refused.until(login) == 14405.0
    assert refused.until(login._replace(password="new")) == 0.0
    refused.forget(login)
    assert refused.until(login) == 0.0


def test_a_camera_that_does_not_answer_is_no_camera_without_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(RefusingService("")) as service:
        url = service.url
    events = CameraEvents("yard", url, STREAM)
    events.start()
    wait_until("it is logged", lambda: "no events by ONVIF" in caplog.text)
    events.stop()
    events.join(DEADLINE_S)
    assert "refused" in caplog.text
    assert "advertise" not in caplog.text


def test_a_camera_that_answers_at_once_is_not_polled_without_a_pause() -> None:
    with closing(EventService(*LOGIN, poll_s=0.0)) as service:
        events = CameraEvents("yard", service.url, STREAM)
        events.start()
        began = time.monotonic()
        wait_until("it is polled three times", lambda: service.n_polls >= 3)
        assert time.monotonic() - began > 1.5
        events.stop()
        events.join(DEADLINE_S)


def test_an_event_of_the_camera_wakes_it(tmp_path: Path, service: EventService) -> None:
    clip = write_room(tmp_path / "yard.mp4", "h264", seconds=60)
    with closing(Background()) as background, closing(ToolkitCamera(background, tmp_path)) as kit:
        place = f"rtsp://{LOGIN[0]}:sword%2Ffish@127.0.0.1:{kit.port}/{kit.path(clip.name)}"
        request = Request(place, live=True, decode="lazy", events=service.url)
        source = CameraSource(request, DecodeOptions(audited=0.0))
        is_calm = False
        for frame in source:
            if frame is not None and frame.undecoded and not is_calm:
                is_calm = True
                assert "lazy:woken:event" not in source.counts
                service.send(MOTION, {"IsMotion": "true"})
            has_motion = frame is not None and frame.camera_events == ("motion",)
            if has_motion and "lazy:woken:event" in source.counts:
                break
            if frame is not None and not has_motion:
                assert {each.camera_events for each in frame.undecoded} <= {None, ()}
        source.close()
    assert is_calm


def test_a_password_with_brackets_is_that_of_the_events_too() -> None:
    place = "http://127.0.0.1/onvif"
    login = Login(place, "anna", "s[3]cr[et")
    assert login_of(place, "rtsp://anna:s[3]cr%5Bet@127.0.0.1/stream") == login
    assert login_of(place, "rtsp://127.0.0.1/stream") == Login(place, "", "")
