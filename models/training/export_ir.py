"""Conversion of a trained network to OpenVINO (needs the `train` extra)."""

import copy
from typing import Final

import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor

from framegate.models.errors import ArrayMismatch
from framegate.models.picture import STEP
from framegate.models.training.nanodet_plus import NanoDetPlus

OUTPUT: Final = "cells"


def export(net: NanoDetPlus, size: tuple[int, int] | None = None) -> ov.Model:
    """Convert a network: uint8 (1, H, W, 3) in the order B, G, R, to `cells`.

    Normalisation is inside. `cells` is float32 (1, N, classes + 32): registry format
    `nanodet_joined` with scores as logits.

    size  (width, height) of its input; None: any multiples of 32, also for parts of pictures

    Raises ArrayMismatch.
    """
    if size is not None and any(side < STEP or side % STEP for side in size):
        raise ArrayMismatch("size", f"multiples of {STEP}", f"{size}")
    with torch.no_grad():
        model = ov.convert_model(
            copy.deepcopy(net).eval(),
            example_input=torch.zeros(1, 3, 96, 128),
            input=[1, 3, -1, -1],
        )
    model.outputs[0].get_tensor().set_names({OUTPUT})
    model.inputs[0].get_tensor().set_names({"picture"})
    prepost = PrePostProcessor(model)
    prepost.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    prepost.input().model().set_layout(ov.Layout("NCHW"))
    model = prepost.build()
    if size is not None:
        model.reshape([1, size[1], size[0], 3])
    return model
