"""A camera through the whole pipeline, its heavy pass behind the link of `benchmarks.link`.

    python -m benchmarks.link.pipeline PORT

is what tells, on the near side, how the run's questions stand: a JSON object twice a second, from
the metrics that the run serves on that port of loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun
from benchmarks.harness.live_cameras import ClipCameras, make_cameras
from benchmarks.harness.report import percentile
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.promise.certificate import read_certificate, verify
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.links import Link
from tests.support.own_servers import free_port
from tests.support.runs import Published, environment, published
from tests.support.shaping import Shape

SOURCE = "camera"
HEIGHT = 360
RAW = 640 * HEIGHT * 3 // 2  # bytes of a frame
PERIOD = 100  # frames of a period of the promise, of 10 a second
READY_S = 120.0
_LOOK_S = 0.5
_TOLD = {
    "framegate_heavy_answers_total": "answers",
    "framegate_heavy_sent_bytes_total": "sent_bytes",
    "framegate_heavy_wire_seconds_total": "wire_s",
}
Phase = tuple[str, Shape, float]


@dataclass
class Standing:
    """How the run's questions stand, as its metrics tell: rows with `at`, in UNIX seconds."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def last(self, what: str) -> float:
        """The newest value; 0 while there is none."""
        return float(self.rows[-1].get(what, 0.0)) if self.rows else 0.0

    def breakers(self, begin: float, end: float) -> list[str]:
        """States in this span, each once in a row."""
        states = [row["breaker"] for row in self.rows if begin <= row["at"] < end]
        return [one for n, one in enumerate(states) if not n or states[n - 1] != one]


def run_behind(
    between: Link, place: str, url: str, clip: Path, folder: Path, phases: Sequence[Phase]
) -> dict[str, Any]:
    """A row for each phase, and one for all; the place answers at `url` on the near side."""
    make_cameras(clip, folder, 1)
    port = free_port()
    with ClipCameras(folder, between.near) as cameras:
        config = _config(cameras.urls(1, HEIGHT)[0], place, url)
        with EngineRun(config, [SOURCE], ("--http", f"127.0.0.1:{port}"), between.near) as run:
            run.wait_for(1)
            with _standing(between, port) as standing:
                _wait_for_answers(standing, run)
                begins = []
                for _, shape, seconds in phases:
                    begins.append(time.time())
                    between.take(shape)
                    time.sleep(seconds)
                begins.append(time.time())
            run.drain()
            between.take(Shape())
            found, counters = _kept(run.data)
            rows = _rows(found.results, standing, begins, [name for name, _, _ in phases])
            kept = _certificates(run.data)
            all_of_it = {
                **_accounts(found, counters),
                **_bytes(standing),
                **_breaker(standing, begins),
                "certificates_hold": not any(row["faults"] for row in kept),
                "certificates": kept,
            }
            return {**rows, "all": all_of_it}


def _config(camera: str, place: str, url: str) -> str:
    """As it ships, with a promise over short periods: audits ask in every phase. Without the exact
    cache, because the camera plays its clip over.
    """
    # So short a period shows no smaller share than a half.
    promise = {"measure": "counts", "audited": 0.1, "frames": PERIOD, "alpha": 0.5}
    return configuration.packaged({
        **configuration.NO_EXACT_CACHE,
        "escalate": {"place": place, "url": url},
        "promise": promise,
        f"sources.{SOURCE}": {"url": camera},
    })  # fmt: skip


@contextmanager
def _standing(between: Link, port: int) -> Iterator[Standing]:
    """What is told on the near side, for as long as the block lasts."""
    command = [*between.near, sys.executable, "-m", "benchmarks.link.pipeline", str(port)]
    teller = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    standing = Standing()

    def listen() -> None:
        assert teller.stdout is not None
        for line in teller.stdout:
            standing.rows.append(json.loads(line))

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield standing
    finally:
        teller.kill()
        teller.wait()
        listener.join()


def _wait_for_answers(standing: Standing, run: EngineRun) -> None:
    until = time.monotonic() + READY_S
    while not standing.last("answers"):
        if time.monotonic() > until:
            raise RuntimeError(f"the heavy pass does not answer: {run.last_words()}")
        time.sleep(_LOOK_S)


def _kept(data: Path) -> tuple[Published, dict[str, int]]:
    """What the run has published and counted."""
    embedded = EmbeddedStore(data / "store", "everysec")
    embedded.start()
    try:
        store = StoreAdmin(embedded.url)
        counters = store.counters(SOURCE)
        store.close()
        return published(embedded.url, SOURCE), counters
    finally:
        embedded.stop()


def _rows(
    results: Sequence[Result], standing: Standing, begins: Sequence[float], names: Sequence[str]
) -> dict[str, Any]:
    rows = {}
    for name, (begin, end) in zip(names, itertools.pairwise(begins), strict=True):
        mine = [result for result in results if begin <= result.captured < end]
        done = [result for result in mine if result.escalation == "done"]
        degraded = Counter(r.degraded for r in mine if r.escalation == "degraded")
        rows[name] = {
            "frames": len(mine),
            **_response("response", mine),
            "escalated": len(done),
            **_response("escalated", done),
            "degraded": {str(why): n for why, n in degraded.items()},
            "breaker": standing.breakers(begin, end),
        }
    return rows


def _response(what: str, results: Sequence[Result]) -> dict[str, float | None]:
    """From a frame's capture, by the camera's clock, to its publication; None where there was no
    such frame.
    """
    spent = [1000 * (result.published - result.captured) for result in results]
    return {
        f"{what}_mean_ms": round(statistics.mean(spent), 1) if spent else None,
        f"{what}_p99_ms": round(percentile(spent, 0.99), 1) if spent else None,
    }


def _accounts(found: Published, counters: dict[str, int]) -> dict[str, Any]:
    """Law 4: every frame that was decoded is published, or dropped for a reason that is counted."""
    dropped = {n.partition(":")[2]: k for n, k in counters.items() if n.startswith("dropped:")}
    decoded, n_published = counters.get("decoded", 0), counters.get("published", 0)
    return {
        "decoded": decoded,
        "published": n_published,
        "dropped": dropped,
        "lost": decoded - n_published - sum(dropped.values()),
        "published_twice": _published_twice(found.results),
        "failed": sum(result.outcome == "failed" for result in found.results),
    }


def _published_twice(results: Sequence[Result]) -> int:
    """Return how many results have the frame of an earlier one."""
    frames = [(result.epoch, result.pts) for result in results if result.pts is not None]
    return len(frames) - len(set(frames))


def _bytes(standing: Standing) -> dict[str, Any]:
    """Escalations are JPEGs; audits are of exact pixels, so both together are more than a JPEG."""
    answers = max(1.0, standing.last("answers"))
    sent = max(1.0, standing.last("sent_bytes"))
    return {
        "answers": int(answers),
        "bytes_an_answer_audits_included": round(sent / answers),
        "times_fewer_than_raw_audits_included": round(RAW * answers / sent, 1),
        "wire_ms": round(1000 * standing.last("wire_s") / answers, 1),
    }


def _breaker(standing: Standing, begins: Sequence[float]) -> dict[str, bool]:
    """Return whether it opened at all, and was closed at the end."""
    states = standing.breakers(begins[0], begins[-1])
    return {"breaker_opened": "open" in states, "breaker_closed": states[-1:] == ["closed"]}


def _certificates(data: Path) -> list[dict[str, Any]]:
    """Each with what is wrong with it: nothing, where it says what follows from its audits."""
    rows = []
    for path in sorted((data / "certificates").glob("*[0-9].json")):
        found = read_certificate(path.read_bytes())
        row = {"period": found.period, "verdict": found.verdict, "faults": verify(found)}
        for what in ("served", "drawn", "settled", "caught", "lost", "k_max"):
            row[what] = getattr(found, what)
        rows.append(row)
    return rows


def _tell(port: int) -> None:
    """Until it is killed."""
    metrics = f"http://127.0.0.1:{port}/metrics"
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(metrics, timeout=5) as page:
            print(json.dumps(_standing_in(page.read().decode())), flush=True)
        time.sleep(_LOOK_S)


def _standing_in(text: str) -> dict[str, Any]:
    row: dict[str, Any] = {"at": time.time(), "breaker": "closed"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("stage") != "escalate":
                continue
            if sample.name in _TOLD:
                row[_TOLD[sample.name]] = sample.value
            elif sample.name == "framegate_heavy_breaker" and sample.value:
                row["breaker"] = sample.labels["framegate_heavy_breaker"]
    return row


if __name__ == "__main__":
    _tell(int(sys.argv[1]))
