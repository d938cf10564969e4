"""Connect to a KServe v2 server with tritonclient: over HTTP and gRPC, with one interface.

A transport belongs to the thread that made it. Its errors are those of gevent, gRPC and
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
    """The parts of a model's URL.

    It is SCHEME://[USER:PASSWORD@]HOST[:PORT][/v2/models/NAME[/versions/VERSION]].

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
        """Return whether the protocol is gRPC and not HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def is_secure(self) -> bool:
        """Return whether the connection uses TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        """Return the URL of the server without the login."""
        return f"{self.scheme}://{self.place}"


def address(url: str) -> Address:
    """Return the parts of a URL. Raises ConfigFaults if it is not the URL of a model."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts = urlsplit("")
        port = None
    host = parts.hostname
    path = _PATH.fullmatch(parts.path)
    if parts.scheme not in SCHEMES or host is None or path is None:
        # Not "http://HOST:PORT": the redaction of logs would hide it as a login.
        allowed = (
            "http, https, grpc or grpcs, as in http://host:8000; for a model with another name "
            "append /v2/models/NAME or /v2/models/NAME/versions/VERSION"
        )
        raise ConfigFaults([f"KServe URL {shown(url)}: allowed is {allowed}"])
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    if ":" in host:  # IPv6
        host = f"[{host}]"
    place = f"{host}:{port or _PORTS[parts.scheme]}{path['base']}"
    model = path["model"] or MODEL
    version = path["version"] or ""
    return Address(parts.scheme, place, model, version, headers)


CONNECT_S = 5.0
_MAX_ANSWER_S = 600.0  # only a backstop: callers stop waiting earlier

Wait = Callable[[float], Any]
"""Wait up to a number of seconds; return the result, or None if there is none so far."""


def library(at: Address) -> Any:
    """Return tritonclient's module for the protocol. Raises ConfigFaults if it is missing."""
    name = "tritonclient.http"
    if at.is_grpc:
        name = "tritonclient.grpc"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigFaults(
            [
                "a KServe server needs the extra kserve: in Framegate's checkout, pip install "
                f"'.[kserve]' ({error})"
            ]
        ) from error


class HttpTransport:
    """A connection over HTTP.

    The client uses gevent, which runs in this thread only; nothing is monkey-patched.

    takes_bytes  the server accepts binary tensors, not only JSON
    """

    def __init__(self, at: Address) -> None:
        """Prepare the client; the first call connects. Raises ConfigFaults without tritonclient."""
        self._at = at
        self._library = library(at)
        self._gevent = importlib.import_module("gevent")
        self._client = self._library.InferenceServerClient(
            at.place, ssl=at.is_secure, connection_timeout=CONNECT_S, network_timeout=_MAX_ANSWER_S
        )
        self._request: Any = None
        self.takes_bytes = True

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the client by name and return its result; wait at most CONNECT_S."""
        late = PlaceFailed(f"{self._at} does not answer within {CONNECT_S:g} s")
        with self._gevent.Timeout(CONNECT_S, late):
            return getattr(self._client, method)(*arguments, headers=dict(self._at.headers))

    def begin(self, inputs: Sequence[Any], outputs: Sequence[str], until_mono: float) -> Wait:  # noqa: ARG002
        """Start a request in a greenlet, which `close` can kill; return a function that waits."""
        at = self._at
        wanted = [
            self._library.InferRequestedOutput(name, binary_data=self.takes_bytes)
            for name in outputs
        ]

        def infer() -> tuple[Any, Exception | None]:
            try:
                headers = dict(at.headers)
                result = self._client.infer(at.model, inputs, at.version, wanted, headers=headers)
            except Exception as error:
                return None, error
            return result, None

        request = self._gevent.spawn(infer)
        self._request = request

        def wait(seconds: float) -> Any:
            request.join(timeout=seconds)
            if not request.ready():
                return None
            return _result(*request.get())

        return wait

    def input(self, name: str, array: Tensor) -> Any:
        """Return an input of a request."""
        tensor = self._library.InferInput(name, list(array.shape), INPUTS[name])
        tensor.set_data_from_numpy(array, binary_data=self.takes_bytes)
        return tensor

    def close(self) -> None:
        """Close the connection and stop an active request."""
        if self._request is not None:
            self._request.kill()
        self._client.close()


class GrpcTransport:
    """A connection over gRPC. Results arrive on a thread of its library."""

    takes_bytes = True

    def __init__(self, at: Address) -> None:
        """Prepare the client; the first call connects. Raises ConfigFaults without tritonclient."""
        self._at = at
        self._library = library(at)
        # A shared subchannel would keep its long backoff after a lost connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        options += [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._client = self._library.InferenceServerClient(
            at.place, ssl=at.is_secure, channel_args=options
        )

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the client by name and return its result; wait at most CONNECT_S."""
        options: dict[str, Any] = {"headers": dict(self._at.headers), "client_timeout": CONNECT_S}
        if method.startswith("get_"):
            options["as_json"] = True
        return getattr(self._client, method)(*arguments, **options)

    def begin(self, inputs: Sequence[Any], outputs: Sequence[str], until_mono: float) -> Wait:
        """Start a request; return a function that waits for its result."""
        at = self._at
        results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._client.async_infer(
            at.model,
            inputs,
            callback=lambda result, error: results.put((result, error)),
            model_version=at.version,
            outputs=[self._library.InferRequestedOutput(name) for name in outputs],
            client_timeout=max(0.01, until_mono - time.monotonic()),
            headers=dict(at.headers),
        )

        def wait(seconds: float) -> Any:
            try:
                return _result(*results.get(timeout=seconds))
            except queue.Empty:
                return None

        return wait

    def input(self, name: str, array: Tensor) -> Any:
        """Return an input of a request."""
        tensor = self._library.InferInput(name, list(array.shape), INPUTS[name])
        tensor.set_data_from_numpy(array)
        return tensor

    def close(self) -> None:
        """Close the connection and stop active requests."""
        self._client.close()


def _result(result: Any, error: Exception | None) -> Any:
    if error is not None:
        raise error
    return result
