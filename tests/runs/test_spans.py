"""Frames that are traced: what a real OTLP receiver gets from a real run."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.store.embedded import socket_path
from framegate.pipeline.telemetry.spans import FrameSample, span_id
from tests.support import footage
from tests.support.asked import workers
from tests.support.commands import Command, user_folder
from tests.support.runs import published, published_in, wait_until

pytestmark = pytest.mark.whole_run

pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")

FRAMES = 60
RATIO = 0.25
PATH = ("decode", "window", "detect", "escalate", "cache")


class Receiver:
    """An OTLP receiver. spans: those that it got, in order; headers: of the requests"""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        request = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            self.resources.append(attributes(of_resource.resource))
            for scope in of_resource.scope_spans:
                self.spans += scope.spans


def attributes(owner: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in owner.attributes
    }


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.headers.append(dict(self.headers))
            receiver.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def traced_folder(path: Path, *, apart: bool = False) -> Path:
    telemetry = f"[telemetry]\ntrace_ratio = {RATIO}\n"
    return user_folder(path, telemetry, apart=apart)


def traced_by(run: str, source: str, epoch: int) -> dict[str, int]:
    """The expected traces: id and seq of each frame that is sampled."""
    sample = FrameSample(run, RATIO)
    positions = [Position(epoch, seq) for seq in range(FRAMES)]
    return {
        f"{sample.trace_id(source, each):032x}": each.seq
        for each in positions
        if sample.has(source, each)
    }


@pytest.mark.parametrize("apart", [False, True], ids=["shard", "three workers"])
def test_each_stage_of_a_traced_frame_is_one_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    """Also after a worker was killed and its successor did some frames again."""
    footage.write_scene(tmp_path / "a.mp4", footage.steady(FRAMES))
    folder = traced_folder(tmp_path / "user", apart=apart)
    service, described = "framegate", "deployment.environment=test"
    if apart:
        service, described = "yard", "deployment.environment=test, service.name=yard"
    with receiving() as (receiver, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-site=door")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", described)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        words = ("run", str(tmp_path / "a.mp4"), "-d", "data", "--pace", "realtime")
        with Command(folder, *words) as run:
            store = f"unix://{socket_path(folder / 'data' / 'store')}"
            wait_until("it has results", lambda: len(published(store, "a").results) > 5)
            victim = "infer" if apart else "shard-1"
            wait_until("spans arrive", lambda: len(receiver.spans) > 5)
            os.kill(workers(run.process.pid)[victim], signal.SIGKILL)
            ended = run.wait()
    assert ended.code == 0, ended.err
    results = published_in(folder / "data", ["a"])["a"].results
    assert len(results) == FRAMES
    identity = json.loads((folder / "data" / "run.json").read_text(encoding="utf-8"))["run"]
    expected = traced_by(identity, "a", results[0].epoch)
    assert 0.1 * FRAMES < len(expected) < 0.4 * FRAMES
    assert {resource["service.name"] for resource in receiver.resources} == {service}
    assert {headers["x-site"] for headers in receiver.headers} == {"door"}

    by_id = {(span.trace_id.hex(), span.span_id.hex()): span for span in receiver.spans}
    traces: dict[str, dict[str, Any]] = {}
    for (trace, _), span in by_id.items():
        assert span.name not in traces.setdefault(trace, {}), "a span again, with another id"
        traces[trace][span.name] = span
    assert set(traces) <= set(expected)
    whole = [trace for trace, spans in traces.items() if set(PATH) <= set(spans)]
    # The spans that waited in the killed process, at most 50 ms of frames, are lost.
    assert len(whole) >= len(expected) - 5
    for trace in whole:
        number = int(trace, 16)
        for before, stage in zip(("", *PATH), PATH, strict=False):
            span = traces[trace][stage]
            told = attributes(span)
            assert told["framegate.source"] == "a"
            assert told["framegate.seq"] == expected[trace]
            parent = span_id(number, before).to_bytes(8) if before else b""
            assert span.parent_span_id == parent
            assert span.start_time_unix_nano <= span.end_time_unix_nano
            if stage != "decode":
                lasted_s = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                parts = told["framegate.wait_s"] + told["framegate.work_s"]
                assert lasted_s == pytest.approx(parts, abs=1e-5)
        result = results[expected[trace]]
        published_span = attributes(traces[trace]["cache"])
        assert published_span["framegate.outcome"] == result.outcome
        assert published_span["framegate.looked"] == result.looked


def test_without_a_collector_the_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    footage.write_scene(tmp_path / "a.mp4", footage.steady(FRAMES))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    folder = traced_folder(tmp_path / "user")
    with Command(folder, "run", str(tmp_path / "a.mp4"), "-d", "data") as run:
        ended = run.wait()
    assert ended.code == 0, ended.err
    assert len(published_in(folder / "data", ["a"])["a"].results) == FRAMES


def test_the_sample_is_even_and_that_of_every_process() -> None:
    first, second = FrameSample("run", 0.01), FrameSample("run", 0.01)
    taken = [seq for seq in range(100_000) if first.has("door", Position(3, seq))]
    assert 990 <= len(taken) <= 1010
    assert taken == [seq for seq in range(100_000) if second.has("door", Position(3, seq))]
    gaps = {after - before for before, after in itertools.pairwise(taken)}
    assert min(gaps) > 30
    assert max(gaps) < 300
    assert not any(FrameSample("run", 0.0).has("door", Position(1, seq)) for seq in range(1000))
    assert all(FrameSample("run", 1.0).has("door", Position(1, seq)) for seq in range(1000))
