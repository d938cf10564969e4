"""One frame through gate, network and belief: what the stage detect does, and benchmarks too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, Boxes
from framegate.models.detector.detector import Detector
from framegate.models.detector.policy import Policy
from framegate.models.detector.recall import Recall
from framegate.models.gate import crops, gate
from framegate.models.gate.crops import DEFAULT as CROPS
from framegate.models.gate.gate import DEFAULT as GATE
from framegate.models.gate.gate import limit_of
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import Picture
from framegate.models.tracking.bytetrack import TrackState
from framegate.models.tracking.calm import settings_for as calm_settings
from framegate.models.window import features
from framegate.pipeline.counts import CacheCounts
from framegate.pipeline.records import GateView
from framegate.pipeline.source import Form
from framegate.stages.detect.attention import Attention, AttentionSettings, Moment, attend, clock_s
from framegate.stages.detect.belief import Belief, BeliefSettings, conclude
from framegate.stages.detect.memory import Memory
from framegate.stages.detect.options import GateOptions
from framegate.stages.detect.window import FrameWindow

# -- What detect looks up before it computes: inputs that its network has seen.


_NOTHING: Final = CacheCounts()


def count(counts: CacheCounts, groups: Sequence[Recall], past: CacheCounts = _NOTHING) -> None:
    """Bring `counts` up to date with what all groups counted; past: those of models let go."""
    each = [group.counts for group in groups]
    counts.hits = past.hits + sum(one.hits for one in each)
    counts.misses = past.misses + sum(one.misses for one in each)
    counts.refused = past.refused + sum(one.refused for one in each)
    counts.skipped = past.skipped + sum(one.skipped for one in each)
    counts.groups, counts.off = len(groups), sum(not group.worth.on for group in groups)


def run_looks(
    detector: Detector, picture: Picture, attention: Attention, recall: Recall | None = None
) -> Sequence[Boxes]:
    """What the detector finds at each of the looks."""
    if attention.looked == "whole":
        return detector.detect([picture], [recall])
    return detector.look(picture, attention.looks, recall) if attention.looks else ()


def settings_for(
    options: GateOptions, choices: Policy, min_score: float | None = None, whole: bool = False
) -> BeliefSettings:
    """Everything that decides, for the detector of `choices` and the least score that a user wants.

    whole  it looks at whole frames only, as several networks together do
    """
    if whole and options.mode == "crops":
        options = replace(options, mode="frames")
    shown = choices.min_score if min_score is None else min_score
    calm, tracks = calm_settings(shown, exactly=min_score is not None)
    # Without parts no size but the whole's is warmed up.
    parts = CROPS if options.mode == "crops" else replace(CROPS, share=0.0)
    attention = AttentionSettings(
        options, choices.parts[0][1], gate_settings(options), parts, calm.shown
    )
    return BeliefSettings(attention, tracks, calm)


def gate_settings(options: GateOptions) -> GateSettings:
    """The gate's numbers with the levels of `[gate]`."""
    first = min(max(GATE.tau_first, options.least), options.most)
    return replace(GATE, tau_first=first, tau_least=options.least, tau_most=options.most)


def limit_said(form: Form, options: GateOptions) -> str:
    """The gate's limit in pictures of this form, in words; law 8's number."""
    px, covers, levels, colour = limit_of(form.width, form.height, gate_settings(options))
    return (
        f"what changes the mean of a {px}x{px} px square of the grid by less than its tile's "
        f"threshold, {levels[0]:g} to {levels[1]:g} grey levels (colour: {2 * px}x{2 * px} px, "
        f"{colour[0]:g} to {colour[1]:g}); what covers {covers}x{covers} px covers such a square"
    )


def look_at(
    detector: Detector,
    picture: Picture,
    moment: Moment,
    memory: Memory,
    tracks: TrackState,
    settings: BeliefSettings,
    ignored: BoolArray | None = None,
    window: FrameWindow | None = None,
    recall: Recall | None = None,
) -> tuple[Attention, Belief]:
    """What is to be seen in a frame, and what of it was computed anew; a pure function.

    recall: where answers of the network are looked up; not those with features.

    The detector's own threshold must be the calm rule's `candidate`, or the head's with a window;
    with a window it must give features.
    """
    now_s = clock_s(memory, moment.pts)
    attention = attend(memory, tracks, now_s, picture, moment, settings.attention, ignored)
    size = picture.width, picture.height
    if window is None:
        seen = run_looks(detector, picture, attention, recall)
        return attention, conclude(memory, tracks, attention, seen, size, moment.pts, settings)
    looked = detector.look_with_features(picture, attention.looks, features.read)
    judge = partial(window.judge, seen=looked, size=size)
    found = [boxes for boxes, _ in looked]
    told = conclude(memory, tracks, attention, found, size, moment.pts, settings, judge)
    return attention, told


# -- What the gate saw in a frame, as results tell it to whoever draws it.


def view_of(attention: Attention, form: Form, long_side: int) -> GateView | None:
    """None where no gate looked."""
    if attention.change is None:
        return None
    state = attention.change.state
    grid, size = state.grid, (form.width, form.height)
    areas = [crops.looked_at(look, size, long_side) for look in attention.looks]
    levels = np.clip(np.round(gate.sensitivity(state) * 10), 0, 255).astype(np.uint8)
    return GateView(
        columns=grid.tile_columns,
        rows=grid.tile_rows,
        tile=grid.tile_px,
        hot=np.packbits(attention.change.hot).tobytes(),
        looked=tuple((round(a), round(b), round(c), round(d)) for a, b, c, d in np.array(areas)),
        sensitivity=levels.tobytes(),
    )
