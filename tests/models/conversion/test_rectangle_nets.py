"""The documented ONNX families, end to end: networks that find a coloured rectangle are added by
the command of the documents, and find it in pictures of other sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from framegate.cli.main import main
from framegate.models.picture import from_bgr
from framegate.models.registry.open import open_model
from framegate.models.registry.registry import Registry
from tests.support import rectangle_nets
from tests.support.rectangle_nets import CLASSES, SCORE

COLOURS = {"red": (20, 20, 235), "blue": (235, 20, 20)}  # B, G, R
FAMILIES = [("yolox", rectangle_nets.yolox), ("detr_sigmoid", rectangle_nets.rt_detr)]


def scene(
    size: tuple[int, int], box: tuple[int, int, int, int] | None, colour: str = "red"
) -> np.ndarray:
    """A grey picture of (width, height) with a rectangle (left, top, right, bottom)."""
    bgr = np.full((size[1], size[0], 3), 110, np.uint8)
    if box is not None:
        left, top, right, bottom = box
        bgr[top:bottom, left:right] = COLOURS[colour]
    return bgr


@pytest.mark.whole_run
@pytest.mark.parametrize(("family", "network"), FAMILIES)
def test_a_network_of_a_documented_family_finds_its_rectangle(
    family: str, network: Callable[[], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture, drawn = tmp_path / "net.onnx", tmp_path / "scene.png", tmp_path / "drawn.png"
    file.write_bytes(network())
    cv2.imwrite(str(picture), scene((256, 192), (64, 32, 160, 128)))
    words = ["models", "add", str(file), "--name", "square", "--classes", ",".join(CLASSES)]
    words += ["--format", family, "--picture", str(picture), "--drawn", str(drawn)]
    registry = tmp_path / "registry"
    assert main([*words, "--registry", str(registry)]) == 0
    out = capsys.readouterr().out
    assert f"1 red, score {SCORE:.2f} to {SCORE:.2f}" in out
    assert "added: square@1" in out
    assert drawn.is_file()
    detector = open_model(Registry(registry).find("square"), "f32", 1)
    # Another size, another aspect, and every colour; then a picture without a rectangle.
    for size, box, colour in (
        ((128, 96), (16, 8, 48, 40), "red"),
        ((320, 180), (200, 40, 280, 140), "blue"),
        ((200, 300), (20, 150, 120, 250), "red"),
    ):
        (boxes,) = detector.detect([from_bgr(scene(size, box, colour))])
        assert [CLASSES[number] for number in boxes.class_ids] == [colour]
        assert boxes.scores[0] == pytest.approx(SCORE, abs=1e-3)
        # A pixel of the network's input is up to 3.1 pixels of the picture.
        np.testing.assert_allclose(boxes.xyxy[0], box, atol=4.0)
    (nothing,) = detector.detect([from_bgr(scene((128, 96), None))])
    assert len(nothing) == 0


@pytest.mark.parametrize(("family", "network"), FAMILIES)
def test_the_other_order_of_channels_swaps_the_colours(
    family: str, network: Callable[[], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "net.onnx", tmp_path / "scene.png"
    file.write_bytes(network())
    cv2.imwrite(str(picture), scene((128, 96), (16, 8, 80, 64)))
    wrong = {"yolox": "rgb", "detr_sigmoid": "bgr"}[family]
    words = ["models", "add", str(file), "--name", "square", "--classes", ",".join(CLASSES)]
    words += ["--format", family, "--colour", wrong, "--picture", str(picture)]
    assert main([*words, "--registry", str(tmp_path / "registry")]) == 0
    assert "1 blue, score" in capsys.readouterr().out
