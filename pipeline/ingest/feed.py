"""One source of an ingest worker: its decoder's events become entries, at the source's pace."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping

import msgspec

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import (
    BURST,
    REPLACED,
    START,
    VERSION,
    Connection,
    ConnectionState,
    DecodeState,
    End,
    Position,
    Record,
)
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.runner import entries_after
from framegate.pipeline.ingest.decoder import Decoded, DecoderThread, Lost, NewEpoch, SourceEnded
from framegate.pipeline.store.hop import Attached, Commit
from framegate.pipeline.system.clocks import camera_ahead_s, camera_time, clock_in_words

log = logging.getLogger(__name__)

MOST = 64  # events of a decoder that are taken in one turn
SLACK_S = 0.001
AWAY_S = 1.0  # after which the end of a lost camera's epoch is said again, at first
AWAY_PART = 0.1  # of the time that it was away: so much later the next time
WARN_AGAIN_S = 60.0  # least, from one warning of a camera's clock to the next


class Feed:
    """Follows one decoder; its own position runs ahead of the store's by what is held.

    What it takes from the decoder it holds until the store has confirmed it, so that a commit whose
    reply was lost can be made again. One thread.
    """

    def __init__(self, spec: SourceSpec, run: str, began_mono: float) -> None:
        """run, began_mono: as of WorkerSpec."""
        self.spec = spec
        self.thread: DecoderThread | None = None
        self.token = b""
        self._run, self._began_mono = run, began_mono
        self._position = self._confirmed = START
        self._number = 0
        self._form: Form | None = None
        self._open = False
        self._held: deque[Arrival] = deque()
        self._is_sent = False  # what is held: the store's answer is not here yet
        self._counts: dict[str, int] = {}
        self._pace = Pace(spec.pace)
        self._connection: Connection | None = None
        self._unsaid: Connection | None = None
        self._clock_off_s = 0.0  # of the camera's clock, while that is not used
        self._warned_mono = -math.inf  # of that clock
        self._ended: End | None = None
        self._frames = 0  # of the epoch that was lost
        self._seen_mono: float | None = None  # when its last frame came, or this began to look
        self._again_mono: float | None = None  # when to say the end again; None: it is not away

    # -- standing with the store

    def pace_after(self, state: DecodeState) -> Pace:
        """The pace that goes on where a decoder of this process of the run stood, if one did."""
        paced = state.pace if state.pace and state.pace[0] == self._began_mono else (0.0, None)
        return Pace(self.spec.pace, paced[1])

    def attach(self, attached: Attached) -> bool:
        """Take a new token; False if the store stands where this feed never was (a rollback).

        What the store has is dropped from what is held; the rest is to be committed again. So it
        does not matter whether the last commit was taken and only its reply was lost.
        """
        self.token, self._is_sent = attached.token, False
        known = [self._confirmed, *(arrival.position for arrival in self._held)]
        if self.thread is None or attached.position not in known:
            return False
        if self._held and attached.position == self._held[-1].position:
            self.confirm()  # all of it was taken: counters are not to grow once more
        while self._held and self._held[0].position <= attached.position:
            self._held.popleft()
        self._confirmed = attached.position
        return True

    def restart(self, position: Position, state: DecodeState, thread: DecoderThread | None) -> None:
        """Go on from where the store stands, with a new decoder (None: all is done)."""
        self.thread = thread
        self._position = self._confirmed = position
        self._number, self._open, self._form = state.number, state.open, state.form
        self._held.clear()
        self._is_sent = False
        self._counts.clear()
        self._pace = self.pace_after(state)
        self._seen_mono = self._again_mono = None

    def commit(self, through: Position = START) -> Commit | None:
        """Commit all that is held, and a connection's new state; None if there is no news.

        through: frames up to there get no entry, as in Runner.through
        Nothing more is gathered before `confirm` says that the store has it, or a new token.
        """
        if not self.has_news:
            return None
        self._is_sent = True
        fields: list[tuple[str, bytes]] = []
        if self._held:
            fields.append(("s", records.encode(self._state_after(self._held[-1].record))))
        if self._unsaid is not None:
            fields.append(("c", records.encode(self._unsaid)))
        return Commit(
            stage="decode",
            out=keys.out(self.spec.name, "decode"),
            token=self.token,
            previous=self._confirmed,
            last=self._held[-1].position if self._held else self._confirmed,
            entries=entries_after(through, self._held),
            fields=tuple(fields),
            counts=tuple(self._grown().items()),
        )

    def _grown(self) -> dict[str, int]:
        counts = dict(self._counts)
        for arrival in self._held:
            if isinstance(arrival.record, Record):
                _add(counts, {"decoded": 1})
                if arrival.record.sound is not None:
                    _add(counts, {"sound_blocks": arrival.record.sound[1]})
        return counts

    def _state_after(self, last: Record | End) -> DecodeState:
        shift = self._pace.shift
        pace = None if shift is None else (self._began_mono, shift)
        lasts_s = None if self.thread is None else self.thread.lasts_s
        if isinstance(last, Record):
            number = last.number + 1
            return DecodeState(self._run, number, True, False, None, pace, lasts_s, last.form)
        done, fault, form = last.last, last.fault, self._form
        return DecodeState(self._run, self._number, False, done, fault, pace, lasts_s, form)

    @property
    def has_news(self) -> bool:
        """Return whether there is anything to commit that was not sent."""
        return not self._is_sent and (bool(self._held) or self._unsaid is not None)

    def held(self) -> list[Arrival]:
        """What the store has not confirmed, oldest first."""
        return list(self._held)

    def confirm(self) -> None:
        """Let go of what was held: the store took the commit."""
        self._unsaid, self._is_sent = None, False
        self._counts.clear()
        if not self._held:
            return
        last = self._held[-1].record
        self._confirmed = self._held[-1].position
        self._held.clear()
        if isinstance(last, End) and last.last:
            self._ended = last

    def take_end(self) -> End | None:
        """The source's last end, once, as soon as the store has it; else None.

        That is known by the reply to the commit or, that lost, by a new token's position.
        """
        ended, self._ended = self._ended, None
        return ended

    # -- events to entries

    def due_s(self, now: float) -> float | None:
        """Seconds until the next event can be taken, 0 for now; None if there is none."""
        event = self.thread.first() if self.thread else None
        if isinstance(event, Decoded):
            return self._pace.wait_s(event.pts, event.arrived_mono, now)
        if event is None and self._again_mono is not None:
            return max(0.0, self._again_mono - now)
        return None if event is None else 0.0

    @property
    def is_away(self) -> bool:
        """Return whether it is a camera that is away."""
        return self._again_mono is not None

    def waits_for(self) -> Position | None:
        """Where all reliable readers must be before its decoder goes on; None: at no place."""
        return None if self.thread is None else self.thread.waits_for

    def needs_epoch(self) -> bool:
        """Return whether nothing goes on before `begin_epoch`."""
        event = self.thread.first() if self.thread else None
        if isinstance(event, NewEpoch) or (isinstance(event, SourceEnded) and not self._open):
            return True
        return self.is_away and self._position.epoch == START.epoch  # it never came: that is told

    @property
    def after_epoch(self) -> int | None:
        """Return the last epoch that must not be allocated to a file again; None for a camera.

        What it has taken from its decoder may have an epoch that the store has not seen.
        """
        return None if self.spec.live else max(self.spec.past, self._position.epoch)

    def begin_epoch(self, epoch: int) -> list[Arrival]:
        """Go on in a new epoch; gives the end of the one that was open, if any.

        Of a camera that did not come yet it is one without frames.
        """
        assert self.thread is not None
        ended = []
        if self._open:
            position = Position(self._position.epoch, self._position.seq + 1)
            ended = [self._hold(position, End(VERSION, position.seq, last=False))]
        event = self.thread.first()
        never_came = self.is_away and self._position.epoch == START.epoch
        self._open = isinstance(event, NewEpoch | SourceEnded) or not never_came
        self._position, self._frames = Position(epoch, -1), 0
        if self._open:
            self._again_mono = None
        if isinstance(event, NewEpoch):
            self.thread.take()
            self.thread.begin_epoch(epoch)
        return ended

    def gather(self, now: float, wall: float) -> list[Arrival]:
        """Take what is due now, as entries; they are held until confirmed."""
        taken: list[Arrival] = []
        if self.thread is None or self.needs_epoch():
            return taken
        if self.spec.live and self._connection is None:
            self._say_connection("lost" if self._number else "connecting", wall)
        self._seen_mono = self._seen_mono or now
        while len(taken) < MOST:
            event = self.thread.first()
            if isinstance(event, Decoded):
                if self.spec.live:
                    self._note_connected(wall)
                if self._pace.wait_s(event.pts, event.arrived_mono, now):
                    break
                taken.append(self._frame(event, now, wall))
            elif isinstance(event, Lost):
                taken += self._lose(event, now, wall)
            elif isinstance(event, SourceEnded):
                taken.append(self._finish(event))
            else:
                taken += self._stay_away(now, wall)
                break
            self.thread.take()
        return taken

    def _frame(self, event: Decoded, now: float, wall: float) -> Arrival:
        self._pace.passed(event.pts, event.arrived_mono)
        arrived = now if self.spec.pace == "realtime" else event.arrived_mono
        arrived_wall = wall - (now - arrived)
        captured = camera_time(event.captured, arrived_wall)
        if event.captured is not None:
            self._note_clock(event.captured, captured is not None, arrived_wall, now)
        self._number, self._form = event.number + 1, event.form
        self._seen_mono = event.arrived_mono
        _add(self._counts, event.counts)
        _add(self._counts, _drops(event))
        record = Record(
            v=VERSION,
            pts=event.pts,
            captured=arrived_wall if captured is None else captured,
            arrived=arrived,
            number=event.number,
            form=event.form,
            captured_from="arrival" if captured is None else "rtcp",
            dropped=event.dropped,
            key_frame=event.key_frame,
            sound=event.sound,
        )
        return self._hold(event.position, record)

    def _note_clock(self, camera_s: float, is_used: bool, host_s: float, now: float) -> None:
        """Record in the next commit that the camera's clock is not used, or that it is again.

        A clock that steps with each frame must not fill the log: it is warned of once a minute.
        """
        if is_used == (self._clock_off_s == 0.0) or self._connection is None:
            return
        if not is_used:
            if now - self._warned_mono < WARN_AGAIN_S:
                return
            self._warned_mono = now
        self._clock_off_s = 0.0 if is_used else camera_ahead_s(camera_s, host_s)
        connection = msgspec.structs.replace(self._connection, clock_off_s=self._clock_off_s)
        self._connection = self._unsaid = connection
        if is_used:
            log.info("source %s: its clock is right again", self.spec.name)
        else:
            words = clock_in_words(self._clock_off_s, host_s)
            log.warning("source %s: %s", self.spec.name, words)

    def _lose(self, event: Lost, now: float, wall: float) -> list[Arrival]:
        """Hold the end of an epoch, as its connection is lost; nothing if none was made."""
        fault = f"{event.reason}: {event.fault}"
        if self._again_mono is None:
            self._again_mono = now + AWAY_S
        _add(self._counts, event.counts)
        _add(self._counts, _drops(event))
        if not self._open:
            _add(self._counts, {"connect_failures": 1})
            self._say_connection("lost" if self._number else "connecting", wall, fault)
            return []
        _add(self._counts, {f"lost:{event.reason}": 1})
        self._say_connection("lost", wall, fault)
        self._open = False
        frames = self._frames = self._position.seq + 1 + event.dropped
        position = Position(self._position.epoch, frames)
        end = End(VERSION, frames, last=False, fault=fault, dropped=event.dropped)
        return [self._hold(position, end)]

    def _stay_away(self, now: float, wall: float) -> list[Arrival]:
        """Hold the end of a lost camera's epoch once more, if it is time: so that what time alone
        changes can be told while no frame comes. A hundred times a day, as it is said ever more
        rarely. Of a camera that never came it is the end of an epoch without frames.
        """
        if self._again_mono is None or now < self._again_mono:
            return []
        away_s = max(now - (self._seen_mono or now), AWAY_S)
        self._again_mono = now + max(AWAY_S, AWAY_PART * away_s)
        position = Position(self._position.epoch, self._position.seq + 1)
        frames = self._frames or (position.seq if self._number else 0)
        since = 0.0 if self._number else round(wall - away_s, 3)
        end = End(VERSION, frames, False, away_s=round(away_s, 3), since=since)
        return [self._hold(position, end)]

    def _note_connected(self, wall: float) -> None:
        if self._connection is None or self._connection.state != "connected":
            _add(self._counts, {"connects": 1})
            self._say_connection("connected", wall)

    def _say_connection(
        self, state: ConnectionState, wall: float, fault: str | None = None
    ) -> None:
        """Have the next commit tell the connection's state; `since` stays while the state does."""
        before = self._connection
        if before is None or (state, fault) != (before.state, before.fault):
            level = logging.INFO if fault is None else logging.WARNING
            log.log(level, "source %s: %s%s", self.spec.name, state, f": {fault}" if fault else "")
        since = before.since if before is not None and before.state == state else wall
        self._connection = self._unsaid = Connection(
            VERSION, state, since, fault, self._clock_off_s
        )

    def _finish(self, event: SourceEnded) -> Arrival:
        position = Position(self._position.epoch, self._position.seq + 1)
        counts = {name: n for name, n in event.counts.items() if n}
        _add(self._counts, counts)
        self._open, self._again_mono = False, None
        end = End(VERSION, position.seq, last=True, counts=counts, fault=event.fault)
        return self._hold(position, end)

    def _hold(self, position: Position, record: Record | End) -> Arrival:
        arrival = Arrival(position, record)
        self._position = position
        self._held.append(arrival)
        return arrival


class Pace:
    """When a file's frame is due. Pure: the caller waits.

    `fast`: at once. `realtime`: as far after the first frame as its pts is after the first's.

    A frame without pts, or with one before its forerunner's, is due together with that one.
    Frames due within SLACK_S go together: a wake-up costs more than a millisecond early.
    """

    def __init__(self, name: str, shift: float | None = None) -> None:
        """name: a PaceName; shift: of the Pace that this one goes on for, if any."""
        self._realtime = name == "realtime"
        self._shift = shift if self._realtime else None
        self._last = float("-inf")

    @property
    def shift(self) -> float | None:
        """Monotonic seconds at which pts 0 is due; None before the first frame, or if `fast`."""
        return self._shift

    def wait_s(self, pts: float | None, ready: float, now: float) -> float:
        """Seconds until the next frame is due, 0 for now. ready, now: monotonic seconds."""
        if not self._realtime:
            return 0.0
        wait = self._due(pts, ready) - now
        return wait if wait > SLACK_S else 0.0

    def passed(self, pts: float | None, ready: float) -> None:
        """Note that the frame went out."""
        if self._realtime:
            self._last = self._due(pts, ready)

    def _due(self, pts: float | None, ready: float) -> float:
        if pts is None:
            return max(self._last, ready if self._shift is None else self._last)
        if self._shift is None:
            self._shift = ready - pts
        return max(self._last, self._shift + pts)


def _drops(event: Decoded | Lost) -> dict[str, int]:
    """Return the counters of dropped frames, which were decoded as well."""
    if not event.dropped:
        return {}
    replaced = event.dropped - event.burst
    return {"decoded": event.dropped, REPLACED: replaced, BURST: event.burst}


def _add(counts: dict[str, int], growth: Mapping[str, int]) -> None:
    """Let counters grow."""
    for name, n in growth.items():
        if n:
            counts[name] = counts.get(name, 0) + n
