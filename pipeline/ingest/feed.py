"""One source of an ingest worker: turn its decoder's events into entries, at the source's pace.

`decoder` numbers the frames of an epoch; the store (`hop.lua`) numbers the epochs.

Three positions describe a feed, and `confirmed <= each position in _unconfirmed <= _position`:

- `_confirmed`: the last position that the store acknowledged.
- `_unconfirmed`: the entries after it, in order. They stay until the store acknowledges them, so a
  commit whose reply was lost can be repeated.
- `_position`: the last entry taken from the decoder, which is that of `_unconfirmed[-1]`, if any.

At most one commit is in flight (`_is_sent`). No entry is taken while a NewEpoch waits: each entry
belongs to an epoch that the store has allocated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.drops import Drops, drop_counters
from framegate.pipeline.contracts.records import (
    START,
    VERSION,
    CapturedFrom,
    ConnectionState,
    DecodeState,
    End,
    Position,
    Record,
)
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.inbox import UNDECODED_PER_FRAME, Arrival
from framegate.pipeline.engine.stream_entries import entries_after
from framegate.pipeline.ingest.connection_report import ConnectionReport
from framegate.pipeline.ingest.decoder import DecoderThread
from framegate.pipeline.ingest.decoder_events import Decoded, Event, Lost, NewEpoch, SourceEnded
from framegate.pipeline.ingest.due_times import Pace
from framegate.pipeline.ingest.recorded_stream import RecordedSize, RecordedStreamState
from framegate.pipeline.shared_memory.masks import Masks
from framegate.pipeline.store.hop import Attached, Commit
from framegate.pipeline.system.clocks import camera_time

MAX_EVENTS = 64  # of a decoder in one turn, so that one source cannot delay the others
MAX_PARTS = MAX_EVENTS * UNDECODED_PER_FRAME
AWAY_S = 1.0  # the first interval at which the end of a lost camera's epoch is repeated
AWAY_PART = 0.1  # the next interval, as a part of the time that the camera has been away


class Feed:
    """The entries of one source between its decoder and the store; see the module. One thread."""

    def __init__(self, spec: SourceSpec, run: str, began_mono: float) -> None:
        """Follow no decoder; `restart` adds it. run, began_mono: as in WorkerSpec."""
        self.spec = spec
        self.masks = Masks(spec.masks)
        self.thread: DecoderThread | None = None
        self.token = b""
        self._run = run
        self._began_mono = began_mono
        self._position = START
        self._confirmed = START
        self._number = 0  # of the next frame
        self._undecoded = 0  # frames before it that were not decoded
        self._form: Form | None = None
        self._shown: RecordedSize | None = None
        self._open = False
        self._unconfirmed: deque[Arrival] = deque()
        self._is_sent = False  # a commit of `_unconfirmed` is in flight
        self._counts: dict[str, int] = {}
        self._pace = Pace(spec.pace)
        self._connection = ConnectionReport(spec.name)
        self._ended: End | None = None
        self._frames = 0  # of the lost epoch
        self._seen_mono: float | None = None  # the last frame's arrival, or the start of this feed
        self._next_end_mono: float | None = None  # when to repeat the end; None: not away

    def serves(self, spec: SourceSpec | None) -> bool:
        """Return whether a spec continues this feed: the source was not removed, nor added again.

        A file that is handed over and claimed again has the same `past`, but it is not ending any
        more.
        """
        if spec is None:
            return False
        is_back = self.spec.ending and not spec.ending
        return spec.past == self.spec.past and not is_back

    def follow(self, spec: SourceSpec) -> None:
        """Continue with another spec of the source. Its masks apply from the next frame on."""
        if spec.masks != self.spec.masks:
            self.masks.polygons = spec.masks
        self.spec = spec

    # -- the store's position

    def pace_after(self, state: DecodeState) -> Pace:
        """Return a pace that continues that of an earlier decoder of this process, if any."""
        shift = None
        if state.pace and state.pace[0] == self._began_mono:
            shift = state.pace[1]
        return Pace(self.spec.pace, shift)

    def attach(self, attached: Attached) -> bool:
        """Take a new token; return False if the store's position is unknown here (a rollback).

        Entries that the store has are dropped; the others are committed again. So it does not
        matter whether the last commit succeeded and only its reply was lost.
        """
        self.token = attached.token
        self._is_sent = False
        known = [self._confirmed, *(arrival.position for arrival in self._unconfirmed)]
        if self.thread is None or attached.position not in known:
            return False
        if self._unconfirmed and attached.position == self._unconfirmed[-1].position:
            self.confirm()  # the whole commit succeeded: do not add its counters a second time
        while self._unconfirmed and self._unconfirmed[0].position <= attached.position:
            self._unconfirmed.popleft()
        self._confirmed = attached.position
        return True

    def restart(self, position: Position, state: DecodeState, thread: DecoderThread | None) -> None:
        """Continue from the store's position with a new decoder (None: the source is done)."""
        self.thread = thread
        self._position = position
        self._confirmed = position
        self._number = state.number
        self._undecoded = state.undecoded
        self._open = state.open
        self._form = state.form
        self._shown = state.shown
        self._unconfirmed.clear()
        self._is_sent = False
        self._counts.clear()
        self._pace = self.pace_after(state)
        self._seen_mono = None
        self._next_end_mono = None

    def commit(self, through: Position = START) -> Commit | None:
        """Return a commit of all unconfirmed entries and the connection's new state; None: no news.

        through: frames up to this position get no entry; see DecodingRoom.passed.

        The next commit is made after `confirm` or a new token.
        """
        if not self.has_news:
            return None
        self._is_sent = True
        last = self._confirmed
        fields: list[tuple[str, bytes]] = []
        if self._unconfirmed:
            last = self._unconfirmed[-1].position
            fields.append(("s", records.encode(self._state_after(self._unconfirmed[-1].record))))
        if self._connection.unsent is not None:
            fields.append(("c", records.encode(self._connection.unsent)))
        return Commit(
            stage="decode",
            out=keys.out(self.spec.name, "decode"),
            token=self.token,
            previous=self._confirmed,
            last=last,
            entries=entries_after(through, self._unconfirmed),
            fields=tuple(fields),
            counts=tuple(self._grown().items()),
        )

    def _grown(self) -> dict[str, int]:
        counts = dict(self._counts)
        for arrival in self._unconfirmed:
            if isinstance(arrival.record, Record):
                _add(counts, {"decoded": 1, "undecoded": int(arrival.record.undecoded)})
                if arrival.record.sound is not None:
                    _add(counts, {"sound_blocks": arrival.record.sound[1]})
        return counts

    def _state_after(self, last: Record | End) -> DecodeState:
        pace = None
        if self._pace.shift is not None:
            pace = (self._began_mono, self._pace.shift)
        lasts_s = None if self.thread is None else self.thread.lasts_s
        is_open = isinstance(last, Record)
        is_done = False
        fault: str | None = None
        if isinstance(last, End):
            is_done = last.last
            fault = last.fault
        return DecodeState(
            self._run,
            self._number,
            is_open,
            is_done,
            fault,
            pace,
            lasts_s,
            self._form,
            self._shown,
            self._undecoded,
        )

    @property
    def has_news(self) -> bool:
        """Return whether `commit` has anything to send."""
        return not self._is_sent and (
            bool(self._unconfirmed) or self._connection.unsent is not None
        )

    def unconfirmed(self) -> list[Arrival]:
        """Return the entries that the store has not confirmed, oldest first."""
        return list(self._unconfirmed)

    def confirm(self) -> None:
        """Drop the unconfirmed entries: the store accepted the commit."""
        self._connection.unsent = None
        self._is_sent = False
        self._counts.clear()
        if not self._unconfirmed:
            return
        last = self._unconfirmed[-1].record
        self._confirmed = self._unconfirmed[-1].position
        self._unconfirmed.clear()
        if isinstance(last, End) and last.last:
            self._ended = last

    def take_end(self) -> End | None:
        """Return the source's last end, once, after the store has accepted it; else None.

        The reply to the commit shows that or, if it was lost, the position at the next attach.
        """
        ended, self._ended = self._ended, None
        return ended

    # -- events to entries

    def due_s(self, now: float) -> float | None:
        """Return seconds until the next event can be taken, 0 for now, None without an event."""
        event = self._first_event()
        if isinstance(event, Decoded):
            return self._pace.wait_s(event.pts, event.arrived_mono, now)
        if event is not None:
            return 0.0
        if self._next_end_mono is not None:
            return max(0.0, self._next_end_mono - now)
        return None

    def _first_event(self) -> Event | None:
        return None if self.thread is None else self.thread.first()

    @property
    def is_away(self) -> bool:
        """Return whether the source is a camera that is not connected."""
        return self._next_end_mono is not None

    def waits_for(self) -> Position | None:
        """Return the position that all reliable readers must reach before the decoder continues."""
        return None if self.thread is None else self.thread.waits_for

    @property
    def is_busy(self) -> bool:
        """Return whether entries are unconfirmed, or the decoder still works. A camera that stopped
        has events until they are taken.
        """
        if self._unconfirmed or (self.thread is not None and self.thread.busy):
            return True
        return self.spec.live and self._first_event() is not None and not self.needs_epoch()

    def needs_epoch(self) -> bool:
        """Return whether no event can be taken before `begin_epoch`."""
        event = self._first_event()
        if isinstance(event, NewEpoch) or (isinstance(event, SourceEnded) and not self._open):
            return True
        return self._never_connected  # its absence is reported in an epoch without frames

    @property
    def _never_connected(self) -> bool:
        return self.is_away and self._position.epoch == START.epoch

    @property
    def after_epoch(self) -> int | None:
        """Return the last epoch that must not be allocated to a file again; None for a camera.

        The decoder's entries may be in an epoch that the store has not seen.
        """
        return None if self.spec.live else max(self.spec.past, self._position.epoch)

    def begin_epoch(self, epoch: int) -> list[Arrival]:
        """Continue in a new epoch; return the end of the previous one if that was open.

        A camera that never connected gets an epoch without frames.
        """
        assert self.thread is not None
        ended = []
        if self._open:
            position = self._position.following
            ended = [self._append(position, End(VERSION, position.seq, last=False))]
        event = self.thread.first()
        self._open = isinstance(event, NewEpoch | SourceEnded) or not self._never_connected
        self._position = Position(epoch, -1)
        self._frames = 0
        if self._open:
            self._next_end_mono = None
        if isinstance(event, NewEpoch):
            self.thread.take()
            self.thread.begin_epoch(epoch)
        return ended

    def gather(self, now: float, wall: float, most: int = MAX_PARTS) -> list[Arrival]:
        """Take the events that are due at `now` (monotonic) and return their entries.

        most  parts of a batch (see inbox.UNDECODED_PER_FRAME) that fit; one frame is always taken
        """
        taken: list[Arrival] = []
        if self.thread is None or self.needs_epoch():
            return taken
        if self.spec.live and self._connection.state is None:
            self._connection.report(self._state_without_connection, wall)
        self._seen_mono = self._seen_mono or now
        parts = 0
        while len(taken) < MAX_EVENTS:
            event = self.thread.first()
            if isinstance(event, Decoded):
                parts += UNDECODED_PER_FRAME + len(event.undecoded)
                if taken and parts > most:
                    break
                if self.spec.live:
                    self._note_connected(wall)
                if self._pace.wait_s(event.pts, event.arrived_mono, now):
                    break
                taken += self._frames_of(event, now, wall)
            elif isinstance(event, Lost):
                taken += self._lose(event, now, wall)
            elif isinstance(event, RecordedStreamState):
                _add(self._counts, self._connection.see_recorded_stream(event, wall))
            elif isinstance(event, SourceEnded):
                taken.append(self._finish(event))
            else:
                taken += self._stay_away(now, wall)
                break
            self.thread.take()
        return taken

    def _frames_of(self, event: Decoded, now: float, wall: float) -> list[Arrival]:
        """Return the entries of a decoded frame and of the undecoded frames before it.

        They are taken in one turn, so that they are one commit: a decoder that is restarted begins
        behind a decoded frame.
        """
        self._form = event.form
        entries = []
        dropped = event.dropped
        first_seq = event.position.seq - len(event.undecoded)
        for number, frame in enumerate(event.undecoded):
            arrived = frame.arrived_mono or event.arrived_mono
            if self._pace.shift is not None and frame.pts is not None:
                # The file was read ahead; its frames are taken to arrive when they are due.
                arrived = min(now, self._pace.shift + frame.pts)
            captured, captured_from = self._captured(frame.captured, wall - (now - arrived))
            record = Record(
                v=VERSION,
                pts=frame.pts,
                captured=captured,
                arrived=arrived,
                number=event.number,
                form=event.form,
                captured_from=captured_from,
                dropped=dropped,
                shown=event.shown,
                undecoded=True,
                camera_events=frame.camera_events,
            )
            dropped = 0
            position = Position(event.position.epoch, first_seq + number)
            entries.append(self._append(position, record))
        self._number += len(event.undecoded)
        self._undecoded += len(event.undecoded)
        entries.append(self._frame(event, now, wall, dropped))
        return entries

    def _frame(self, event: Decoded, now: float, wall: float, dropped: int) -> Arrival:
        self._pace.passed(event.pts, event.arrived_mono)
        arrived = now if self.spec.pace == "realtime" else event.arrived_mono
        arrived_wall = wall - (now - arrived)
        captured, captured_from = self._captured(event.captured, arrived_wall)
        if event.captured is not None and self.spec.live:
            is_used = captured_from == "rtcp"
            self._connection.see_clock(event.captured, is_used, arrived_wall, now)
        self._number += 1
        self._shown = event.shown
        self._seen_mono = event.arrived_mono
        _add(self._counts, event.counts)
        if event.dropped:
            _add(self._counts, drop_counters(Drops(event.dropped, event.burst)))
        record = Record(
            v=VERSION,
            pts=event.pts,
            captured=captured,
            arrived=arrived,
            number=event.number,
            form=event.form,
            captured_from=captured_from,
            dropped=dropped,
            key_frame=event.key_frame,
            sound=event.sound,
            shown=event.shown,
            camera_events=event.camera_events,
        )
        return self._append(event.position, record)

    def _captured(self, stated: float | None, arrived: float) -> tuple[float, CapturedFrom]:
        """Return when a frame was captured, and the origin of this time.

        stated, arrived  UNIX seconds: by the source itself, None if it does not say; and of arrival
        """
        if stated is not None and not self.spec.live:
            return stated, "file"
        captured = camera_time(stated, arrived)
        if captured is None:
            return arrived, "arrival"
        return captured, "rtcp"

    @property
    def _state_without_connection(self) -> ConnectionState:
        return "lost" if self._number else "connecting"

    def _lose(self, event: Lost, now: float, wall: float) -> list[Arrival]:
        """Return the end of the epoch whose connection was lost; none if no epoch is open."""
        fault = f"{event.reason}: {event.fault}"
        if self._next_end_mono is None:
            self._next_end_mono = now + AWAY_S
        _add(self._counts, event.counts)
        if event.dropped:
            _add(self._counts, drop_counters(Drops(event.dropped, event.burst)))
        if not self._open:
            _add(self._counts, {"connect_failures": 1})
            self._connection.report(self._state_without_connection, wall, fault)
            return []
        _add(self._counts, {f"lost:{event.reason}": 1})
        self._connection.report("lost", wall, fault)
        self._open = False
        frames = self._position.seq + 1 + event.dropped
        self._frames = frames
        position = Position(self._position.epoch, frames)
        end = End(VERSION, frames, last=False, fault=fault, dropped=event.dropped)
        return [self._append(position, end)]

    def _stay_away(self, now: float, wall: float) -> list[Arrival]:
        """Return the end of a lost camera's epoch once more, if it is due.

        Time-based rules can then fire while the camera is offline. The interval grows, to about 100
        ends for the first day. The end of a camera that never connected is in an epoch without
        frames.
        """
        if self._next_end_mono is None or now < self._next_end_mono:
            return []
        away_s = max(now - (self._seen_mono or now), AWAY_S)
        self._next_end_mono = now + max(AWAY_S, AWAY_PART * away_s)
        position = self._position.following
        frames = self._frames
        since = 0.0
        if self._number:
            frames = frames or position.seq
        else:
            since = round(wall - away_s, 3)
        fault = self._connection.fault
        end = End(VERSION, frames, False, fault=fault, away_s=round(away_s, 3), since=since)
        return [self._append(position, end)]

    def _note_connected(self, wall: float) -> None:
        if self._connection.state != "connected":
            _add(self._counts, {"connects": 1})
            self._connection.report("connected", wall)

    def _finish(self, event: SourceEnded) -> Arrival:
        position = self._position.following
        counts = {name: n for name, n in event.counts.items() if n}
        _add(self._counts, counts)
        self._open = False
        self._next_end_mono = None
        end = End(VERSION, position.seq, last=True, counts=counts, fault=event.fault)
        return self._append(position, end)

    def _append(self, position: Position, record: Record | End) -> Arrival:
        arrival = Arrival(position, record)
        self._position = position
        self._unconfirmed.append(arrival)
        return arrival


def _add(counts: dict[str, int], growth: Mapping[str, int]) -> None:
    for name, n in growth.items():
        if n:
            counts[name] = counts.get(name, 0) + n
