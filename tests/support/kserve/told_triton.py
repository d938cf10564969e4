"""The told model in Triton's Python backend."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from framegate.pipeline.heavy.kserve_tensors import INPUTS
from tests.support.kserve import told_model


class TritonPythonModel:
    """Triton's own names."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = {n: pb_utils.get_input_tensor_by_name(request, n).as_numpy() for n in INPUTS}
        outputs = told_model.answer(inputs)
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items()]
        return pb_utils.InferenceResponse(tensors)
