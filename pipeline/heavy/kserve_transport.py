"""A KServe v2 server's URL, and tritonclient over HTTP and over gRPC with one interface.

Both transports belong to the thread that made them. Their errors are those of gevent, gRPC and
tritonclient, which have no common base.
"""

from __future__ import annotations

import base64
import importlib
import queue
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import PlaceFailed
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.heavy.kserve_tensors import INPUTS, Tensor

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
        """Whether it is spoken to over gRPC, else HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        """Without login."""
        return f"{self.scheme}://{self.place}"


def address(url: str) -> Address:
    """Return the parts of a URL. ConfigFaults."""
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


CONNECT_S = 5.0
_LONGEST_S = 600.0  # for an answer: who waits for it has a limit of its own

Wait = Callable[[float], Any]  # for so many seconds: the result, None where it is not here yet


def library(at: Address) -> Any:
    """Return tritonclient's module. ConfigFaults if it is not installed."""
    try:
        return importlib.import_module(f"tritonclient.{'grpc' if at.is_grpc else 'http'}")
    except ImportError as error:
        raise ConfigFaults(
            [
                "a KServe server needs the extra kserve: in Framegate's checkout, pip install "
                f"'.[kserve]' ({error})"
            ]
        ) from error


class HttpTransport:
    """Over HTTP. Its client waits as gevent does, in this thread alone: nothing is patched."""

    def __init__(self, at: Address) -> None:
        """Open nothing yet."""
        self._at, self._library = at, library(at)
        self._gevent = importlib.import_module("gevent")
        self._client = self._library.InferenceServerClient(
            at.place, ssl=at.is_secure, connection_timeout=CONNECT_S, network_timeout=_LONGEST_S
        )
        self._under_way: Any = None
        self.takes_bytes = True

    def call(self, method: str, *given: Any) -> Any:
        """Call a method of the client that asks for little, and return its result."""
        late = PlaceFailed(f"{self._at} does not answer")
        with self._gevent.Timeout(CONNECT_S, late):
            return getattr(self._client, method)(*given, headers=dict(self._at.headers))

    def begin(self, inputs: Sequence[Any], outputs: Sequence[str], until_mono: float) -> Wait:  # noqa: ARG002
        """Send a request, in a greenlet, which can be killed; return how to wait for the result."""
        at = self._at
        wanted = [
            self._library.InferRequestedOutput(name, binary_data=self.takes_bytes)
            for name in outputs
        ]

        def infer() -> tuple[Any, Exception | None]:
            try:
                headers = dict(at.headers)
                found = self._client.infer(at.model, inputs, at.version, wanted, headers=headers)
            except Exception as error:
                return None, error
            return found, None

        request = self._under_way = self._gevent.spawn(infer)

        def wait(seconds: float) -> Any:
            request.join(timeout=seconds)
            return _result(*request.get()) if request.ready() else None

        return wait

    def input(self, name: str, array: Tensor) -> Any:
        """Return an input: bytes behind the JSON, or in it for a server that knows JSON alone."""
        given = self._library.InferInput(name, list(array.shape), INPUTS[name])
        given.set_data_from_numpy(array, binary_data=self.takes_bytes)
        return given

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        if self._under_way is not None:
            self._under_way.kill()
        self._client.close()


class GrpcTransport:
    """Over gRPC. Results come on a thread of its library."""

    takes_bytes = True

    def __init__(self, at: Address) -> None:
        """Open nothing yet."""
        self._at, self._library = at, library(at)
        # Subchannels that others share would keep their long pauses after a loss.
        options = [("grpc.use_local_subchannel_pool", 1)]
        options += [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._client = self._library.InferenceServerClient(
            at.place, ssl=at.is_secure, channel_args=options
        )

    def call(self, method: str, *given: Any) -> Any:
        """Call a method of the client that asks for little, and return its result."""
        said: Mapping[str, Any] = {"as_json": True} if method.startswith("get_") else {}
        headers = dict(self._at.headers)
        ask = getattr(self._client, method)
        return ask(*given, headers=headers, client_timeout=CONNECT_S, **said)

    def begin(self, inputs: Sequence[Any], outputs: Sequence[str], until_mono: float) -> Wait:
        """Send a request; return how to wait for the result."""
        at = self._at
        came: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._client.async_infer(
            at.model,
            inputs,
            callback=lambda result, error: came.put((result, error)),
            model_version=at.version,
            outputs=[self._library.InferRequestedOutput(name) for name in outputs],
            client_timeout=max(0.01, until_mono - time.monotonic()),
            headers=dict(at.headers),
        )

        def wait(seconds: float) -> Any:
            try:
                return _result(*came.get(timeout=seconds))
            except queue.Empty:
                return None

        return wait

    def input(self, name: str, array: Tensor) -> Any:
        """Return an input."""
        given = self._library.InferInput(name, list(array.shape), INPUTS[name])
        given.set_data_from_numpy(array)
        return given

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        self._client.close()


def _result(found: Any, error: Exception | None) -> Any:
    if error is not None:
        raise error
    return found
