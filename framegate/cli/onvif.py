"""Discover ONVIF cameras on the networks of this machine, with the extra `onvif` (onveef)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from framegate.cli.check import LARGE_PIXELS
from framegate.pipeline.contracts.errors import ConfigFaults

LISTEN_S = 3.0  # wait for answers to a probe, per network
ANSWER_S = 5.0  # time-out of a request to a camera
CAMERAS = "dn:NetworkVideoTransmitter"


@dataclass(frozen=True)
class DiscoveredCamera:
    """A camera that answered.

    host    address
    name    the camera's own name
    main    URL of its largest stream, without a login; "" if unknown
    sub     URL of the largest stream that is no larger than the network needs; "" if there is none
    fault   why the streams are unknown, for a user
    """

    host: str
    name: str
    main: str = ""
    sub: str = ""
    fault: str = ""

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
            yield _query(device.device_service, host, name, user, password)


def _query(service: str, host: str, name: str, user: str, password: str) -> DiscoveredCamera:
    from onveef import OnvifClient, models
    from onveef.exceptions import OnvifAuthError, OnvifError

    try:
        with OnvifClient(
            service, username=user, password=password, timeout_s=ANSWER_S, verify_tls=False
        ) as client:
            sizes: dict[str, int] = {}
            for profile in client.get_profiles():
                url = client.get_stream_uri(profile_token=profile["token"])
                encoder = models.Profile.from_dict(profile).video_encoder
                pixels = 0  # unknown
                if encoder:
                    pixels = (encoder.width or 0) * (encoder.height or 0)
                sizes.setdefault(url, pixels)
    except OnvifAuthError:
        return DiscoveredCamera(host, name, fault="the camera refuses this user and password")
    except (OnvifError, OSError, ValueError) as error:
        return DiscoveredCamera(
            host, name, fault=f"the camera does not list its streams ({type(error).__name__})"
        )
    return _chosen(host, name, sizes)


def _chosen(host: str, name: str, sizes: dict[str, int]) -> DiscoveredCamera:
    """Return the camera with its largest stream, and the largest small one as `sub`."""
    if not sizes:
        return DiscoveredCamera(host, name, fault="the camera has no stream")
    main = max(sizes, key=sizes.__getitem__)
    small = {url: size for url, size in sizes.items() if 0 < size <= LARGE_PIXELS and url != main}
    sub = max(small, key=small.__getitem__, default="")
    return DiscoveredCamera(host, name, main, sub)
