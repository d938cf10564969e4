"""Makes the golden tensors beside it: what torch answers on two made pictures (needs `train`).

    python -m tests.models.golden.make

One file a network; for each size the input, uint8 (H, W, 3) in the order B, G, R, and every output.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from framegate.models.training.export_ir import OUTPUTS, torch_model

FOLDER = Path(__file__).parent
SIZES = ((64, 96), (96, 160))


def made_picture(height: int, width: int) -> np.ndarray:
    """Soft coloured blobs with a little noise: inputs on which many channels are busy."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(soft + rng.integers(-12, 13, soft.shape), 0, 255).astype(np.uint8)


def answers(name: str, picture: np.ndarray) -> list[np.ndarray]:
    """Every output of the torch module for one picture, float32, without the batch axis."""
    nchw = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return [output[0].numpy() for output in torch_model(name)(nchw)]


def main() -> None:
    for name, outputs in OUTPUTS.items():
        arrays = {}
        for height, width in SIZES:
            picture = made_picture(height, width)
            arrays[f"{height}x{width}/picture"] = picture
            for output, array in zip(outputs, answers(name, picture), strict=True):
                arrays[f"{height}x{width}/{output}"] = array
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
