"""Read the contents of a store that the checks compare. Nothing is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Final, NamedTuple

import msgspec

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Changes, EventEntry, read_events, read_last_events
from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.stage import PlaneRef, RingRef
from framegate.pipeline.contracts.visits import VisitEntry, read_last_visits, read_visits
from framegate.pipeline.fsck.snapshot import SinkFacts, SourceFacts, StageFacts, StreamFacts
from framegate.pipeline.store.hop import END
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.telemetry.counters import result_counters

_PAGE: Final = 1000


class StateRef(NamedTuple):
    """A reference to large state in a committed state."""

    source: str
    stage: str
    reference: PlaneRef | RingRef


class StoreFacts(NamedTuple):
    """The contents of a store.

    references  references to large state, of stages that have not ended
    """

    identity: str
    sources: tuple[SourceFacts, ...]
    references: tuple[StateRef, ...]


class _NamedPosition(msgspec.Struct, frozen=True):
    """The position that a published result names; a user's stage may publish without one."""

    epoch: int | None = None
    seq: int | None = None


def read_store(url: str, names: Sequence[str] | None = None) -> StoreFacts:
    """Read the contents of a store about these sources; None: all of its sources.

    StoreLost, StoreBusy, StoreRefused.
    """
    with store_errors(url), closing(connect(url)) as client:
        identity = client.get(keys.IDENTITY) or b""
        selected = {name.decode() for name in client.hkeys(keys.SOURCES)}
        if names is not None:
            selected &= set(names)
        source_keys = _keys_of(client, selected)
        sources: list[SourceFacts] = []
        references: list[StateRef] = []
        for name in sorted(selected):
            reader = _SourceReader(client, name, source_keys[name])
            sources.append(reader.facts())
            references += reader.references()
        return StoreFacts(identity.decode(), tuple(sources), tuple(references))


def _keys_of(client: Any, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of each source."""
    tags = {keys.tag(name): name for name in names}
    source_keys: defaultdict[str, list[str]] = defaultdict(list)
    for key in client.scan_iter(match="fg:{*", count=_PAGE):
        name = tags.get(key.partition(b"}")[0] + b"}")
        if name is not None:
            source_keys[name].append(key.decode())
    return source_keys


class _SourceReader:
    """A reader of the keys of a source. One thread."""

    def __init__(self, client: Any, name: str, source_keys: Sequence[str]) -> None:
        self._client = client
        self._name = name
        self._stages = self._named(source_keys, keys.at(name, ""))
        self._outputs = self._named(source_keys, keys.out(name, ""))
        self._sinks = self._named(source_keys, keys.sink(name, ""))
        self._states: dict[str, bytes] = {}

    def _named(self, source_keys: Sequence[str], prefix: str) -> list[str]:
        return sorted(key.removeprefix(prefix) for key in source_keys if key.startswith(prefix))

    def facts(self) -> SourceFacts:
        """Read the source. `references` needs the states that this reads."""
        name = self._name
        client = self._client
        run, epoch = client.hmget(keys.own(name), "run", "epoch")
        stages = {stage: self._stage(stage) for stage in self._stages}
        sinks = {sink: self._sink(sink) for sink in self._sinks}
        recounted: Counter[str] = Counter()
        unreadable: dict[Position, str] = {}
        counting = self._counting(recounted, unreadable)
        results = self._stream(keys.results(name), counting, unreadable)
        events: list[EventEntry] = []
        damaged: dict[Position, str] = {}
        reading = self._reading(events, damaged)
        stream = self._stream(keys.out(name, keys.EVENTS), reading, damaged)
        visits: list[VisitEntry] = []
        reading = self._reading_visits(visits, unreadable)
        visits_stream = self._stream(keys.out(name, keys.VISITS), reading, unreadable)
        counters = client.hgetall(keys.count(name))
        return SourceFacts(
            name=name,
            run=(run or b"").decode(),
            epoch=int(epoch or 0),
            stages=stages,
            results=results,
            waiting=self._waiting(results.last),
            counters={key.decode(): int(value) for key, value in counters.items()},
            recounted=recounted,
            unreadable={**unreadable, **damaged},
            events=tuple(events),
            events_are_whole=not damaged,
            events_stream=stream,
            visits=tuple(visits),
            visits_stream=visits_stream,
            sinks={sink: facts for sink, facts in sinks.items() if facts is not None},
        )

    def _stage(self, stage: str) -> StageFacts:
        position, emitted, state = self._client.hmget(keys.at(self._name, stage), "p", "e", "s")
        if state is not None:
            self._states[stage] = state
        last, _ = self._about(keys.out(self._name, stage))
        return StageFacts(_position(position), _position(emitted), last)

    def _sink(self, sink: str) -> SinkFacts | None:
        position, index = self._client.hmget(keys.sink(self._name, sink), "p", "n")
        if position is None:
            return None
        return SinkFacts(Position.parse(position), int(index or 0))

    def _about(self, stream: str) -> tuple[Position, int]:
        """Return the last id that a stream ever had, and the number of entries it ever had."""
        if not self._client.exists(stream):
            return START, 0
        info = self._client.xinfo_stream(stream)
        return _position(info["last-generated-id"]), int(info["entries-added"])

    def _stream(self, stream: str, take: Any, unreadable: dict[Position, str]) -> StreamFacts:
        """Read a stream; `take` gets the position and the data of each frame and end."""
        frames: list[Position] = []
        ends: dict[Position, End] = {}
        for position, fields in self._entries(stream):
            if fields[b"k"] == END.encode():
                try:
                    end = records.decode_versioned(fields[b"d"], End)
                except (msgspec.MsgspecError, RecordTooNew) as error:
                    unreadable[position] = f"end: {error}"
                    continue
                ends[position] = end
                take(position, end)
            else:
                frames.append(position)
                take(position, fields[b"d"])
        last, added = self._about(stream)
        return StreamFacts(tuple(frames), ends, last, added)

    def _entries(
        self, stream: str, after: Position | None = None
    ) -> Iterator[tuple[Position, dict[bytes, bytes]]]:
        begin = "-"
        if after is not None:
            begin = f"({after}"
        while page := self._client.xrange(stream, min=begin, count=_PAGE):
            for at, fields in page:
                yield Position.parse(at), fields
            begin = f"({page[-1][0].decode()}"

    def _counting(self, recounted: Counter[str], unreadable: dict[Position, str]) -> Any:
        def take(position: Position, entry: bytes | End) -> None:
            if isinstance(entry, End):
                return
            recounted.update(result_counters(entry))
            try:
                named = records.decode(entry, _NamedPosition)
            except msgspec.DecodeError as error:
                unreadable[position] = str(error)
                return
            if named.epoch is not None and (named.epoch, named.seq) != position:
                unreadable[position] = f"its position is {named.epoch}-{named.seq}"

        return take

    def _reading(self, events: list[EventEntry], unreadable: dict[Position, str]) -> Any:
        def take(position: Position, entry: bytes | End) -> None:
            try:
                if isinstance(entry, End):
                    last = read_last_events(self._name, position, entry)
                    if last is not None:
                        events.append(last)
                else:
                    events.append(read_events(self._name, position, entry))
            except (msgspec.MsgspecError, RecordTooNew) as error:
                events.append(EventEntry(self._name, position, None, None, Changes()))
                unreadable[position] = f"events: {error}"

        return take

    def _reading_visits(self, visits: list[VisitEntry], unreadable: dict[Position, str]) -> Any:
        def take(position: Position, entry: bytes | End) -> None:
            try:
                if isinstance(entry, End):
                    last = read_last_visits(self._name, position, entry)
                    if last is not None:
                        visits.append(last)
                else:
                    visits.append(read_visits(self._name, position, entry))
            except (msgspec.MsgspecError, RecordTooNew) as error:
                visits.append(VisitEntry(self._name, position, None))
                unreadable[position] = f"visits: {error}"

        return take

    def _waiting(self, published: Position) -> frozenset[Position]:
        """Return the frames after the last published one that a stage has stored."""
        waiting: set[Position] = set()
        for stage in self._outputs:
            entries = self._entries(keys.out(self._name, stage), published)
            waiting.update(at for at, fields in entries if fields[b"k"] != END.encode())
        return frozenset(waiting)

    def references(self) -> Iterator[StateRef]:
        """Yield the references of stages to their large state."""
        for stage, state in self._states.items():
            with suppress(msgspec.DecodeError):
                for reference in _references(msgspec.msgpack.decode(state)):
                    yield StateRef(self._name, stage, reference)


def _position(text: bytes | str | None) -> Position:
    if text is None:
        return START
    return Position.parse(text)


_PLANE: Final = set(PlaneRef.__struct_fields__)


def _references(value: Any) -> Iterator[PlaneRef | RingRef]:
    """Yield the references in a state of any shape."""
    if isinstance(value, dict):
        if value.keys() == _PLANE:
            with suppress(msgspec.ValidationError):
                yield msgspec.convert(value, PlaneRef)
            return
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        if len(value) == len(RingRef.__struct_fields__):
            with suppress(msgspec.ValidationError):
                yield msgspec.convert(value, RingRef)
                return
        for each in value:
            yield from _references(each)
