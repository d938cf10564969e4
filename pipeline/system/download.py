"""Fetch a file whose digest is known beforehand, so that nothing else has to be trusted."""

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
_SILENT_S: Final = 30.0
_AT_ONCE: Final = 1 << 18


def is_url(file: str) -> bool:
    """Return whether a model is to be fetched."""
    return file.startswith(("http://", "https://"))


def download(
    url: str,
    sha256: str,
    folder: Path,
    tell: OnProgress,
    most_bytes: int = MOST_BYTES,
    most_s: float = MOST_S,
) -> Path:
    """Fetch a file into `folder`, under the name that the URL's path ends with; its path.

    sha256  of the file, 64 hexadecimal digits

    It takes no more than `most_bytes` and `most_s`, nor a server that says nothing for 30 s, and
    what has another digest is removed. ConfigFaults, in which the URL has no secrets.
    """
    remember_url(url)
    named = PurePosixPath(unquote(urlsplit(url).path)).name
    path = folder / (re.sub(r"[^\w.-]", "_", named).lstrip(".") or "model")
    try:
        with _opened(url) as answer, path.open("wb") as file:
            found = _copied(answer, file, tell, most_bytes, time.monotonic() + most_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        why = getattr(error, "reason", None) or error
        raise ConfigFaults([redacted(f"{shown(url)}: {why}")]) from error
    if found != sha256.lower():
        path.unlink()
        raise ConfigFaults(
            [f"{shown(url)}: the sha256 is {found}, expected {sha256}: the file was changed"]
        )
    return path


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Goes on to other places on the web, and to nothing else."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        """Return the request at the new place."""
        if not is_url(request[-1]):
            raise ValueError("it leads to a place that is no http:// or https:// URL")
        return super().redirect_request(*request)


def _opened(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "framegate"})
    opener = urllib.request.build_opener(_WebOnly)
    answer: http.client.HTTPResponse = opener.open(request, timeout=_SILENT_S)
    return answer


def _copied(
    answer: http.client.HTTPResponse,
    file: BinaryIO,
    tell: OnProgress,
    most_bytes: int,
    until: float,
) -> str:
    """Write what comes into a file; its sha256. ValueError for too much, or too little."""
    length = answer.headers.get("Content-Length", "")
    expected = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    if expected is not None and expected > most_bytes:
        raise ValueError(f"{expected} bytes; allowed are {most_bytes}")
    digest, came = hashlib.sha256(), 0
    total = None if expected is None else -(-expected // 1_000_000)
    while part := answer.read1(_AT_ONCE):
        came += len(part)
        if came > most_bytes:
            raise ValueError(f"more than {most_bytes} bytes, which is what is allowed")
        if time.monotonic() > until:
            raise ValueError(f"not done in time: {came} bytes came")
        digest.update(part)
        file.write(part)
        tell("MB of the model", came // 1_000_000, total)
    if expected is not None and came != expected:
        raise ValueError(f"{came} of {expected} bytes came")
    return digest.hexdigest()
