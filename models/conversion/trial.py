"""What a network says about some pictures, for the eyes of whoever adds it.

It runs apart (see `convert_apart`).
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from framegate.models.errors import ModelRefused


def run(file: str, outputs: Sequence[str], pictures: Sequence[str]) -> dict[str, Any]:
    """Writes `<precision>-<picture>-<output>.npy` for each, float32 without the batch axis.

    pictures  .npy files, uint8 (H, W, 3) of the network's input

    The answer: the precisions that this CPU has, and milliseconds of the last picture at each.
    Raises ModelRefused for outputs that are not finite, or not float32 with a batch of 1.
    """
    core = ov.Core()
    model = core.read_model(file)
    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    taken: dict[str, float] = {}
    for precision in ("f32", "bf16") if "BF16" in abilities else ("f32",):
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
        request = core.compile_model(model, "CPU", options).create_infer_request()
        for i, picture in enumerate(pictures):
            bgr = np.load(picture, allow_pickle=False)
            start = time.perf_counter()
            request.infer([bgr[None]])
            taken[precision] = (time.perf_counter() - start) * 1e3
            for j, name in enumerate(outputs):
                np.save(f"{precision}-{i}-{j}.npy", _checked(file, name, request, precision))
    return {"ms": taken}


def _checked(file: str, name: str, request: Any, precision: str) -> Any:
    data = request.get_tensor(name).data
    if data.ndim < 2 or data.shape[0] != 1 or data.dtype != np.float32:
        why = f"output {name} is {data.dtype} {data.shape}; allowed is float32 with a batch of 1"
        raise ModelRefused(file, why)
    if not np.isfinite(data).all():
        n = int((~np.isfinite(data)).sum())
        why = f"output {name} has {n} of {data.size} numbers that are NaN or infinite ({precision})"
        raise ModelRefused(file, f"{why}; are scale, mean and std right?")
    return data[0]
