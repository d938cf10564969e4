"""One source of an ingest worker: its decoder's events become entries, held until confirmed."""

from __future__ import annotations

from collections import deque

import msgspec

from pipeline import keys, records
from pipeline.decoder import Decoded, DecoderThread, Finished, NewForm
from pipeline.hop import END, FRAME, Attached, Commit, Entry
from pipeline.inbox import Arrival
from pipeline.pace import Pace
from pipeline.records import START, End, Position, Record
from pipeline.spec import SourceSpec

MOST = 64


class DecodeState(msgspec.Struct, frozen=True):
    """State of decode.

    run     the run that it belongs to: another run starts its files anew
    number  frames committed by this run
    open    whether the epoch of the last frame goes on
    done    whether all was committed, the last end included
    fault   why the source ended early, once it is done
    """

    run: str = ""
    number: int = 0
    open: bool = False
    done: bool = False
    fault: str | None = None


class Feed:
    """Follows one decoder. `position` and `state` run ahead of the store by what is held."""

    def __init__(self, spec: SourceSpec, run: str) -> None:
        self.spec = spec
        self.thread: DecoderThread | None = None
        self.token = b""
        self.position = START
        self.state = DecodeState(run)
        self._confirmed = START
        self._held: deque[Arrival] = deque()
        self._states: deque[DecodeState] = deque()
        self._counts: dict[str, int] = {}
        self._pace = Pace("realtime" if spec.pace == "realtime" else "fast")

    # -- standing with the store

    def attach(self, attached: Attached) -> bool:
        """Take a new token; False if the store stands where this feed never was (a rollback).

        What the store has is dropped from what is held; the rest is to be committed again.
        """
        self.token = attached.token
        known = [self._confirmed, *(arrival.position for arrival in self._held)]
        if self.thread is None or attached.position not in known:
            return False
        while self._held and self._held[0].position <= attached.position:
            self._held.popleft()
            self._states.popleft()
        self._confirmed = attached.position
        return True

    def restart(self, position: Position, state: DecodeState, thread: DecoderThread | None) -> None:
        """Go on from the store's word, with a new decoder (None: all is done)."""
        self.thread = thread
        self.position = self._confirmed = position
        self.state = state
        self._held.clear()
        self._states.clear()
        self._pace = Pace("realtime" if self.spec.pace == "realtime" else "fast")

    def commit(self) -> Commit | None:
        """All that is held, as one commit; None if nothing is."""
        if not self._held:
            return None
        entries = tuple(
            Entry(a.position, FRAME if isinstance(a.record, Record) else END, records.encode(a.record))
            for a in self._held
        )
        frames = sum(entry.kind == FRAME for entry in entries)
        counts = {"decoded": frames, **self._counts}
        return Commit(
            stage="decode",
            out=keys.out(self.spec.name, "decode"),
            token=self.token,
            previous=self._confirmed,
            last=self._held[-1].position,
            entries=entries,
            fields=(("s", records.encode(self._states[-1])),),
            counts=tuple((name, n) for name, n in counts.items() if n),
        )

    def held(self) -> list[Arrival]:
        """What the store has not confirmed, oldest first."""
        return list(self._held)

    def confirm(self) -> End | None:
        """The store took the commit; gives the last end, if that was in it."""
        last = self._held[-1].record
        self._confirmed = self._held[-1].position
        self._held.clear()
        self._states.clear()
        self._counts.clear()
        return last if isinstance(last, End) and last.last else None

    # -- events to entries

    def due_s(self, now: float) -> float | None:
        """Seconds until the next event can be taken, 0 for now; None if there is none."""
        event = self.thread.first() if self.thread else None
        if event is None:
            return None
        if isinstance(event, Decoded):
            return self._pace.wait_s(event.pts, event.decoded_mono, now)
        return 0.0

    def needs_epoch(self) -> bool:
        """Whether nothing goes on before `begin_epoch`."""
        event = self.thread.first() if self.thread else None
        unopened = isinstance(event, Finished) and not self.state.open
        return isinstance(event, NewForm) or unopened

    def begin_epoch(self, epoch: int) -> list[Arrival]:
        """Go on in a new epoch; gives the end of the one that was open, if any."""
        assert self.thread is not None
        ended = []
        if self.state.open:
            position = Position(self.position.epoch, self.position.seq + 1)
            end = End(frames=position.seq, last=False)
            ended = [self._hold(position, end, open=False)]
        self.position = Position(epoch, -1)
        self.state = msgspec.structs.replace(self.state, open=True)
        if isinstance(self.thread.first(), NewForm):
            self.thread.take()
            self.thread.begin_epoch(epoch)
        return ended

    def gather(self, now: float, wall: float) -> list[Arrival]:
        """Take what is due now, as entries; they are held until confirmed."""
        taken: list[Arrival] = []
        while len(taken) < MOST and self.due_s(now) == 0.0 and not self.needs_epoch():
            assert self.thread is not None
            event = self.thread.take()
            if isinstance(event, Decoded):
                taken.append(self._frame(event, now, wall))
            elif isinstance(event, Finished):
                taken.append(self._finish(event))
        return taken

    def _frame(self, event: Decoded, now: float, wall: float) -> Arrival:
        self._pace.passed(event.pts, event.decoded_mono)
        arrived = now if self.spec.pace == "realtime" else event.decoded_mono
        record = Record(
            pts=event.pts,
            captured=wall - (now - arrived),
            captured_from="arrival",
            arrived=arrived,
            number=event.number,
            form=event.form,
        )
        return self._hold(event.position, record, number=event.number + 1)

    def _finish(self, event: Finished) -> Arrival:
        position = Position(self.position.epoch, self.position.seq + 1)
        counts = {name: n for name, n in event.counts.items() if n}
        self._counts.update(counts)
        end = End(frames=position.seq, last=True, counts=counts, fault=event.fault)
        return self._hold(position, end, open=False, done=True, fault=event.fault)

    def _hold(
        self, position: Position, record: Record | End, **changes: int | bool | str | None
    ) -> Arrival:
        arrival = Arrival(position, record)
        self.position = position
        self.state = msgspec.structs.replace(self.state, **changes)
        self._held.append(arrival)
        self._states.append(self.state)
        return arrival
