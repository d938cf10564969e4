"""Makes `weights/window-head.xml` and `.bin` from the safetensors file (needs the `train` extra).

    python -m framegate.models.training.export_window_head

Weights stay in float32: there are few, and a window's answers must not depend on who computed a
key. Every input has a first axis of any length; `models.window.head` gives it a few
fixed ones.
"""

from pathlib import Path

import openvino as ov
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from framegate.models.training.window_head import LENGTH, WIDTH, BoxRows, WindowHeadModule
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
NAME = "window-head"
SEEN = ("boxes", "scores", "class_ids", "ids")
INPUTS = ("features", *SEEN, "keys", "values", *(f"past_{name}" for name in SEEN), "ages", "looks")
OUTPUTS = ("new_keys", "new_values", "thing", "score")


class Flat(nn.Module):
    """The head with its records taken apart, as a network's inputs are."""

    def __init__(self, head: WindowHeadModule) -> None:
        super().__init__()
        self.head = head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, keys, values, ages, looks = (inputs[i] for i in (0, 5, 6, 11, 12))
        out: tuple[Tensor, Tensor, Tensor, Tensor] = self.head(
            features, BoxRows(*inputs[1:5]), keys, values, BoxRows(*inputs[7:11]), ages, looks
        )
        return out


def torch_head(weights: Path = WEIGHTS) -> WindowHeadModule:
    """The torch module with its committed weights, in evaluation mode."""
    head = WindowHeadModule()
    head.load_state_dict(load_file(weights / f"{NAME}.safetensors"))
    head.eval()
    return head


def example(n: int, m: int) -> tuple[Tensor, ...]:
    """Inputs of the right shapes and types, all zeros."""
    numbers = torch.int32
    seen = [
        (torch.zeros(k, 4), torch.zeros(k), torch.zeros(k, dtype=numbers), torch.zeros(k).int())
        for k in (n, m)
    ]
    past = (torch.zeros(m, WIDTH), torch.zeros(m, WIDTH), *seen[1])
    return torch.zeros(n, LENGTH), *seen[0], *past, torch.zeros(m), torch.zeros(1)


def convert(head: WindowHeadModule) -> ov.Model:
    """The OpenVINO model of `head`, its inputs in the order of INPUTS."""
    with torch.no_grad():
        model = ov.convert_model(Flat(head), example_input=example(2, 5))
    for ports, names in ((model.inputs, INPUTS), (model.outputs, OUTPUTS)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return model


def main() -> None:
    path = WEIGHTS / f"{NAME}.xml"
    ov.save_model(convert(torch_head()), path, compress_to_fp16=False)
    print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
