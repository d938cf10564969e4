"""A camera by Debian's GStreamer RTSP server: passwords, RTCP, UDP, and more codecs."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-plugins-good",
    "python3-gi",
)
_PAYLOADERS = {
    "h264": ("h264parse", "rtph264pay config-interval=-1"),
    "hevc": ("h265parse", "rtph265pay config-interval=-1"),
    "mpeg4": ("mpeg4videoparse", "rtpmp4vpay config-interval=1"),
    "mjpeg": ("jpegparse", "rtpjpegpay"),
}
_PROBE = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
for name in ("h264parse", "h265parse", "rtph264pay", "rtpjpegpay", "matroskademux"):
    assert Gst.ElementFactory.find(name), name
"""


def missing() -> str | None:
    """Why there is no such camera here, None if there is."""
    if not os.access(PYTHON, os.X_OK):
        return f"no {PYTHON}"
    if subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, check=False).returncode:
        return f"Debian packages missing: one of {', '.join(PACKAGES)}"
    return None


@dataclass(frozen=True)
class Login:
    """Who may look. scheme: basic or digest."""

    user: str
    password: str
    scheme: str = "basic"


class GStreamerCamera:
    """Plays one Matroska file from its start to whoever connects, and then ends.

    codec  h264, hevc, mpeg4 or mjpeg: the file's
    """

    def __init__(
        self, clip: Path, mount: str, codec: str = "h264", login: Login | None = None
    ) -> None:
        script = Path(__file__).with_name("debian_rtsp_server.py")
        self.process = subprocess.Popen(
            [PYTHON, os.fspath(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        parser, payloader = _PAYLOADERS[codec]
        given = {"clip": str(clip), "mount": mount, "parser": parser, "payloader": payloader}
        if login is not None:
            given |= {"user": login.user, "password": login.password, "scheme": login.scheme}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said.strip().isdigit(), f"the GStreamer server did not start: {said!r}"
        self.port = int(said)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
