"""A lazy source has the same frames as one that decodes all, and decodes few of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.source import Form, Request
from framegate.stages.decode import calm
from framegate.stages.decode import lazy as lazy_module
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.held_group import pixels_at
from framegate.stages.decode.lazy import lazy_decoder
from framegate.stages.decode.open_video import open_video, seconds_of
from framegate.stages.decode.options import DecodeOptions
from tests.support import footage
from tests.support.calm_rooms import write_room

Told = list[tuple[float | None, bytes | None]]


def told(path: Path, mode: str, options: DecodeOptions | None = None) -> tuple[Told, FileSource]:
    """Return the pts of each frame, and its pixels if it was decoded."""
    source = FileSource(Request(str(path), decode=mode), options or DecodeOptions(audited=0.0))
    frames: Told = []
    for frame in source.frames():
        frames += [(passed.pts, None) for passed in frame.undecoded]
        pixels = bytearray(frame.nbytes)
        frame.write(memoryview(pixels))
        frames.append((frame.pts, bytes(pixels)))
    source.close()
    return frames, source


def check_equal(lazy: Told, always: Told) -> int:
    """Check that both have the same frames; return how many were not decoded."""
    assert [pts for pts, _ in lazy] == [pts for pts, _ in always]
    undecoded = 0
    for (pts, pixels), (_, expected) in zip(lazy, always, strict=True):
        undecoded += pixels is None
        assert pixels in (None, expected), pts
    return undecoded


@pytest.mark.parametrize("kind", ["h264", "h264-b", "hevc"])
def test_a_calm_file_is_decoded_at_its_key_frames_only(tmp_path: Path, kind: str) -> None:
    # The square appears in the middle of a group, and stays for two seconds.
    clip = write_room(tmp_path / "room.mp4", kind, range(145, 165))
    always, _ = told(clip, "always")
    lazy, source = told(clip, "lazy")
    assert check_equal(lazy, always) > 20
    assert all(pixels is not None for _, pixels in lazy[140:170])  # the whole groups
    woken = [source.counts.get(f"lazy:woken:{reason}", 0) for reason in ("size", "key_frame")]
    assert sum(woken) >= 1
    assert lazy[-1][1] is not None  # nothing is given up before a key frame was compared
    again, _ = told(clip, "lazy")
    assert again == lazy


@pytest.mark.parametrize(("kind", "turn"), [("h264", 90), ("h264-b", None), ("hevc", None)])
def test_an_undecoded_frame_can_be_decoded_from_its_packets(
    tmp_path: Path, kind: str, turn: int | None
) -> None:
    clip = write_room(tmp_path / "room.mp4", kind, turn=turn)
    always, _ = told(clip, "always")
    expected = dict(always)
    request = Request(str(clip), decode="lazy", keeps_packets=True)
    source = FileSource(request, DecodeOptions(audited=0.0))
    n_frames = 0
    for frame in source.frames():
        for passed in frame.undecoded:
            n_frames += 1
            assert bytes(pixels_at(passed.packets, passed.pts, frame.form)) == expected[passed.pts]
    source.close()
    assert n_frames > 20


def test_a_group_without_the_wanted_frame_or_form_is_a_lost_frame(tmp_path: Path) -> None:
    clip = write_room(tmp_path / "room.mp4", "h264")
    request = Request(str(clip), decode="lazy", keeps_packets=True)
    source = FileSource(request, DecodeOptions(audited=0.0))
    frame = next(frame for frame in source.frames() if frame.undecoded)
    first = frame.undecoded[0]
    for pts, form in ((-1.0, frame.form), (first.pts, Form(64, 48))):
        with pytest.raises(FrameLost) as lost:
            pixels_at(first.packets, pts, form)
        assert lost.value.final
    source.close()


@pytest.mark.parametrize("kind", ["h264-open", "mpeg4"])
def test_a_source_without_closed_groups_is_always_decoded(tmp_path: Path, kind: str) -> None:
    clip = write_room(tmp_path / "room.mp4", kind)
    always, _ = told(clip, "always")
    lazy, source = told(clip, "lazy")
    assert lazy == always or check_equal(lazy, always) == 0
    assert not any(name.startswith("lazy:") for name in source.counts)


def test_groups_longer_than_the_bound_are_always_decoded(tmp_path: Path) -> None:
    clip = write_room(tmp_path / "room.mp4", "h264")
    lazy, _ = told(clip, "lazy", DecodeOptions(hold_s=0.5))
    assert all(pixels is not None for _, pixels in lazy)


def test_no_facts_are_gathered_of_a_group_that_may_not_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A camera with one key frame would gather them until it is restarted.
    n_facts: list[int] = []
    with_packet = calm.with_packet

    def counted(*given: Any) -> calm.PictureGroup:
        group = with_packet(*given)
        n_facts.append(len(group.sizes))
        return group

    monkeypatch.setattr(calm, "with_packet", counted)
    told(write_room(tmp_path / "room.mp4", "h264"), "lazy", DecodeOptions(hold_s=0.35))
    assert max(n_facts) == 4  # 10 frames per second


def test_the_audit_decodes_the_groups_that_the_coin_draws(tmp_path: Path) -> None:
    clip = write_room(tmp_path / "room.mp4", "h264")
    lazy, source = told(clip, "lazy", DecodeOptions(audited=1.0))
    assert all(pixels is not None for _, pixels in lazy)
    assert source.counts["lazy:audited"] >= 3
    assert source.counts.get("lazy:missed", 0) == 0


def test_an_audit_shows_what_came_and_went_in_a_held_group(tmp_path: Path) -> None:
    """Where the sizes of packets vary by more than a square adds, only decoding shows it."""
    came = range(134, 136)
    for grain, n_missed in ((0, 0), (12, 1)):
        clip = write_room(tmp_path / f"room-{grain}.mp4", "h264", came, grain=grain)
        _, source = told(clip, "lazy", DecodeOptions(audited=1.0))
        assert source.counts.get("lazy:missed", 0) == n_missed
        lazy, source = told(clip, "lazy")
        assert source.counts.get("lazy:audited", 0) == 0
        is_seen = all(pixels is not None for _, pixels in lazy[came.start : came.stop])
        assert is_seen is (n_missed == 0)


@pytest.mark.parametrize("kind", ["h264", "h264-b"])
@pytest.mark.parametrize("number", [135, 140, 141])  # a held packet, a key frame, the one after it
def test_a_damaged_packet_costs_no_other_frame(tmp_path: Path, kind: str, number: int) -> None:
    clip = write_room(tmp_path / "room.mp4", kind)
    spoiled = footage.spoil(clip, tmp_path / "spoiled.mp4", [number])
    lazy, _ = told(spoiled, "lazy")
    always, _ = told(spoiled, "always")
    times = [pts for pts, _ in lazy]
    assert len(times) == len(set(times))
    assert set(times) >= {pts for pts, _ in always}
    assert sum(pixels is None for _, pixels in lazy) > 20


@pytest.mark.parametrize("share", [0.97, 0.9])
def test_a_cut_file_ends_with_all_its_frames(tmp_path: Path, share: float) -> None:
    whole = write_room(tmp_path / "room.ts", "h264")
    clip = footage.cut(whole, tmp_path / "cut.ts", share)
    always, _ = told(clip, "always")
    lazy, _ = told(clip, "lazy")
    assert check_equal(lazy, always) > 20


def test_held_packets_are_decoded_before_a_silent_connection_counts_as_stalled(
    tmp_path: Path,
) -> None:
    clip = write_room(tmp_path / "room.mp4", "h264")
    request, options = Request(str(clip), decode="lazy", stall_s=2.0), DecodeOptions(audited=0.0)
    opened = open_video(request, options)
    lazy = lazy_decoder(request, options, opened, opened.decode)
    assert lazy is not None
    for packet in opened.packets():
        arrived = seconds_of(packet) or 0.0
        due = list(lazy.pictures(packet, arrived))
        if lazy.n_held:
            break
    assert due == []
    assert list(lazy.overdue(arrived + 0.7)) == []
    [late] = lazy.overdue(arrived + 0.9)
    assert late.frame.time == arrived
    opened.close()


@pytest.mark.parametrize("kind", ["h264", "h264-b", "hevc"])
def test_a_held_packet_is_pending_until_its_frame_is_taken(tmp_path: Path, kind: str) -> None:
    """A source that is stopped ends once none is pending."""
    clip = write_room(tmp_path / "room.mp4", kind, range(145, 165))
    request, options = Request(str(clip), decode="lazy"), DecodeOptions(audited=0.0)
    opened = open_video(request, options)
    lazy = lazy_decoder(request, options, opened, opened.decode)
    assert lazy is not None
    owed: set[float | None] = set()
    n_owed = 0
    for packet in opened.packets():
        n_held = lazy.n_held
        taken: set[float | None] = set()
        for due in lazy.pictures(packet, 0.0):
            assert lazy.n_pending > 0 or not owed
            taken |= {due.frame.time, *(frame.pts for frame in due.undecoded)}
            owed -= taken
        if lazy.n_held > n_held:
            owed |= {seconds_of(packet)} - taken
        n_owed = max(n_owed, len(owed))
        assert lazy.n_pending > 0 or not owed
    opened.close()
    assert n_owed > 5
    assert (owed, lazy.n_pending) == (set(), 0)


def test_a_request_wakes_a_calm_source_until_the_key_frame_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_room(tmp_path / "room.mp4", "h264")  # 10 frames per second, a key frame per second
    request, options = Request(str(clip), decode="lazy"), DecodeOptions(audited=0.0)
    opened = open_video(request, options)
    lazy = lazy_decoder(request, options, opened, opened.decode)
    assert lazy is not None
    now = 0.0
    monkeypatch.setattr(lazy_module, "time", SimpleNamespace(monotonic=lambda: now))
    asked_s = 12.3
    held_s: list[float] = []
    for packet in opened.packets():
        now = seconds_of(packet) or now
        n_held = lazy.n_held
        due = list(lazy.pictures(packet, now))
        if lazy.n_held > n_held and not due:
            held_s.append(now)
        if now == pytest.approx(asked_s):
            lazy.ask()
    opened.close()
    assert any(at < asked_s for at in held_s)
    # It lasts until 13.8 s, so packets are held again from the key frame at 14 s on.
    assert min(at for at in held_s if at > asked_s) == pytest.approx(14.1)
    assert lazy.counts["lazy:woken:asked"] == 1


@pytest.mark.parametrize("turn", [None, 90])
def test_what_changes_in_an_unwatched_area_does_not_wake(tmp_path: Path, turn: int | None) -> None:
    # A square that is elsewhere at each key frame, as the digits of a clock are.
    clip = write_room(tmp_path / "clock.mp4", "h264", range(180), turn=turn)
    area = ((0.0, 16.0), (128.0, 16.0), (128.0, 80.0), (0.0, 80.0))
    if turn:  # rows of the room are columns of the upright picture
        area = ((16.0, 0.0), (80.0, 0.0), (80.0, 128.0), (16.0, 128.0))
    for unwatched, is_calm in (((), False), ((area,), True)):
        request = Request(str(clip), decode="lazy", unwatched=unwatched)
        source = FileSource(request, DecodeOptions(audited=0.0))
        undecoded = sum(len(frame.undecoded) for frame in source.frames())
        source.close()
        assert (undecoded > 20) == is_calm
