"""Window: which frames are the last ones of a source, given for each frame as a delta.

Only this stage decides how long a window is. It keeps no pixels and computes nothing: a stage that
computes something of a frame, to be used for later frames too, keeps that as long as the frame is
in the window and lets go of it with the frame. So each frame is computed once, not once for each
window that it is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.contracts.stage import Item, Stage


@dataclass(frozen=True)
class WindowOptions:
    """Options of window.

    size  frames in the sliding window of a source
    """

    size: int = field(default=32, metadata={"least": 1, "most": 512})


class WindowState(msgspec.Struct, frozen=True, array_like=True):
    """The frames that the window holds, of one epoch.

    runs  (first seq, frames) of frames whose seqs follow each other, oldest first: one run, unless
          frames between were dropped
    seqs  empty; state in a data folder of 0.2 has this field
    """

    epoch: int = 0
    seqs: tuple[int, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()

    def frames(self) -> list[int]:
        """Seqs of all frames in the window, oldest first."""
        return [*self.seqs, *(first + n for first, frames in self.runs for n in range(frames))]


class WindowDelta(msgspec.Struct, frozen=True, array_like=True):
    """How the window changed with this frame.

    added     (epoch, seq) of the newest frame
    released  frames that left, oldest first: at most one, or all at an epoch's start
    held      frames in the window, the newest included
    first     seq of the oldest one
    """

    added: tuple[int, int]
    released: tuple[tuple[int, int], ...]
    held: int
    first: int = 0


class Window(Stage[WindowState]):
    """One frame in, one delta out; stride 1. It keeps no pixels.

    In     any record
    Out    WindowDelta
    State  which frames are in the window; it never spans a break of continuity (epoch)
    """

    Options = WindowOptions
    State = WindowState
    followed = False
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
    released: list[tuple[int, int]] = []
    runs = [*((each, 1) for each in state.seqs), *state.runs]
    if state.epoch != epoch:
        released = [(state.epoch, each) for each in state.frames()]
        runs = []
    if runs and sum(runs[-1]) == seq:
        runs[-1] = runs[-1][0], runs[-1][1] + 1
    else:
        runs.append((seq, 1))
    count = sum(frames for _, frames in runs)
    for _ in range(count - size):
        first, frames = runs.pop(0)
        released.append((epoch, first))
        if frames > 1:
            runs.insert(0, (first + 1, frames - 1))
    delta = WindowDelta((epoch, seq), tuple(released), min(count, size), runs[0][0])
    return delta, WindowState(epoch, runs=tuple(runs))
