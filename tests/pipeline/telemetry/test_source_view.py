"""What watch and the progress table say, from samples made by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group

from framegate.cli.control import sources
from framegate.cli.control.sources import accounts
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.records import VERSION, Connection, End
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.run.folder import RunSource
from framegate.pipeline.run.progress import changed
from framegate.pipeline.run.rpc import SourceList
from framegate.pipeline.telemetry.histograms import BOUNDS_S, PREFIX, bucket, percentile
from framegate.pipeline.telemetry.source_lines import as_line, in_sum
from framegate.pipeline.telemetry.source_table import as_table, rate
from framegate.pipeline.telemetry.source_view import Sample, Viewer, view
from tests.support.published import result
from tests.support.servers import server


def sample(
    at_s: float,
    counters: Mapping[str, int],
    results: tuple[Result, ...] = (),
    end: End | None = None,
    started: bool = True,
) -> Sample:
    return Sample(at_s, counters, results, end, started)


def seen(*labels: str) -> Result:
    objects = tuple(
        Object(track=None, label=label, class_id=0, score=0.5, box=(0, 0, 1, 1), origin="detected")
        for label in labels
    )
    return replace_objects(result("door", 1, 0), objects)


def replace_objects(whole: Result, objects: tuple[Object, ...]) -> Result:
    fields = {name: getattr(whole, name) for name in whole.__struct_fields__}
    return Result(**{**fields, "objects": objects})


@pytest.mark.parametrize("seconds", [0.0006, 0.004, 0.033, 0.5, 2.0, 60.0])
def test_a_percentile_is_right_within_its_bucket(seconds: float) -> None:
    for share in (0.01, 0.5, 0.99):
        assert percentile({bucket(seconds): 7}, share) == pytest.approx(seconds, rel=0.25)


def test_percentiles_inside_one_bucket_are_not_all_the_same() -> None:
    """As Prometheus reads them: a bucket's frames lie evenly in it."""
    index = 30
    low, high = BOUNDS_S[index - 1], BOUNDS_S[index]
    counters = {f"{PREFIX}{index}": 100, f"{PREFIX}{index - 5}": 100}
    for share, part in ((0.75, 0.5), (0.95, 0.9), (0.99, 0.98), (1.0, 1.0)):
        assert percentile(counters, share) == pytest.approx(low + part * (high - low))


def test_percentiles_of_a_known_distribution() -> None:
    counters: dict[str, int] = {"published": 100}
    for seconds, frames in ((0.010, 50), (0.020, 45), (0.100, 4), (1.000, 1)):
        counters[bucket(seconds)] = frames
    wanted = {0.50: 0.010, 0.51: 0.020, 0.95: 0.020, 0.96: 0.100, 0.99: 0.100, 0.995: 1.000}
    for share, seconds in wanted.items():
        assert percentile(counters, share) == pytest.approx(seconds, rel=0.25)


def test_no_latency_without_frames_and_the_longest_in_the_last_bucket() -> None:
    assert percentile({"published": 0}, 0.5) is None
    last = percentile({bucket(1e9): 1}, 0.99)
    assert last == pytest.approx(BOUNDS_S[-1], rel=0.25)


def test_a_view_is_of_the_time_between_two_samples() -> None:
    slow, fast = bucket(1.0), bucket(0.010)
    before = sample(10.0, {"decoded": 30, "published": 20, slow: 20, "looked:whole:first": 20})
    looks = {"looked:whole:first": 20, "looked:part:changed": 10, "looked:no:unchanged": 40}
    now = sample(
        12.0,
        {
            "decoded": 80,
            "published": 70,
            "failed": 2,
            "dropped:late": 3,
            slow: 20,
            fast: 50,
            **looks,
        },
        (seen("person", "person", "dog"), seen("person")),
    )
    found = view("door", before, now)
    assert (found.decoded, found.published, found.failed, found.dropped) == (80, 70, 2, 3)
    assert found.fps == pytest.approx(25.0)
    assert found.p99_s == pytest.approx(0.010, rel=0.25)
    assert found.objects == {"person": 1.5, "dog": 0.5}
    assert found.looked == pytest.approx(0.2)
    assert found.looks == {"whole": {"first": 20}, "part": {"changed": 10}, "no": {"unchanged": 40}}
    assert "25.0 fps, 20% looked at, p50" in as_line(found)


def test_without_new_frames_the_latency_is_that_of_all() -> None:
    counters = {"published": 20, bucket(1.0): 20}
    found = view("door", sample(1.0, counters), sample(62.0, counters))
    assert found.fps == 0.0
    assert found.p50_s == pytest.approx(1.0, rel=0.25)


def test_no_rate_is_told_where_the_time_is_too_short_for_one() -> None:
    """A source that runs is never said to stand still after one look, or a moment."""
    counters = {"published": 20}
    for before in (None, sample(1.9, {"published": 10}), sample(1.0, counters)):
        found = view("door", before, sample(2.0, counters))
        assert found.fps is None
        assert "fps" not in as_line(found)
        assert rate(found.fps) == "-"
    ended = End(VERSION, frames=20, last=True)
    assert view("door", sample(1.0, counters), sample(2.0, counters, end=ended)).fps == 0.0


def test_who_looks_often_sees_a_slow_source_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One frame in eight seconds, looked at each second, as two pages do: about .12 a second."""
    with server(tmp_path / "store") as store, redis.Redis.from_url(store.url) as client:
        viewer = Viewer(store.url)
        client.hset(keys.at("door", "decode"), "p", "1-0")
        client.hset(keys.own("door"), mapping={"run": "r", "name": "r"})
        told = []
        for second in range(40):
            monkeypatch.setattr(time, "monotonic", lambda at=second: 1000.0 + at)
            client.hset(keys.count("door"), mapping={"published": 1 + second // 8})
            told += [found.fps for _ in range(2) for found in viewer.look(["door"])]
        monkeypatch.undo()
        viewer.close()
    assert told[0] is None
    assert all(fps is None or 0.05 < fps < 0.3 for fps in told), told
    assert all(told[30:]), told


def test_a_run_in_one_line() -> None:
    one = view("a", sample(1.0, {}), sample(11.0, {"published": 250, "dropped:late": 3}))
    two = replace(one, source="b", state="lost", escalations={"late": 4, "done": 9}, p99_s=0.25)
    assert in_sum([one, two]) == (
        "2 sources: 1 running, 1 lost; 500 frames, 50.0 fps, p99 up to 250 ms, 6 dropped (6 late), "
        "4 degraded (4 late), 0 failed"
    )


def test_a_log_says_what_changed_and_only_that() -> None:
    one = view("a", None, sample(1.0, {}))
    away = replace(one, state="connecting")
    refused = replace(away, fault="connection refused")
    said: dict[str, tuple[str, bool]] = {}
    seen = [changed([v], said) for v in (one, one, away, refused, refused, away, one, one)]
    assert [len(news) for news in seen] == [1, 0, 1, 1, 0, 1, 1, 0]
    assert changed([], said) == []
    assert changed([one], said) == [one]


@pytest.mark.parametrize(
    ("end", "started", "state"),
    [
        (None, False, "waiting"),
        (None, True, "running"),
        (End(VERSION, frames=1, last=False), True, "running"),
        (End(VERSION, frames=1, last=True), True, "finished"),
        (End(VERSION, frames=1, last=True, fault="truncated"), True, "failed"),
    ],
)
def test_states(end: End | None, started: bool, state: str) -> None:
    assert view("door", None, sample(1.0, {}, end=end, started=started)).state == state


CONNECTING = Connection(VERSION, "connecting", 5.0, "unreachable: no route")
CONNECTED = Connection(VERSION, "connected", 6.0)
LOST = Connection(VERSION, "lost", 7.0, "stalled: no frame for 5.0 s")
OVER = End(VERSION, frames=1, last=True)


@pytest.mark.parametrize(
    ("connection", "end", "more", "expected"),
    [
        (CONNECTING, None, {"started": False}, ("connecting", 5.0, "unreachable: no route")),
        (CONNECTED, None, {}, ("running", 6.0, None)),
        (LOST, None, {}, ("lost", 7.0, "stalled: no frame for 5.0 s")),
        (LOST, End(VERSION, frames=1, last=False), {}, ("lost", 7.0, LOST.fault)),
        (LOST, OVER, {}, ("finished", None, None)),
        (LOST, OVER, {"owned": False, "removed": True}, ("removed", None, None)),
        (CONNECTING, OVER, {"done": False}, ("connecting", 5.0, "unreachable: no route")),
        (CONNECTED, None, {"owned": False}, ("stopped", 6.0, None)),
    ],
)
def test_states_of_cameras(
    connection: Connection,
    end: End | None,
    more: dict[str, bool],
    expected: tuple[str, float | None, str | None],
) -> None:
    """An end of an earlier life is none of a camera that was added again."""
    now = replace(sample(1.0, {}, end=end), connection=connection, **more)
    found = view("door", None, now)
    assert (found.state, found.since, found.fault) == expected


@given(
    drops=st.dictionaries(st.sampled_from(["replaced", "late"]), st.integers(0, 50)),
    published=st.integers(0, 50),
    in_flight=st.integers(0, 50),
    connects=st.integers(0, 5),
)
def test_each_frame_is_somewhere(
    drops: dict[str, int], published: int, in_flight: int, connects: int
) -> None:
    dropped = {f"dropped:{reason}": n for reason, n in drops.items()}
    decoded = sum(drops.values()) + published + in_flight
    counters = {"decoded": decoded, "published": published, "connects": connects, **dropped}
    found = view("door", None, sample(1.0, counters))
    assert (found.in_flight, found.drops, found.dropped) == (in_flight, drops, sum(drops.values()))
    assert found.reconnects == max(0, connects - 1)
    assert accounts([found, found]) == (
        f"{2 * decoded} decoded = {2 * published} published + {2 * found.dropped} dropped + "
        f"{2 * in_flight} in flight"
    )


def test_a_line_and_a_table_of_the_same_view() -> None:
    counters = {"published": 50, bucket(0.010): 50}
    found = view("door", sample(0.0, {}), sample(2.0, counters, (seen("person"),)))
    assert as_line(replace(found, p50_s=0.0104, p99_s=0.0104)) == (
        "door: running, 50 frames, 25.0 fps, p50 10 ms, p99 10 ms, 0 dropped, 0 failed; "
        "a frame: person 1.0"
    )
    assert "door" in text_of(as_table([found]))


def test_a_line_says_how_many_frames_nobody_answered_about() -> None:
    counters = {"published": 50, "escalated:done": 3, "escalated:late": 0}
    found = view("door", sample(0.0, {}), sample(2.0, counters))
    assert "degraded" not in as_line(found)
    counters |= {"escalated:unanswered": 7, "escalated:breaker_open": 33}
    found = view("door", sample(0.0, {}), sample(2.0, counters))
    words = ", 0 dropped, 40 degraded (33 breaker_open, 7 unanswered), 0 failed; "
    assert words in as_line(found)


def test_a_fault_is_no_markup_of_the_table() -> None:
    found = view("door", None, sample(0.0, {}, end=End(VERSION, 0, last=True, fault="no [/gate]")))
    assert "no [/gate]" in text_of(as_table([found]))


def text_of(shown: Group, width: int = 200) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(shown)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("fault", [None, "unreachable: rtsp://10.0.0.7/***: no route to host"])
def test_a_table_cuts_no_word_in_a_narrow_terminal(width: int, fault: str | None) -> None:
    """What is most wanted stays; what has no room is not there, rather than "fra…"."""
    counters = {"decoded": 123456, "published": 123456, bucket(0.25): 50}
    one = view("entrance", sample(0.0, {}), sample(2.0, counters, (seen("person"),)))
    away = replace(one, source="a" * 32, state="connecting", fault=fault)
    said = text_of(as_table([one, away], width), width)
    assert "…" not in said
    for name in ("source", "state", "frames", "fps", "objects a frame"):
        assert name in said, said
    for cell in ("entrance", "a" * 32, "running", "connecting", "123456", "person 1.0"):
        assert cell in said, said
    assert ("p95 ms" in said) == (width == 200)
    assert ("p99 ms" in said) == (width > 80)
    assert (fault or "").partition(": no")[0] in said


def test_no_line_takes_more_of_a_terminal_than_it_may() -> None:
    """A Ctrl-C is shown behind the last line; if that wrapped, the next table would be drawn a line
    too low, and the head of this one would stay.
    """
    one = view("door", sample(0.0, {}), sample(2.0, {"decoded": 50, "published": 50}))
    away = replace(one, state="connecting", fault="unreachable " * 20)
    lines = text_of(as_table([one, away], 76), 80).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 76
    assert " ".join(lines).count("unreachable") == 20


def test_columns_of_which_nothing_is_to_be_said_are_not_there() -> None:
    """Zeros of failed frames, latencies of a file at full speed, shares of what was not asked."""
    counters = {"decoded": 60, "published": 50, bucket(0.25): 50}
    now = replace(sample(2.0, counters), hurried=True)
    said = text_of(as_table([view("a", sample(0.0, {}), now)]))
    assert said.split("─")[0].split() == [
        *("source", "state", "frames", "fps", "dropped", "objects", "a", "frame")
    ]
    counters |= {"failed": 1, "looked:whole:first": 50}
    said = text_of(as_table([view("a", sample(0.0, {}), sample(2.0, counters))]))
    for name in ("failed", "looked", "p50 ms", "p99 ms"):
        assert name in said


def test_how_far_a_file_is_and_how_long_it_will_take() -> None:
    """A minute of video, a third of which came in two seconds after a sixth of it."""
    at = [result("door", 1, seq) for seq in (0, 1)]
    early, late = (
        Result(**{**{n: getattr(one, n) for n in one.__struct_fields__}, "pts": pts})
        for one, pts in zip(at, (10.0, 30.0), strict=True)
    )
    before = replace(sample(0.0, {"published": 100}, (early,)), lasts_s=60.0)
    now = replace(sample(2.0, {"published": 300}, (late, early)), lasts_s=60.0)
    found = view("door", before, now)
    assert (found.done, found.left_s) == (0.5, pytest.approx(3.0))
    assert "50%, 3.0 s" in text_of(as_table([found]))
    assert in_sum([found]).endswith("; files end in about 3.0 s")
    assert view("door", None, now).left_s is None
    camera = view("door", before, replace(now, lasts_s=None))
    assert (camera.done, camera.left_s) == (None, None)
    assert "done" not in text_of(as_table([camera]))


def test_where_lines_are_short_sources_in_trouble_come_first_and_the_rest_is_counted() -> None:
    one = view("a", sample(0.0, {}), sample(2.0, {"published": 50}))
    many = [replace(one, source=f"cam{n}") for n in range(30)]
    many[25] = replace(many[25], state="lost", fault="stalled")
    lines = text_of(as_table(many, 80, 23), 80).splitlines()
    assert len(lines) == 23
    assert lines[2].startswith("cam25 ")
    assert lines[3].startswith("cam0 ")
    assert lines[-2:] == ["cam25: stalled", "and 11 more"]
    assert len(text_of(as_table(many, 80, 40), 80).splitlines()) == 33


@pytest.mark.parametrize("width", [80, 200])
def test_sources_are_listed_whole_in_a_narrow_terminal(width: int) -> None:
    place = "rtsp://127.0.0.1:9/***"
    fault = f"unreachable: {place}: it cannot be reached (ConnectionRefusedError)"
    counters = {"decoded": 123456, "published": 123440, "failed": 7, "dropped:replaced": 12}
    one = view("entrance", sample(0.0, {}), sample(2.0, counters))
    views = [one, replace(one, source="gate", state="connecting", fault=fault)]
    cameras = [RunSource("rtsp://u:p@127.0.0.1:9/gate", name=v.source, live=True) for v in views]
    said = text_of(sources.as_table(SourceList(cameras), views, width), width)
    assert "…" not in said
    for word in ("source", "state", "fps", "decoded", "published", "dropped"):
        assert word in said, said
    for word in ("entrance", place, "connecting", "123456", "7 failed", "12 replaced"):
        assert word in said, said
    assert ("reconnects" in said) == (width == 200)


def test_a_camera_s_wrong_clock_is_told_where_sources_are_listed() -> None:
    wrong = Connection(VERSION, "connected", 6.0, None, -20_605 * 86_400.0)
    one = view("gate", None, replace(sample(1.0, {}), connection=wrong))
    assert one.clock_off_s == wrong.clock_off_s
    listed = RunSource("rtsp://cam", name="gate", live=True)
    for table in (as_table([one], 200, 24), sources.as_table(SourceList([listed]), [one], 200)):
        assert "20,605 days behind this host's" in text_of(table, 200)
    assert sources.as_json(listed, one, "running")["clock_off_s"] == wrong.clock_off_s


def test_a_recorded_stream_that_is_away_is_told_where_sources_are_listed() -> None:
    away = Connection(VERSION, "connected", 6.0, url_fault="closed: the camera ended the stream")
    one = view("gate", None, replace(sample(1.0, {}), connection=away))
    listed = RunSource("rtsp://cam", name="gate", live=True)
    for table in (as_table([one], 200, 24), sources.as_table(SourceList([listed]), [one], 200)):
        assert "the stream of url is away" in text_of(table, 200)
    assert sources.as_json(listed, one, "running")["url_fault"] == away.url_fault


def test_only_latency_counters_are_latencies() -> None:
    assert bucket(0.010).startswith(PREFIX)
    assert percentile({"decoded": 5, "dropped:late": 4}, 0.5) is None
