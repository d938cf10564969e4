"""Download a file with a known digest, so that neither server nor network must be trusted."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.redaction import redacted, remember_url, shown

MOST_BYTES: Final = 4 << 30
MOST_S: Final = 3600.0
_SILENT_S: Final = 30.0  # longest wait for data
_CHUNK_BYTES: Final = 1 << 18


def is_url(file: str) -> bool:
    """Return whether a model must be downloaded."""
    return file.startswith(("http://", "https://"))


def download(
    url: str,
    sha256: str,
    folder: Path,
    tell: OnProgress,
    most_bytes: int = MOST_BYTES,
    most_s: float = MOST_S,
) -> Path:
    """Download a file into `folder` and return its path, named like the end of the URL's path.

    sha256      expected digest, 64 hexadecimal digits
    tell        called with the progress
    most_bytes  largest size
    most_s      longest time

    ConfigFaults, without the secrets of the URL, if it fails, exceeds a limit, gets no data for
    30 s, or has another digest; the file is then removed.
    """
    remember_url(url)
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    path = folder / (re.sub(r"[^\w.-]", "_", name).lstrip(".") or "model")
    try:
        with _opened(url) as response, path.open("wb") as file:
            digest = _copy(response, file, tell, most_bytes, time.monotonic() + most_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise ConfigFaults([redacted(f"{shown(url)}: {reason}")]) from error
    if digest != sha256.lower():
        path.unlink()
        raise ConfigFaults(
            [f"{shown(url)}: the sha256 is {digest}, expected {sha256}: the file was changed"]
        )
    return path


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """A handler that follows redirects to http:// and https:// URLs only."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        """Return the request to the new URL. ValueError if that is not allowed."""
        if not is_url(request[-1]):
            raise ValueError("it redirects to a URL that is neither http:// nor https://")
        return super().redirect_request(*request)


def _opened(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "framegate"})
    opener = urllib.request.build_opener(_WebOnly)
    response: http.client.HTTPResponse = opener.open(request, timeout=_SILENT_S)
    return response


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    tell: OnProgress,
    most_bytes: int,
    deadline_mono: float,
) -> str:
    """Write a response to a file, and return its sha256. ValueError if it exceeds a limit."""
    length = response.headers.get("Content-Length", "")
    expected = None
    total_mb = None
    if re.fullmatch(r"[0-9]{1,18}", length):
        expected = int(length)
        total_mb = -(-expected // 1_000_000)
    if expected is not None and expected > most_bytes:
        raise ValueError(f"{expected} bytes; at most {most_bytes} are allowed")
    digest = hashlib.sha256()
    received = 0
    while chunk := response.read1(_CHUNK_BYTES):
        received += len(chunk)
        if received > most_bytes:
            raise ValueError(f"more than {most_bytes} bytes; at most {most_bytes} are allowed")
        if time.monotonic() > deadline_mono:
            raise ValueError(f"not done in time: received {received} bytes")
        digest.update(chunk)
        file.write(chunk)
        tell("MB of the model", received // 1_000_000, total_mb)
    if expected is not None and received != expected:
        raise ValueError(f"received {received} of {expected} bytes")
    return digest.hexdigest()
