"""A place at a server with the KServe v2 protocol.

Each thread has a connection of its own, which is opened and checked again after each failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from framegate.pipeline.contracts.queries import EncodeQuery, PlaceFailed, Query, Reply, Unanswered
from framegate.pipeline.contracts.redaction import remember_url
from framegate.pipeline.heavy.kserve_tensors import INPUTS, OUTPUTS, Tensor, answers_of, inputs_of
from framegate.pipeline.heavy.kserve_transport import (
    Address,
    GrpcTransport,
    HttpTransport,
    address,
    library,
)
from framegate.pipeline.heavy.queue import SLICE_S, end_of_wait


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

        url          see kserve_transport.Address
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
