"""Window: the last frames of a source as references, given for each frame as a delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.stage import Item, Stage


@dataclass(frozen=True)
class WindowOptions:
    """size: frames that a window holds, 1..512."""

    size: int = field(default=32, metadata={"least": 1, "most": 512})


class WindowState(msgspec.Struct, frozen=True, array_like=True):
    """The references that the window holds: seqs of one epoch, oldest first."""

    epoch: int = 0
    seqs: tuple[int, ...] = ()


class WindowDelta(msgspec.Struct, frozen=True, array_like=True):
    """How the window changed with this frame.

    added     (epoch, seq) of the newest frame
    released  references that left, oldest first: at most one, or all at an epoch's start
    held      frames in the window, the newest included
    """

    added: tuple[int, int]
    released: tuple[tuple[int, int], ...]
    held: int


class Window(Stage[WindowState]):
    """One frame in, one delta out; stride 1. It keeps no pixels.

    In     any record
    Out    WindowDelta
    State  the references; a window never spans a break of continuity (epoch)
    """

    Options = WindowOptions
    State = WindowState
    options: WindowOptions

    def process(
        self, batch: Sequence[Item], states: Mapping[str, WindowState]
    ) -> tuple[list[WindowDelta], dict[str, WindowState]]:
        """Slide each source's window over its frames."""
        now = dict(states)
        deltas = []
        for item in batch:
            delta, now[item.source] = slide(now[item.source], item.position, self.options.size)
            deltas.append(delta)
        return deltas, now


def slide(
    state: WindowState, position: tuple[int, int], size: int
) -> tuple[WindowDelta, WindowState]:
    """Add the frame at `position` to a window of `size` frames."""
    epoch, seq = position
    if state.epoch == epoch:
        keep = state.seqs[max(0, len(state.seqs) + 1 - size) :]
        gone = [(epoch, s) for s in state.seqs[: len(state.seqs) - len(keep)]]
    else:
        keep = ()
        gone = [(state.epoch, s) for s in state.seqs]
    after = WindowState(epoch, (*keep, seq))
    return WindowDelta((epoch, seq), tuple(gone), len(after.seqs)), after
