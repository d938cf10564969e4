"""Where a model is that a KServe v2 server serves."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.redaction import shown

SCHEMES = ("http", "https", "grpc", "grpcs")
MODEL = "framegate_heavy"
_PORTS = {"http": 8000, "https": 443, "grpc": 8001, "grpcs": 443}
_PATH = re.compile(r"(?P<base>.*?)(/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?)?/?")


@dataclass(frozen=True)
class Address:
    """Where a model is: SCHEME://[USER:PASSWORD@]HOST[:PORT][/v2/models/NAME[/versions/VERSION]].

    place    HOST:PORT, with the base path of a server behind a proxy
    version  empty: the server chooses
    """

    scheme: str
    place: str
    model: str
    version: str
    headers: Mapping[str, str] = field(repr=False)

    @property
    def is_grpc(self) -> bool:
        """Else it is HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        """Without login."""
        return f"{self.scheme}://{self.place}"


def address(url: str) -> Address:
    """What the URL says. ConfigFaults."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    path = _PATH.fullmatch(parts.path)
    if parts.scheme not in SCHEMES or host is None or path is None:
        # HOST:PORT behind :// would be taken for a login, and hidden.
        allowed = (
            "http, https, grpc or grpcs, as in http://host:8000, and where the model has another "
            "name with /v2/models/NAME or /v2/models/NAME/versions/VERSION behind it"
        )
        raise ConfigFaults([f"KServe URL {shown(url)}: allowed is {allowed}"])
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    place = f"[{host}]" if ":" in host else host
    place = f"{place}:{port or _PORTS[parts.scheme]}{path['base']}"
    model, version = path["model"] or MODEL, path["version"] or ""
    return Address(parts.scheme, place, model, version, headers)
