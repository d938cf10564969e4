"""Discover ONVIF cameras on the networks of this machine, with the extra `onvif` (onveef)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from framegate.cli.setup.probes import LARGE_PIXELS
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.decode.camera_events import EventsUnavailable, Login, topics_of

LISTEN_S = 3.0  # wait for answers to a probe, per network
ANSWER_S = 5.0  # time-out of a request to a camera
CAMERAS = "dn:NetworkVideoTransmitter"


@dataclass(frozen=True)
class OnvifStream:
    """A stream that a camera lists.

    width, height  pixels; 0 if unknown
    lens           name of its video source, which the streams of one picture share; "" if unknown
    """

    url: str
    width: int
    height: int
    lens: str = ""

    @property
    def pixels(self) -> int:
        """Return the pixels of a picture, 0 if unknown."""
        return self.width * self.height


@dataclass(frozen=True)
class DiscoveredCamera:
    """A camera that answered.

    host    address
    name    the camera's own name
    main    URL of its largest stream, without a login; "" if unknown
    small   URL of the largest stream of the same lens that is no larger than the network needs; ""
            if there is none
    fault   why the streams are unknown, for a user
    events  URL of its ONVIF service, if it offers events that count; "" if not
    """

    host: str
    name: str
    main: str = ""
    small: str = ""
    fault: str = ""
    events: str = ""

    def described(self) -> str:
        """Describe the camera in one line."""
        text = f"{self.name} at {self.host}"
        if self.fault:
            text += f": {self.fault}"
        return text


def installed() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("onveef") is not None


def find_cameras(user: str, password: str) -> Iterator[DiscoveredCamera]:
    """Yield each camera that answers a probe, with the streams that it reports to this login.

    ConfigFaults if the library is not installed. Passwords are sent as digests, never in the clear.
    """
    if not installed():
        raise ConfigFaults(
            ["--discover needs the package onveef, which is not installed; run: pip install onveef"]
        )
    from onveef import wsdiscovery

    seen = set()
    for device in wsdiscovery.discover(timeout_s=LISTEN_S, types=CAMERAS):
        host = urlsplit(device.device_service).hostname or device.address
        if host not in seen:
            seen.add(host)
            name = unquote(device.name or device.hardware) or host
            camera = _query(device.device_service, host, name, user, password)
            yield _with_events(camera, Login(device.device_service, user, password))


def _with_events(camera: DiscoveredCamera, login: Login) -> DiscoveredCamera:
    """Return a camera with its events, if it offers any that count."""
    if camera.fault:
        return camera
    try:
        topics = topics_of(login)
    except EventsUnavailable:
        return camera
    if not any(topics.values()):
        return camera
    return replace(camera, events=login.service)


def _query(service: str, host: str, name: str, user: str, password: str) -> DiscoveredCamera:
    from onveef import OnvifClient, models
    from onveef.exceptions import OnvifAuthError, OnvifError

    try:
        # By default onveef answers a request for a Basic login, which is the password in the clear,
        # and any device of the network can request one.
        with OnvifClient(
            service,
            username=user,
            password=password,
            timeout_s=ANSWER_S,
            verify_tls=False,
            http_auth="digest",
        ) as client:
            streams: dict[str, OnvifStream] = {}
            for profile in client.get_profiles():
                url = client.get_stream_uri(profile_token=profile["token"])
                encoder = models.Profile.from_dict(profile).video_encoder
                width = height = 0  # unknown
                if encoder:
                    width, height = encoder.width or 0, encoder.height or 0
                lens = (profile.get("video_source") or {}).get("source_token") or ""
                streams.setdefault(url, OnvifStream(url, width, height, lens))
    except OnvifAuthError:
        return DiscoveredCamera(host, name, fault="the camera refuses this user and password")
    except (OnvifError, OSError, ValueError) as error:
        return DiscoveredCamera(
            host, name, fault=f"the camera does not list its streams ({type(error).__name__})"
        )
    return chosen(host, name, list(streams.values()))


def chosen(host: str, name: str, streams: Sequence[OnvifStream]) -> DiscoveredCamera:
    """Return the camera with its largest stream, and the largest small one of the same lens."""
    if not streams:
        return DiscoveredCamera(host, name, fault="the camera has no stream")
    main = max(streams, key=lambda stream: stream.pixels)
    small = [
        stream
        for stream in streams
        if 0 < stream.pixels <= LARGE_PIXELS and stream.lens == main.lens and stream != main
    ]
    largest = max(small, key=lambda stream: stream.pixels, default=None)
    if largest is None:
        return DiscoveredCamera(host, name, main.url)
    return DiscoveredCamera(host, name, main.url, largest.url)
