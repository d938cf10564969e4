"""Entries of a stage's stream as arrivals of its readers, and the reverse."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from framegate.pipeline.contracts import records, results
from framegate.pipeline.contracts.records import End, Position, Record, SideOutput
from framegate.pipeline.contracts.spec import StageSpec, WorkerSpec
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.store.hop import END, FRAME, Entry

_END: Final = END.encode()


def input_stream(spec: WorkerSpec, stage: str, source: str) -> str:
    """Return the key of the stream that a stage reads."""
    before = spec.stage(stage).input
    assert before is not None
    return spec.stage(before).out(source)


def entries_after(through: Position, arrivals: Iterable[Arrival]) -> tuple[Entry, ...]:
    """Return the stream entries of all ends, and of the records after a position."""
    entries = []
    for arrival in arrivals:
        is_end = isinstance(arrival.record, End)
        if not is_end and arrival.position <= through:
            continue
        kind = FRAME
        if is_end:
            kind = END
        data = arrival.data or records.encode(arrival.record)
        entries.append(Entry(arrival.position, kind, data))
    return tuple(entries)


def read_entry(entry: list[Any], writer: StageSpec) -> Arrival:
    """Return a stream entry as an arrival.

    A result, or an output of a side stage, becomes a record that carries it.
    """
    position = Position.parse(entry[0])
    _, kind, _, data = entry[1]  # fields k and d, in the order in which hop.lua writes them
    if kind == _END:
        return Arrival(position, records.decode_versioned(data, End))
    if writer.publishes:
        return Arrival(position, results.record_of_result(data, writer.name))
    if not writer.main:
        side = records.decode_versioned(data, SideOutput)
        return Arrival(position, records.record_of_side_output(side, writer.name, position))
    return Arrival(position, records.decode_record(data), data)


def has_this_clock(arrival: Arrival) -> bool:
    """Return whether an arrival time is of this boot of the host: monotonic time starts at boot."""
    return not isinstance(arrival.record, Record) or arrival.record.arrived <= time.monotonic()


def arrived_now(arrival: Arrival) -> Arrival:
    """Return the arrival with the present time, in place of a time of another clock."""
    if not isinstance(arrival.record, Record):
        return arrival
    record = msgspec.structs.replace(arrival.record, arrived=time.monotonic(), taken_us=0)
    return Arrival(arrival.position, record)
