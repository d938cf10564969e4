"""Small detectors with random weights as people export them, and their own post-processing.

Each is built so that scores spread and boxes lie in the picture. Needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEIGHT = 96, 64
N_CLASSES = 5
STRIDES = (8, 16, 32)


class Grid(nn.Module):
    """Features of each cell, (1, channels, cells): one convolution a stride, on coarse pixels."""

    def __init__(self, channels: int, per_cell: int = 1) -> None:
        super().__init__()
        self.per_cell = per_cell
        self.convs = nn.ModuleList(nn.Conv2d(3, channels * per_cell, s, s) for s in STRIDES)
        centres, strides = [], []
        for conv, stride in zip(self.convs, STRIDES, strict=True):
            # Random features of grey pictures spread with the size of the kernel.
            nn.init.normal_(conv.weight, std=2 / stride)
            nn.init.normal_(conv.bias, std=1)
            y, x = torch.meshgrid(
                torch.arange(HEIGHT // stride), torch.arange(WIDTH // stride), indexing="ij"
            )
            centre = torch.stack([x, y]).flatten(1).float()
            centres.append(centre.repeat_interleave(per_cell, dim=1))
            strides.append(torch.full((centres[-1].shape[1],), float(stride)))
        self.register_buffer("cells", torch.cat(centres, 1))
        self.register_buffer("strides", torch.cat(strides))

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for conv in self.convs:
            out = conv(x)
            n = out.shape[1] // self.per_cell
            out = out.view(1, n, self.per_cell, -1).transpose(2, 3)
            parts.append(out.reshape(1, n, -1))
        return torch.cat(parts, 2)


class YoloV8(nn.Module):
    """(1, 4 + classes, cells)."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = Grid(4 + N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.grid(x)
        centre = (self.grid.cells + 0.5 + out[:, :2].tanh()) * self.grid.strides
        sides = (out[:, 2:4].sigmoid() * 4 + 0.5) * self.grid.strides
        return torch.cat([centre, sides, (out[:, 4:] - 1).sigmoid()], 1)


class YoloV5(nn.Module):
    """(1, cells * 3, 5 + classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = Grid(5 + N_CLASSES, per_cell=3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.grid(x)
        centre = (self.grid.cells + out[:, :2].sigmoid() * 2 - 0.5) * self.grid.strides
        sides = (out[:, 2:4].sigmoid() * 2) ** 2 * self.grid.strides
        return torch.cat([centre, sides, out[:, 4:].sigmoid()], 1).transpose(1, 2)


class YoloX(nn.Module):
    """(1, cells, 5 + classes), as the head gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = Grid(5 + N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.grid(x / 255)
        return torch.cat([out[:, :4].tanh(), out[:, 4:].sigmoid()], 1).transpose(1, 2)


class EndToEnd(nn.Module):
    """(1, 50, 6): the best of YoloV8, one box a cell, as v10 gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = YoloV8()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)[0].T
        half = out[:, 2:4] / 2
        scores, classes = out[:, 4:].max(1)
        best, at = scores.topk(50)
        xyxy = torch.cat([out[:, :2] - half, out[:, :2] + half], 1)[at]
        return torch.cat([xyxy, best[:, None], classes[at][:, None].float()], 1)[None]


class Detr(nn.Module):
    """Logits (1, Q, classes + spare) and boxes (1, Q, 4), a query a cell of the grid."""

    def __init__(self, spare: int) -> None:
        super().__init__()
        self.grid = Grid(4 + N_CLASSES + spare)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.grid(x).transpose(1, 2)
        return out[..., 4:], out[..., :4].sigmoid()


def nms(xyxy: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    """torchvision's, over all classes at once: one thing has one box."""
    from torchvision import ops

    kept: Tensor = ops.nms(xyxy, scores, max_iou)
    return kept


def yolo_answer(out: Tensor, min_score: float, max_iou: float) -> list[list[float]]:
    """Of (cells, 4 + classes), as the family's non_max_suppression does it with agnostic_nms."""
    scores, classes = out[:, 4:].max(1)
    keep = scores > min_score
    centre, sides = out[keep, :2], out[keep, 2:4]
    xyxy = torch.cat([centre - sides / 2, centre + sides / 2], 1)
    kept = nms(xyxy, scores[keep], max_iou)
    return rows(xyxy[kept], scores[keep][kept], classes[keep][kept])


def yolov5_answer(out: Tensor, min_score: float, max_iou: float) -> list[list[float]]:
    """The same of (boxes, 5 + classes)."""
    return yolo_answer(torch.cat([out[:, :4], out[:, 5:] * out[:, 4:5]], 1), min_score, max_iou)


def yolox_answer(net: YoloX, out: Tensor, min_score: float, max_iou: float) -> list[list[float]]:
    """The same of cells, as YOLOX's own decode_outputs does it."""
    strides = net.grid.strides[:, None]
    centre = (out[:, :2] + net.grid.cells.T) * strides
    sides = torch.exp(out[:, 2:4]) * strides
    return yolov5_answer(torch.cat([centre, sides, out[:, 4:]], 1), min_score, max_iou)


def detr_answer(logits: Tensor, boxes: Tensor, min_score: float, spare: int) -> list[list[float]]:
    """As DETR's PostProcess, and as Deformable DETR's where no class is spare."""
    from torchvision.ops import box_convert

    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    xyxy = box_convert(boxes, "cxcywh", "xyxy") * scale
    if spare:
        scores, classes = logits.softmax(-1)[:, :-1].max(-1)
        at = torch.arange(len(scores))
    else:
        shares = logits.sigmoid().flatten()
        scores, flat = shares.topk(len(shares))
        at, classes = flat // N_CLASSES, flat % N_CLASSES
    keep = scores > min_score
    return rows(xyxy[at[keep]], scores[keep], classes[keep])


def rows(xyxy: Tensor, scores: Tensor, classes: Tensor) -> list[list[float]]:
    """Class, score and box of each, highest score first."""
    order = scores.argsort(descending=True, stable=True)
    table = torch.cat([classes[:, None].to(xyxy), scores[:, None], xyxy], 1)[order]
    return table.tolist()


def to_onnx(
    net: nn.Module, path: Path, outputs: Sequence[str],
    shape: Sequence[int] = (1, 3, HEIGHT, WIDTH), metadata: dict[str, str] | None = None,
    **more: Any,
) -> Path:  # fmt: skip
    """Exported as most people do it."""
    import onnx

    torch.onnx.export(
        net.eval(), (torch.zeros(*shape),), str(path), dynamo=False, input_names=["images"],
        output_names=list(outputs), opset_version=17, **more,
    )  # fmt: skip
    if metadata:
        model = onnx.load(path)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, path)
    return path


def wake(ssd: Any) -> None:
    """Gives an SSD statistics of noise and heads that find something: untrained it says nothing."""
    norms = [one for one in ssd.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    ssd.train()
    with torch.no_grad():
        noise = torch.rand(4, 3, 20, 20).repeat_interleave(16, 2).repeat_interleave(16, 3)
        ssd.head(list(ssd.backbone((noise - 0.5) / 0.5).values()))
    ssd.eval()
    for heads, std in ((ssd.head.classification_head, 0.03), (ssd.head.regression_head, 0.02)):
        for last in (one[-1] for one in heads.module_list):
            nn.init.normal_(last.weight, std=std)
    for last in (one[-1] for one in ssd.head.classification_head.module_list):
        with torch.no_grad():
            last.bias.view(-1, N_CLASSES + 1)[:, 0] += 5  # the background
