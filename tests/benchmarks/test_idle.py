"""The composed day and what is read from its runs: by hand, on small days."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from msgspec import structs

from benchmarks.idle import against_full, bars
from benchmarks.idle.compare import (
    CameraDay,
    Outcome,
    Packet,
    Sample,
    common_spans,
    core_share,
    most_held,
    outcomes,
    share_equal,
    share_undecoded,
)
from benchmarks.idle.day import (
    BUSY_S,
    FPS,
    KINDS,
    SCENES,
    Event,
    Parts,
    Scene,
    Timetable,
    camera_file,
    draw,
    plan,
    write_day,
)
from benchmarks.promise.composed_parts import Thing
from framegate.models.picture import ByteArray
from framegate.pipeline.contracts.results import Object, Result
from tools.compose_footage import soft_edges

SIZE = (160, 90)
SHORT = Timetable(blocks=1, block_s=12.0, calm_s=1.0, settle_s=0.5)


def gray() -> ByteArray:
    return np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)


def parts(cameras: int) -> Parts:
    """Gray backgrounds, and a white thing of 40 by 60."""
    white = np.full((60, 40, 3), 255, np.uint8)
    return Parts([gray()] * cameras, [Thing(0, white, soft_edges(white, 0.05))])


def result(seq: int, published: float, objects: tuple[Object, ...] = ()) -> Result:
    return Result(
        v=1,
        source="camera0",
        epoch=1,
        seq=seq,
        pts=seq / FPS,
        captured=1000.0 + seq / FPS,
        captured_from="rtcp",
        published=published,
        width=SIZE[0],
        height=SIZE[1],
        outcome="detected",
        looked="whole",
        escalation="none",
        reason="changed",
        objects=objects,
        models=(),
        age_s=0.0,
        scene=0,
    )


def day_that_shows(event: Event, first: int, late_s: float) -> CameraDay:
    """Results of all frames up to the event's end, each so late; its box from frame `first` on."""
    results = []
    for seq in range(event.end):
        shown: tuple[Object, ...] = ()
        if seq >= first:
            shown = (Object(1, "person", 0, 0.9, event.box(seq, SIZE), "detected"),)
        results.append(result(seq, 1000.0 + seq / FPS + late_s, shown))
    return CameraDay.of(results, 10**6)


def test_six_cameras_show_thirty_events_of_all_kinds_each_in_its_block() -> None:
    timetable = Timetable()
    events = [plan(parts(6), camera, timetable, seed=0) for camera in range(6)]
    assert sum(map(len, events)) == 30
    for block, (start, end) in enumerate(timetable.busy_spans()):
        shown = [its_events[block] for its_events in events]
        assert {event.kind for event in shown} == set(KINDS)
        assert all(start * FPS <= event.first < event.end <= end * FPS for event in shown)
    assert all(end - start == 34 - BUSY_S - 13 for start, end in timetable.idle_spans())


def test_the_picture_differs_from_the_background_where_the_box_is_and_while_it_is_there() -> None:
    for camera in range(len(KINDS)):
        (event,) = plan(parts(6), camera, SHORT, seed=1)
        for frame, picture in enumerate(draw(gray(), [event], SHORT.frames)):
            rows, columns = np.nonzero(picture[..., 0] != 90)
            is_there = event.first <= frame < event.end
            if not is_there:
                assert not rows.size
                continue
            x1, y1, x2, y2 = event.box(frame, SIZE)
            if (x2 - x1) * (y2 - y1) > 25:  # less is lost in the soft edge
                assert rows.size, (event.kind, frame)
                edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                assert edges == pytest.approx((x1, y1, x2, y2), abs=3)


def test_a_day_without_room_for_its_events_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 block of more than 24 s, got 5 of 24 s"):
        Timetable(block_s=24.0)


def test_files_have_key_frames_at_fixed_distances_and_noise_where_asked(tmp_path: Path) -> None:
    written = [
        Scene("h264", "quality", 0.0, 1.0, 90),
        Scene("hevc", "quality", 0.0, 2.0, 90),
    ]
    noisy = Scene("h264", "quality", 3.0, 1.0, 90)
    short = replace(SHORT, calm_s=0.0)
    write_day(parts(1), written, tmp_path, short, seed=0)
    write_day(parts(1), [noisy], tmp_path, short, seed=0)
    sizes = {}
    for scene in (*written, noisy):
        with av.open(str(tmp_path / camera_file(scene, 0))) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        assert keys == list(range(0, short.frames, round(scene.gop_s * FPS)))
        sizes[scene] = sum(packet.size for packet in packets)
    assert sizes[noisy] > 3 * sizes[written[0]]


def test_each_scene_has_a_name_of_its_own() -> None:
    assert len({scene.name for scene in SCENES}) == len(SCENES)


def test_an_event_is_seen_when_the_first_result_with_its_box_is_published() -> None:
    (event,) = plan(parts(1), 0, SHORT, seed=0)
    full = day_that_shows(event, first=event.first + 2, late_s=0.1)
    held = day_that_shows(event, first=event.first + 2, late_s=1.6)
    assert full.seen_after(event) == pytest.approx(0.3)
    assert held.seen_after(event) == pytest.approx(1.8)
    never = day_that_shows(event, first=event.end, late_s=0.1)
    both = outcomes([[event], [event]], [full, full], [held, never])
    assert [one.is_missed for one in both] == [False, True]
    figures = against_full(both)
    assert figures["missed"] == 1
    assert figures["missed_kinds"] == {event.kind: 1}
    assert figures["delay_p50_s"] == figures["delay_max_s"] == pytest.approx(1.5)
    assert share_equal([[event]], [full], [held]) == 1.0
    assert share_equal([[event]], [full], [never]) == pytest.approx(2 / (event.end - event.first))


def test_only_the_first_connection_counts() -> None:
    first = [result(seq, 0.0) for seq in range(5)]
    later = [structs.replace(one, epoch=2, captured=2000.0) for one in first]
    day = CameraDay.of([*first, *later], n_frames=4)
    assert set(day.results) == {0, 1, 2, 3}
    assert day.began == pytest.approx(1000.0)


def test_cpu_is_counted_within_spans_that_all_cameras_share() -> None:
    samples = [Sample(1000.0, 10.0), Sample(1010.0, 11.0), Sample(1020.0, 21.0)]
    assert core_share(samples, [(1000.0, 1010.0)]) == pytest.approx(0.1)
    assert core_share(samples, [(1005.0, 1015.0)]) == pytest.approx(0.55)
    assert core_share(samples, [(1005.0, 1005.0)]) is None
    days = [CameraDay({}, 1000.0), CameraDay({}, 1000.5)]
    assert common_spans(days, [(2.0, 4.0)]) == [(1002.5, 1004.0)]


def test_undecoded_frames_are_counted_in_calm_and_their_bytes_by_group() -> None:
    undecoded = {1, 2, 3, 6}
    results = {seq: result(seq, 0.0) for seq in range(8)}
    for seq in undecoded:
        results[seq] = structs.replace(results[seq], reason="undecoded", looked="no")
    day = CameraDay(results, 1000.0)
    assert day.undecoded() == undecoded
    assert share_undecoded([day], [(0.0, 0.4)]) == 0.75
    packets = [Packet(100 if number % 4 == 0 else number, number % 4 == 0) for number in range(8)]
    assert most_held(packets, undecoded) == 1 + 2 + 3


def test_bars_take_the_worst_scene() -> None:
    def row(**changes: object) -> dict[str, object]:
        usual = {
            "rate": "quality",
            "noise": 3.0,
            "rows": 432,
            "idle_core": 0.005,
            "missed": 0,
            "delay_p50_s": 0.1,
            "delay_max_s": 1.2,
            "bound_s": 1.0,
        }
        return usual | changes

    scenes = [row(), row(idle_core=0.02, missed=1), row(rate="constant", missed=9)]
    verdicts = [bar.verdict for bar in bars({"scenes": scenes})]
    assert verdicts == ["MISSED", "not measured", "MISSED", "held", "held"]


def test_outcomes_without_full_decoding_have_no_delay() -> None:
    assert Outcome("walk", None, 0.2).added_s is None
    assert not Outcome("walk", None, None).is_missed
