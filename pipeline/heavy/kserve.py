"""A place at a server with the KServe v2 protocol, over HTTP or gRPC, with tritonclient.

Each thread has a connection of its own, which is opened and checked again after each failure. The
errors of a transport are those of gevent, gRPC and tritonclient, which have no common base.
"""

from __future__ import annotations

import base64
import importlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import EncodeQuery, PlaceFailed, Query, Reply, Unanswered
from framegate.pipeline.contracts.redaction import remember_url, shown
from framegate.pipeline.heavy.kserve_tensors import INPUTS, OUTPUTS, Tensor, answers_of, inputs_of
from framegate.pipeline.heavy.queue import SLICE_S, end_of_wait

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


class KServeClient:
    """A connection to a model. It belongs to the thread that made it.

    All methods but `close` raise PlaceFailed, and no other error.
    """

    def __init__(self, at: Address) -> None:
        """Connect; check that server, model and version are ready and that the tensors match."""
        self._at = at
        self._transport: GrpcTransport | HttpTransport
        if at.is_grpc:
            self._transport = GrpcTransport(at)
        else:
            self._transport = HttpTransport(at)
        try:
            with self._faults():
                self._check()
                if not at.is_grpc:
                    metadata = self._transport.call("get_server_metadata")
                    extensions = metadata.get("extensions", ())
                    self._transport.takes_bytes = "binary_tensor_data" in extensions
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        at = self._at
        call = self._transport.call
        model = f"model {at.model}"
        if at.version:
            model += f", version {at.version}"
        if not call("is_server_ready"):
            raise PlaceFailed(f"{at} is not ready")
        if not call("is_model_ready", at.model, at.version):
            raise PlaceFailed(f"{model} at {at} is not ready")
        metadata = call("get_model_metadata", at.model, at.version)
        for side, wanted in (("inputs", INPUTS), ("outputs", OUTPUTS)):
            types = {tensor["name"]: tensor["datatype"] for tensor in metadata.get(side, ())}
            if types != wanted:
                raise PlaceFailed(f"{model} at {at} has the {side} {types}; expected are {wanted}")

    @property
    def takes_bytes(self) -> bool:
        """Return whether the server accepts binary tensors. Over HTTP it may accept only JSON."""
        return self._transport.takes_bytes

    def infer(
        self, inputs: Mapping[str, Tensor], until_mono: float, closed: Callable[[], bool]
    ) -> dict[str, Tensor]:
        """Return the outputs for these inputs.

        Raises PlaceFailed at `until_mono`, or about a second after `closed` returns true.
        """
        with self._faults():
            tensors = [self._transport.input(name, array) for name, array in inputs.items()]
            wait = self._transport.begin(tensors, [*OUTPUTS], until_mono)
            while not closed():
                left_s = until_mono - time.monotonic()
                if left_s <= 0:
                    break
                result = wait(min(left_s, SLICE_S))
                if result is not None:
                    return {name: result.as_numpy(name) for name in OUTPUTS}
        raise PlaceFailed(f"{self._at} gave no answer in time")

    def close(self) -> None:
        """Close the connection and stop an active request."""
        self._transport.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except PlaceFailed:
            raise
        except Exception as error:  # errors of gevent, gRPC and tritonclient have no common base
            if "DEADLINE_EXCEEDED" in str(error):  # gRPC may notice the deadline before `infer`
                raise PlaceFailed(f"{self._at} gave no answer in time") from error
            raise PlaceFailed(f"{self._at}: {str(error) or type(error).__name__}") from error


class KServe:
    """A place at Triton, OpenVINO Model Server, MLServer and others.

    All methods may be called from any thread; each thread has its own connection.
    """

    def __init__(
        self, url: str, encode: EncodeQuery, policy: str, lanes: int = 4, most: int = 4
    ) -> None:
        """Prepare the place; each thread connects with its first query.

        url          see Address
        encode       encodes a query's picture; called from any thread
        policy       required policy of the server; a reply with another one is refused
        lanes, most  as in Place
        Raises ConfigFaults for a wrong URL, or without tritonclient.
        """
        remember_url(url)
        self.lanes = lanes
        self.most = most
        self.sent_bytes = 0
        self.wire_s = 0.0
        self._at = address(url)
        self._encode = encode
        self._policy = policy
        library(self._at)  # fail now if it is not installed
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._closed = False

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Send queries in one request and wait for the replies. Raises PlaceFailed."""
        until = end_of_wait(questions)
        if until <= time.monotonic():
            return [Unanswered("late")] * len(questions)
        pictures = [self._encode(question) for question in questions]
        client = self._client()
        begun = time.monotonic()
        try:
            inputs = inputs_of(questions, pictures, as_text=not client.takes_bytes)
            outputs = client.infer(inputs, until, lambda: self._closed)
            answers = answers_of(outputs, len(questions), self._policy)
        except BaseException:
            self.leave()
            raise
        with self._lock:
            self.sent_bytes += sum(len(picture) for picture in inputs["picture"])
            self.wire_s += max(0.0, time.monotonic() - begun - float(outputs["took_s"].sum()))
        return answers

    def absent(self) -> str | None:
        """Return the reason why a query would get no reply now; None: the model is ready."""
        try:
            KServeClient(self._at).close()
        except PlaceFailed as error:
            return f"{error}; start the server with the model, or correct escalate.url"
        return None

    def leave(self) -> None:
        """Close the calling thread's connection."""
        client: KServeClient | None = getattr(self._of_thread, "client", None)
        if client is not None:
            self._of_thread.client = None
            client.close()

    def close(self) -> None:
        """Let active calls fail within a second. Each thread closes its connection in `leave`."""
        self._closed = True

    def _client(self) -> KServeClient:
        client: KServeClient | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = KServeClient(self._at)
            self._of_thread.client = client
        return client
