"""The numbers that decide, from what a user says and a detector's policy."""

from __future__ import annotations

from dataclasses import replace

from framegate.models.detector.policy import Policy
from framegate.models.gate.crops import DEFAULT as CROPS
from framegate.models.gate.gate import DEFAULT as GATE
from framegate.models.gate.gate import limit_of
from framegate.models.gate.settings import GateSettings
from framegate.models.tracking import thresholds
from framegate.pipeline.contracts.source import Form
from framegate.stages.detect.estimate import EstimateSettings
from framegate.stages.detect.look_plan import PlanSettings
from framegate.stages.detect.options import GateOptions


def settings_for(
    options: GateOptions, choices: Policy, min_score: float | None = None, whole: bool = False
) -> EstimateSettings:
    """Return all that decides, for the detector of `choices` and the least score of a user.

    whole  it looks at whole frames only, as several networks together do
    """
    if whole and options.mode == "crops":
        options = replace(options, mode="frames")
    shown = choices.min_score if min_score is None else min_score
    calm, tracks = thresholds.settings_for(shown, exactly=min_score is not None)
    # Without parts no size but the whole's is warmed up.
    parts = CROPS if options.mode == "crops" else replace(CROPS, share=0.0)
    plan = PlanSettings(options, choices.parts[0][1], gate_settings(options), parts, calm.shown)
    return EstimateSettings(plan, tracks, calm)


def gate_settings(options: GateOptions) -> GateSettings:
    """Return the gate's numbers with the levels of `[gate]`."""
    first = min(max(GATE.tau_first, options.least), options.most)
    return replace(GATE, tau_first=first, tau_least=options.least, tau_most=options.most)


def limit_in_words(form: Form, options: GateOptions) -> str:
    """Return the gate's detection limit in pictures of this form (law 8)."""
    px, covers, levels, colour = limit_of(form.width, form.height, gate_settings(options))
    return (
        f"what changes the mean of a {px}x{px} px square of the grid by less than its tile's "
        f"threshold, {levels[0]:g} to {levels[1]:g} grey levels (colour: {2 * px}x{2 * px} px, "
        f"{colour[0]:g} to {colour[1]:g}); what covers {covers}x{covers} px covers such a square"
    )
