"""The stage window: for each frame, which frames enter and leave a source's sliding window.

Only this stage decides the length of a window. It keeps no pixels. A later stage keeps its features
of a frame from `added` to `released`, so it computes them once for each frame, not once for each
window that contains the frame.
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
    """The frames in the window, all of one epoch.

    runs  (first seq, number of frames) of consecutive frames, oldest first; more than one run if
          frames were dropped
    seqs  empty; state in a data folder of 0.2 has this field
    """

    epoch: int = 0
    seqs: tuple[int, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()

    def frames(self) -> list[int]:
        """Return the seqs of all frames in the window, oldest first."""
        seqs = list(self.seqs)
        for first, frames in self.runs:
            seqs += range(first, first + frames)
        return seqs


class WindowDelta(msgspec.Struct, frozen=True, array_like=True):
    """The change of the window with a frame.

    added     (epoch, seq) of the newest frame
    released  (epoch, seq) of the frames that left, oldest first: at most one, or all of the epoch
              before at the start of an epoch
    held      number of frames in the window, with the newest
    first     seq of the oldest frame
    """

    added: tuple[int, int]
    released: tuple[tuple[int, int], ...]
    held: int
    first: int = 0


class Window(Stage[WindowState]):
    """The stage that outputs the change of the window for each frame; its stride is 1.

    In     any record
    Out    WindowDelta
    State  the frames in the window; a window never spans two epochs
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
    """Return the change and the state after the frame at `position`, for a window of `size`."""
    epoch, seq = position
    released: list[tuple[int, int]] = []
    runs = [*((number, 1) for number in state.seqs), *state.runs]
    if state.epoch != epoch:
        released = [(state.epoch, number) for number in state.frames()]
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
