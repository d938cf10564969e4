"""The shipped networks give what torch gave: tensors in `golden/`, made by `golden/make.py`."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from framegate.models.detector.network import Network, shipped

GOLDEN = Path(__file__).parent / "golden"
SIZES = ("64x96", "96x160")
# Largest difference seen: 1e-5.
OUTPUTS = {
    "nanodet": {"head8": 1e-4, "head16": 1e-4, "head32": 1e-4, "c3": 2e-5, "p4": 2e-5},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_openvino_f32_is_torch(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    network = Network(shipped(name, "f32"), tuple(OUTPUTS[name]), "f32", 1)
    for size in SIZES:
        token = network.submit(golden[f"{size}/picture"])
        found = network.read(token, lambda outputs: [array.copy() for array in outputs])
        for (output, tolerance), array in zip(OUTPUTS[name].items(), found, strict=True):
            wanted = golden[f"{size}/{output}"]
            np.testing.assert_allclose(array, wanted, rtol=0, atol=tolerance, err_msg=output)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed (train extra)")
@pytest.mark.parametrize("name", OUTPUTS)
def test_torch_is_still_what_it_was(name):
    import torch

    from framegate.models.training.export_ir import torch_model

    golden = np.load(GOLDEN / f"{name}.npz")
    module = torch_model(name)
    for size in SIZES:
        picture = torch.from_numpy(golden[f"{size}/picture"].astype(np.float32))
        with torch.no_grad():
            found = module(picture.permute(2, 0, 1)[None])
        for (output, tolerance), tensor in zip(OUTPUTS[name].items(), found, strict=True):
            wanted = golden[f"{size}/{output}"]
            np.testing.assert_allclose(tensor[0].numpy(), wanted, rtol=0, atol=tolerance)


def test_golden_pictures_are_not_dull():
    """A network that ignored its input would pass on a flat picture."""
    for name in OUTPUTS:
        golden = np.load(GOLDEN / f"{name}.npz")
        for size in SIZES:
            assert golden[f"{size}/picture"].std() > 30
            assert golden[f"{size}/{next(iter(OUTPUTS[name]))}"].std() > 0.5
