"""ONNX detectors that find one red or blue rectangle, with the outputs of YOLOX and of RT-DETR.

Their weights are written by hand: a pixel is red or blue if that channel exceeds the mean of the
others by half of its range; the edges are those of the coloured pixels.
"""

from __future__ import annotations

import numpy as np

from tests.support.tiny_onnx import model, node

WIDTH, HEIGHT = 128, 96
CLASSES = ("red", "blue")
STRIDES = (8, 16, 32)
SCORE = 0.9
_QUERIES = 5

Constants = dict[str, np.ndarray]


def yolox() -> bytes:
    """Levels 0 to 255, B, G, R; a row a cell: centre and sides in cells, objectness, classes.

    Cells of stride 16 have the rectangle, each relative to itself.
    """
    cells = []
    for stride in STRIDES:
        rows, columns = HEIGHT // stride, WIDTH // stride
        cells += [(x, y, stride) for y in range(rows) for x in range(columns)]
    x, y, strides = np.array(cells, np.float32).T.reshape(3, 1, -1, 1)
    nodes, constants = _edges(1 / 255, red=2, blue=0)
    constants |= {"cell x": x, "cell y": y, "strides": strides, "every": np.ones_like(x)}
    constants["objectness"] = np.where(strides == 16, SCORE, 0).astype(np.float32)
    for centre, side, axis in (("cx", "width", "x"), ("cy", "height", "y")):
        nodes += [
            node("Div", [centre, "strides"], [f"{centre} cells"]),
            node("Sub", [f"{centre} cells", f"cell {axis}"], [f"{centre} out"]),
            node("Div", [side, "strides"], [f"{side} cells"]),
            node("Log", [f"{side} cells"], [f"{side} out"]),
        ]
    nodes += [
        node("Mul", ["objectness", "found"], ["sure"]),
        node("Mul", ["classes", "every"], ["each"]),
        node(
            "Concat", ["cx out", "cy out", "width out", "height out", "sure", "each"], ["output"],
            axis=2,
        ),
    ]  # fmt: skip
    shape = [1, len(cells), 5 + len(CLASSES)]
    return model(nodes, constants, {"images": [1, 3, HEIGHT, WIDTH]}, {"output": shape})


def rt_detr() -> bytes:
    """Levels 0 to 1, R, G, B; logits and boxes (centre, sides, 0 to 1) of queries.

    All queries have the box, one has the score.
    """
    nodes, constants = _edges(1.0, red=0, blue=2)
    bias = np.full((1, _QUERIES, 1), -30.0, np.float32)
    bias[0, 3] = np.log(SCORE / (1 - SCORE)) - 20
    picture = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32).reshape(1, 1, 4)
    constants |= {
        "bias": bias,
        "picture": picture,
        "every": np.ones((1, _QUERIES, 1), np.float32),
        "twenty": np.full((1, 1, 1), 20.0, np.float32),
    }
    nodes += [
        node("Concat", ["cx", "cy", "width", "height"], ["pixels"], axis=2),
        node("Div", ["pixels", "picture"], ["shares"]),
        node("Mul", ["shares", "every"], ["pred_boxes"]),
        node("Mul", ["classes", "twenty"], ["sums"]),
        node("Add", ["sums", "bias"], ["pred_logits"]),
    ]
    outputs = {"pred_logits": [1, _QUERIES, len(CLASSES)], "pred_boxes": [1, _QUERIES, 4]}
    return model(nodes, constants, {"images": [1, 3, HEIGHT, WIDTH]}, outputs)


def _edges(scale: float, red: int, blue: int) -> tuple[list[bytes], Constants]:
    """Nodes that give cx, cy, width, height, found (1, 1, 1) and classes (1, 1, 2).

    scale      factor of a level for 0 to 1
    red, blue  their channels
    """
    kernel = np.full((2, 3, 1, 1), -0.5, np.float32)
    kernel[0, red] = kernel[1, blue] = 1.0
    across = np.arange(WIDTH, dtype=np.float32).reshape(1, 1, 1, WIDTH)
    down = np.arange(HEIGHT, dtype=np.float32).reshape(1, 1, HEIGHT, 1)
    constants: Constants = {
        "kernel": kernel * np.float32(scale),
        "threshold": np.full(2, -0.5, np.float32),
        "one": np.array([1, 1, 1], np.int64),
        "half": np.full((1, 1, 1), 0.5, np.float32),
        "least": np.full((1, 1, 1), 1.0, np.float32),
        "row": np.array([1, 1, 2], np.int64),
    }
    nodes = [
        node("Conv", ["images", "kernel", "threshold"], ["colour"]),
        node("Relu", ["colour"], ["above"]),
        node("Sign", ["above"], ["is_coloured"]),
        node("ReduceMax", ["is_coloured"], ["of_class"], axes=[2, 3], keepdims=1),
        node("Reshape", ["of_class", "row"], ["classes"]),
        node("ReduceMax", ["classes"], ["found"], axes=[2], keepdims=1),
        node("ReduceMax", ["is_coloured"], ["any"], axes=[1], keepdims=1),
    ]
    for centre, side, axis, places, length in (
        ("cx", "width", 2, across, WIDTH),
        ("cy", "height", 3, down, HEIGHT),
    ):
        constants |= {
            f"{side} from start": places + 1,
            f"{side} from end": length - places,
            f"{side} length": np.full((1, 1, 1), length, np.float32),
        }
        nodes.append(node("ReduceMax", ["any"], [f"{side} line"], axes=[axis], keepdims=1))
        for end in ("start", "end"):
            nodes += [
                node("Mul", [f"{side} line", f"{side} from {end}"], [f"{side} places {end}"]),
                node(
                    "ReduceMax", [f"{side} places {end}"], [f"{side} far {end}"],
                    axes=[2, 3], keepdims=1,
                ),
                node("Reshape", [f"{side} far {end}", "one"], [f"{side} edge {end}"]),
            ]  # fmt: skip
        nodes += [
            # The far edge, and the distance of the near edge from the far side of the picture.
            node("Sub", [f"{side} length", f"{side} edge end"], [f"{side} near"]),
            node("Sub", [f"{side} edge start", f"{side} near"], [f"{side} signed"]),
            node("Max", [f"{side} signed", "least"], [side]),
            node("Add", [f"{side} edge start", f"{side} near"], [f"{side} sum"]),
            node("Mul", [f"{side} sum", "half"], [centre]),
        ]
    return nodes, constants
