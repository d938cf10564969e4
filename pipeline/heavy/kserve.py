"""A place at any server that speaks KServe v2: one connection a thread, made and checked anew after
each failure.
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

ANSWER_S = 30.0  # for a query without a due time
GRACE_S = 1.0  # after its due time: a late reply still helps the frames that come
_SLICE_S = 1.0  # of a wait, after which it is seen whether the place was closed


class KServeClient:
    """One connection to a model, of the thread that made it. Every fault is a PlaceFailed."""

    def __init__(self, at: Address) -> None:
        """Connect; check that server, model and version are ready and that its tensors are ours."""
        self._at = at
        self._transport = GrpcTransport(at) if at.is_grpc else HttpTransport(at)
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
        at, call = self._at, self._transport.call
        model = f"model {at.model}{f', version {at.version}' if at.version else ''}"
        if not call("is_server_ready"):
            raise PlaceFailed(f"{at} is not ready")
        if not call("is_model_ready", at.model, at.version):
            raise PlaceFailed(f"{model} at {at} is not ready")
        metadata = call("get_model_metadata", at.model, at.version)
        for side, wanted in (("inputs", INPUTS), ("outputs", OUTPUTS)):
            found = {one["name"]: one["datatype"] for one in metadata.get(side, ())}
            if found != wanted:
                raise PlaceFailed(f"{model} at {at} has the {side} {found}; expected are {wanted}")

    @property
    def takes_bytes(self) -> bool:
        """Return whether tensors travel as bytes: over HTTP a server may know JSON alone."""
        return self._transport.takes_bytes

    def infer(
        self, inputs: Mapping[str, Tensor], until_mono: float, closed: Callable[[], bool]
    ) -> dict[str, Tensor]:
        """Return the outputs. PlaceFailed if there are none by then, or once `closed` says so."""
        with self._faults():
            given = [self._transport.input(name, array) for name, array in inputs.items()]
            wait = self._transport.begin(given, [*OUTPUTS], until_mono)
            while (left_s := until_mono - time.monotonic()) > 0 and not closed():
                result = wait(min(left_s, _SLICE_S))
                if result is not None:
                    return {name: result.as_numpy(name) for name in OUTPUTS}
        raise PlaceFailed(f"{self._at} gave no answer in time")

    def close(self) -> None:
        """Close the connection, whatever is under way. In the thread that made it."""
        self._transport.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except PlaceFailed:
            raise
        except Exception as error:  # of gevent, gRPC, tritonclient: they share no root
            if "DEADLINE_EXCEEDED" in str(error):  # gRPC's own clock may be first
                raise PlaceFailed(f"{self._at} gave no answer in time") from error
            raise PlaceFailed(f"{self._at}: {str(error) or type(error).__name__}") from error


class KServe:
    """Triton, OpenVINO Model Server, MLServer and others. Any thread; each has its connection."""

    def __init__(
        self, url: str, encode: EncodeQuery, policy: str, lanes: int = 4, most: int = 4
    ) -> None:
        """Open nothing yet. ConfigFaults for a wrong URL, or without tritonclient.

        url     see kserve_transport.Address
        encode  codes a query's picture; any thread
        policy  hash of what must decide the replies: others are refused
        lanes, most  see Place
        """
        remember_url(url)
        self.lanes, self.most = lanes, most
        self.sent_bytes, self.wire_s = 0, 0.0
        self._at, self._encode, self._policy = address(url), encode, policy
        library(self._at)
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._closed = False

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Send them in one request and wait for the replies. PlaceFailed."""
        last = time.monotonic() + ANSWER_S
        dues = [last if q.due_mono is None else q.due_mono + GRACE_S for q in questions]
        until = min(last, max(dues))
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
        """Return why nobody would answer now: no server, not ready, another model."""
        try:
            KServeClient(self._at).close()
        except PlaceFailed as error:
            return f"{error}; start the server with the model, or mend escalate.url"
        return None

    def leave(self) -> None:
        """Close the calling thread's connection."""
        client: KServeClient | None = getattr(self._of_thread, "client", None)
        if client is not None:
            self._of_thread.client = None
            client.close()

    def close(self) -> None:
        """Have calls that are under way fail within a second; each thread closes its connection."""
        self._closed = True

    def _client(self) -> KServeClient:
        client: KServeClient | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = KServeClient(self._at)
        return client
