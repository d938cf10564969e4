"""Stages as a user writes them; tests copy this file beside a pipeline.toml and run them.

It imports nothing of the tests: what stands here works in anybody's folder.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from framegate import Context, End, Item, NoState, Object, Result, Stage
from framegate.pipeline.contracts.episodes import Change, Changes
from framegate.pipeline.contracts.moments import Moment
from framegate.stages.detections import Detections

GATE_S = 300.0


class Crowd(Stage[NoState]):
    """In detect's place, without a network: frame n shows n % 3 persons and one car.

    Every fifth frame brings new persons, so that tracks are not simply counted frames.
    """

    def each(self, item: Item, state: NoState) -> tuple[Detections, NoState]:
        n = item.record.number
        people = [_object(10 * (n // 5) + i + 1, "person", 0) for i in range(n % 3)]
        objects = (*people, _CAR)
        return Detections("detected", "whole", "every_frame", objects, ("crowd@0",)), state


def _object(track: int, label: str, class_id: int) -> Object:
    return Object(track, label, class_id, 0.9, (1.0, 2.0, 3.0, 4.0), "detected")


_CAR = _object(7_000_000, "car", 2)


class Quarter(Stage[NoState]):
    """Behind detect: each frame shows one car, in the lower right quarter of the pixels."""

    def each(self, item: Item, state: NoState) -> tuple[Detections, NoState]:
        form = item.record.form
        box = (form.width / 2, form.height / 2, float(form.width), float(form.height))
        car = Object(1, "car", 2, 0.9, box, "detected")
        return Detections("detected", "whole", "every_frame", (car,), ("quarter@0",)), state


class Minute(msgspec.Struct, frozen=True):
    """What the stage below keeps, and what it says: tracks of persons seen in a minute of pts."""

    minute: int = 0
    tracks: tuple[int, ...] = ()


class PeoplePerMinute(Stage[Minute]):
    """Beside the main path, after cache: says {minute, people} when a minute of the video is over.

    The last minute is said at the end of the source.
    """

    State = Minute
    takes_failed = True

    def each(self, item: Item, state: Minute) -> tuple[dict[str, int] | None, Minute]:
        result = item.output_of(self.context.before, Result)
        minute = int((result.pts or 0.0) // 60)
        over = minute > state.minute
        people = {o.track for o in result.objects if o.label == "person" and o.track}
        kept = () if over else state.tracks
        return _count(state) if over else None, Minute(minute, tuple(sorted({*kept, *people})))

    def end(self, source: str, end: End, state: Minute) -> tuple[Any, Minute]:  # noqa: ARG002
        return (_count(state), Minute()) if end.last else (None, state)


def _count(seen: Minute) -> dict[str, int]:
    return {"minute": seen.minute, "people": len(seen.tracks)}


class Alerts(Stage[NoState]):
    """Reads PeoplePerMinute: says what that said, with the frame's pts."""

    def each(self, item: Item, state: NoState) -> tuple[dict[str, Any], NoState]:
        said = item.output_of(self.context.before, dict[str, int])
        return {**said, "pts": item.record.pts}, state

    def end(self, source: str, end: End, state: NoState) -> tuple[Any, NoState]:  # noqa: ARG002
        said = end.said.get(self.context.before)
        return None if said is None else msgspec.msgpack.decode(said), state


class Visiting(msgspec.Struct, frozen=True):
    """Where the visit that goes on began."""

    began: Moment | None = None


class Visits(Stage[Visiting]):
    """In the place of `events`: a visit begins at each frame that 4 divides, and ends two later."""

    State = Visiting
    takes_failed = True

    def each(self, item: Item, state: Visiting) -> tuple[Changes | None, Visiting]:
        now = Moment(*item.position, item.record.pts or 0.0, item.record.captured)
        if item.position.seq % 4 == 0:
            return self._said(item.source, "start", now, now), Visiting(now)
        if item.position.seq % 4 == 2 and state.began is not None:
            return self._said(item.source, "end", state.began, now), Visiting()
        return None, state

    def end(self, source: str, end: End, state: Visiting) -> tuple[Any, Visiting]:  # noqa: ARG002
        if state.began is None:
            return None, state
        return self._said(source, "end", state.began, state.began), Visiting()

    def _said(self, source: str, step: Any, began: Moment, now: Moment) -> Changes:
        episode = f"{source}/visitor/{began.epoch}-{began.seq}/0"
        return Changes((
            Change(1, episode, step, source, "visitor", "0a1b2c3d", "inside", "alert", now, began,
                   now),
        ))  # fmt: skip


class Numbers(Stage[NoState]):
    """Beside the main path: says each frame's number."""

    batch = 16

    def each(self, item: Item, state: NoState) -> tuple[int, NoState]:
        return item.record.number, state


@dataclass(frozen=True)
class GateOptions:
    """gate: a file; nothing is done before it exists."""

    gate: str


class Gated(Numbers):
    """Numbers, but it starts late: when the file `gate` is there."""

    Options = GateOptions
    options: GateOptions

    def each(self, item: Item, state: NoState) -> tuple[int, NoState]:
        wait_for(Path(self.options.gate))
        return super().each(item, state)


def wait_for(gate: Path) -> None:
    """Poll until the file is there. A real stage never waits: this one plays a slow one."""
    deadline = time.monotonic() + GATE_S
    while not gate.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{gate} did not come")
        time.sleep(0.005)


class PassOn(Stage[NoState]):
    """On the main path: hands on what the stage before said."""

    def each(self, item: Item, state: NoState) -> tuple[Any, Any]:
        self.see(item)
        return item.record.said[self.context.before], state

    def see(self, item: Item) -> None:
        """What a subclass does with each frame."""


class Sized(Stage[NoState]):
    """On the main path: says nothing. It has an option."""

    @dataclass(frozen=True)
    class Options:
        size: int = field(default=32, metadata={"least": 1, "most": 512})

    followed = False

    def each(self, item: Item, state: NoState) -> tuple[None, NoState]:  # noqa: ARG002
        return None, state


class Waits(PassOn):
    """Holds the main path up until the file `gate` is there, from frame `at` on."""

    @dataclass(frozen=True)
    class Options:
        gate: str
        at: int = 0

    def see(self, item: Item) -> None:
        if item.record.number >= self.options.at:
            wait_for(Path(self.options.gate))


class Raises(PassOn):
    """Raises on every frame whose number is `rest` modulo `every`."""

    @dataclass(frozen=True)
    class Options:
        every: int = 1
        rest: int = 0

    def see(self, item: Item) -> None:
        if item.record.number % self.options.every == self.options.rest:
            raise RuntimeError(f"no answer to frame {item.record.number}")


class Kills(PassOn):
    """Its process dies over one frame of one source, by a signal or by an exit."""

    @dataclass(frozen=True)
    class Options:
        source: str
        at: int
        by: str = "signal"

    def see(self, item: Item) -> None:
        if item.source == self.options.source and item.record.number == self.options.at:
            if self.options.by == "signal":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)


class Unready(PassOn):
    """Cannot get ready."""

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        raise OSError("the coffee is out")


class OwnWeights(PassOn):
    """Reads network weights from a folder of the user's."""

    @dataclass(frozen=True)
    class Options:
        weights: str

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        from framegate.models.detector import network  # what few of these stages need

        network.verified("nanodet-plus", Path(options.weights))


class Wordy(Stage[NoState]):
    """Beside the main path: says a lot about each frame, so that a store fills up."""

    @dataclass(frozen=True)
    class Options:
        nbytes: int

    def each(self, item: Item, state: NoState) -> tuple[bytes, NoState]:  # noqa: ARG002
        return os.urandom(self.options.nbytes), state


class Unsayable(PassOn):
    """Says what no message can hold."""

    def each(self, item: Item, state: NoState) -> tuple[Any, NoState]:  # noqa: ARG002
        return object(), state


class Silent(PassOn):
    """Forgets to answer."""

    def process(self, batch: Sequence[Item], states: Mapping[str, NoState]) -> Any:  # noqa: ARG002
        return None


class Short(PassOn):
    """Gives too few answers."""

    def process(self, batch: Sequence[Item], states: Mapping[str, NoState]) -> Any:  # noqa: ARG002
        return [], states


class BadState(PassOn):
    """Keeps what cannot be stored."""

    def each(self, item: Item, state: NoState) -> tuple[Any, Any]:
        output, _ = super().each(item, state)
        return output, object()


class OtherState(PassOn):
    """Keeps a state that the store would return as another type."""

    def each(self, item: Item, state: NoState) -> tuple[Any, Any]:
        output, _ = super().each(item, state)
        return output, {}


class BadResult(Stage[NoState]):
    """Publishes something that is not a result."""

    publishes = True

    def each(self, item: Item, state: NoState) -> tuple[dict[str, int], NoState]:  # noqa: ARG002
        return {"people": 1}, state


class BadEnd(Numbers):
    """Raises at the end of a source."""

    def end(self, source: str, end: End, state: NoState) -> tuple[Any, NoState]:  # noqa: ARG002
        raise RuntimeError("no last words")


class Crashes(Numbers):
    """Its process dies before it is open."""

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        os._exit(7)


class PreparesSlowly(Crowd):
    """Gets ready for a model once a file of its name is in the run's folder; says `asked` there."""

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:  # noqa: ARG002
        if model == "bad":
            raise ValueError(f"{model} is no model")
        (self.context.folder / "asked").touch()
        while not (self.context.folder / model).exists():
            time.sleep(0.01)


class ShortOfMeans(Sized):
    """In window's place: its process has neither a thread to decode with nor a descriptor for a
    connection, the first times.
    """

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        start, connect = threading.Thread.start, socket.socket.connect
        failures = {"threads": 3, "descriptors": 3}

        def fails(what: str) -> bool:
            failures[what] -= 1
            return failures[what] >= 0

        def start_or_fail(thread: threading.Thread) -> None:
            if thread.name.startswith("decode-") and fails("threads"):
                raise RuntimeError("can't start new thread")
            start(thread)

        def connect_or_fail(line: socket.socket, address: Any) -> None:
            if fails("descriptors"):
                raise OSError(errno.EMFILE, "injected")
            connect(line, address)

        threading.Thread.start = start_or_fail  # type: ignore[method-assign]
        socket.socket.connect = connect_or_fail  # type: ignore[method-assign,assignment]
