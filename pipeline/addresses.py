"""HOST:PORT, and where a web page comes from, as people write it."""

from __future__ import annotations

import re

OFF = ("off", "")
HTTP_DEFAULT = "127.0.0.1:8686"
HTTP_RULE = f"allowed is HOST:PORT, such as {HTTP_DEFAULT} or [::1]:8686, or off"
ORIGIN_RULE = "allowed is https://HOST, with its port if it has one, or * for any page"
STORE_RULE = "allowed is HOST:PORT, such as 127.0.0.1:6379 or [::1]:6379, with a port up to 65535"


def host_and_port(text: str) -> tuple[str, int] | None:
    """Return host and port of HOST:PORT or [HOST]:PORT, the port to 65535; None if it is none."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([\w.-]+)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65535:
        return None
    return found[1] or found[2], int(found[3])


def http_fault(text: str) -> str | None:
    """Return why this is no `http.listen`, as far as its form goes; None if it is one, or off."""
    return None if text in OFF or host_and_port(text) else HTTP_RULE


def store_fault(text: str) -> str | None:
    """Return why this is no address for `--listen`, as far as its form goes; None if it is one."""
    parts = host_and_port(text)
    return None if parts and parts[1] else STORE_RULE


def origin_fault(text: str) -> str | None:
    """Return why this is no origin of web pages; None if it is one, or any."""
    named = re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:\d{1,5})?", text)
    return None if text == "*" or named else ORIGIN_RULE
