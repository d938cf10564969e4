"""A float network as one that computes on 8-bit integers (needs the `train` extra: NNCF)."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Literal

import openvino as ov

from framegate.models.errors import NotInstalled, NotQuantised
from framegate.models.picture import ByteArray


def quantised(
    model: ov.Model,
    inputs: Sequence[ByteArray],
    *,
    float_layers: Sequence[str] = (),
    weight_bits: Literal[7, 8] = 7,
    accurate_bias: bool = False,
) -> ov.Model:
    """`model` with weights and activations of 8 bits, its ranges taken from `inputs`.

    inputs         uint8 (1, H, W, 3) as the network takes them, at least one
    float_layers   names of operations that stay as they are
    weight_bits    7: half of the range of int8. A CPU without VNNI adds two products in 16 bits,
                   which 8-bit weights overflow, without a word. 8: only for a network that was
                   measured on such a CPU
    accurate_bias  slower, layer after layer; for some networks better

    Raises NotInstalled, NotQuantised. `model` is left as it was.
    """
    try:
        import nncf
    except ImportError as fault:
        raise NotInstalled("nncf", "train", "to quantise a model") from fault
    fix = nncf.OverflowFix.ENABLE if weight_bits == 7 else nncf.OverflowFix.FIRST_LAYER
    scope = nncf.IgnoredScope(names=list(float_layers)) if float_layers else None
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.quantize(
                model,
                nncf.Dataset(list(inputs)),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
                fast_bias_correction=not accurate_bias,
                ignored_scope=scope,
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
            )
    except Exception as fault:  # of a network that it does not know it raises whatever comes
        raise NotQuantised(f"{type(fault).__name__}: {fault}") from fault
