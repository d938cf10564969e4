"""The heavy pass as a model of MLServer: `mlserver start deploy/mlserver`."""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

from framegate.pipeline.heavy.kserve_tensors import OUTPUTS, Tensor
from framegate.stages.escalate.heavy_pass import HeavyTensors


class HeavyRuntime(MLModel):
    """Loads in a thread of its own, and looks there: MLServer answers health checks meanwhile."""

    async def load(self) -> bool:
        """Compile the networks."""
        self._heavy = await asyncio.to_thread(HeavyTensors)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Look at the pictures of one request."""
        inputs = {given.name: _array(given) for given in payload.inputs}
        outputs = await asyncio.to_thread(self._heavy.answer, inputs)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[_output(name, array) for name, array in outputs.items()],
        )


def _array(given: RequestInput) -> Tensor:
    values = list(given.data)
    if given.datatype == "BYTES":
        coded = [value.encode() if isinstance(value, str) else value for value in values]
        return np.array(coded, np.object_)
    return np.array(values, np.int32).reshape(given.shape)


def _output(name: str, array: Tensor) -> ResponseOutput:
    values = array.reshape(-1).tolist()
    shape = list(array.shape)
    return ResponseOutput(name=name, shape=shape, datatype=OUTPUTS[name], data=values)
