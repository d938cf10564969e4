"""A place where questions are answered: a server that speaks KServe v2, with the heavy model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from framegate.pipeline.heavy.kserve_address import address
from framegate.pipeline.heavy.kserve_client import KServeClient
from framegate.pipeline.heavy.kserve_tensors import answers_of, inputs_of
from framegate.pipeline.heavy.kserve_transports import library
from framegate.pipeline.heavy.questions import Answer, PlaceFailed, Question, Unanswered
from framegate.pipeline.redaction import remember_url

Encode = Callable[[Question], bytes]

ANSWER_S = 30.0  # for a question without a due time
GRACE_S = 1.0  # after its due time: a late answer still helps the frames that come


class KServe:
    """Triton, OpenVINO Model Server, MLServer and others. Any thread; each has its connection."""

    def __init__(
        self, url: str, encode: Encode, policy: str, lanes: int = 4, most: int = 4
    ) -> None:
        """Opens nothing yet. ConfigFaults for a wrong URL, or without tritonclient.

        url     see kserve_address.Address
        encode  a question's picture, or the part of it that is asked about
        policy  hash of what must decide the answers: others are refused
        """
        remember_url(url)
        self.lanes, self.most = lanes, most
        self.sent_bytes, self.wire_s = 0, 0.0
        self._at, self._encode, self._policy = address(url), encode, policy
        library(self._at)
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._closed = False

    def answer(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Ask; after a failure the connection is made and checked anew. PlaceFailed."""
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
        """Why nobody would answer now: no server, not ready, another model."""
        try:
            KServeClient(self._at).close()
        except PlaceFailed as error:
            return f"{error}; start the server with the model, or mend escalate.url"
        return None

    def leave(self) -> None:
        """This thread's connection is closed."""
        client: KServeClient | None = getattr(self._of_thread, "client", None)
        if client is not None:
            self._of_thread.client = None
            client.close()

    def close(self) -> None:
        """Calls that are under way fail within a second. What a thread holds goes as it leaves."""
        self._closed = True

    def _client(self) -> KServeClient:
        client: KServeClient | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = KServeClient(self._at)
        return client
