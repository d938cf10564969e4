"""Pictures at the size of an input and back; what outputs cannot mean; bf16 against f32."""

import numpy as np
import pytest

from framegate.models.boxes import Boxes
from framegate.models.conversion.guess import SSD_OPTIONS
from framegate.models.conversion.proof import Proof, counts, doubtful
from framegate.models.errors import ArrayMismatch
from framegate.models.formats.ssd import default_boxes
from framegate.models.picture import from_bgr, to_source
from framegate.models.registry.manifest import InputSpec
from framegate.models.registry.open import fit


def boxes(*rows):
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(
        np.ascontiguousarray(table[:, 2:]), table[:, 1].copy(), table[:, 0].astype(np.int32)
    )


@pytest.mark.parametrize(
    ("fit_", "rect"),
    [("letterbox", (0, 10, 80, 40)), ("corner", (0, 0, 80, 40)), ("stretch", (0, 0, 80, 60))],
)
def test_a_picture_at_the_size_of_an_input(fit_, rect):
    spec = InputSpec(80, 60, fit_, fill=7)
    white = from_bgr(np.full((80, 160, 3), 255, np.uint8))
    fitted = fit(white, spec)
    left, top, width, height = rect
    assert (fitted.bgr[top : top + height, left : left + width] == 255).all()
    assert fitted.bgr.astype(int).sum() == 3 * (255 * width * height + 7 * (4800 - width * height))
    whole = np.array([[left, top, left + width, top + height]], np.float32)
    assert to_source(whole, fitted).tolist() == [[0, 0, 160, 80]]
    assert to_source(whole * 9 - 100, fitted).tolist()[0][:2] == [0, 0]  # cut at the border


def test_a_thin_picture_keeps_a_row():
    line = from_bgr(np.full((1, 5000, 3), 255, np.uint8))
    rows = (fit(line, InputSpec(640, 640)).bgr == 255).all(axis=(1, 2))
    assert np.flatnonzero(rows).tolist() == [319]


def test_what_bf16_says_is_held_against_f32():
    exact = boxes([0, 0.9, 0, 0, 10, 10], [1, 0.8, 20, 20, 30, 30])
    moved = boxes([0, 0.9, 0, 0, 10, 4], [1, 0.8, 20, 20, 30, 30])
    assert Proof({"f32": (exact,), "bf16": (exact,)}, {}, 0.9).agreement == 1
    assert Proof({"f32": (exact,), "bf16": (moved,)}, {}, 0.9).agreement == 0.5
    assert Proof({"f32": (exact,)}, {}, 0.9).agreement is None


def test_counts_of_classes():
    found = [boxes([1, 0.9, 0, 0, 1, 1], [0, 0.8, 0, 0, 1, 1]), boxes([1, 0.5, 0, 0, 1, 1])]
    assert counts(found, ("car", "dog")) == [
        ("dog", 2, 0.5, pytest.approx(0.9)),
        ("car", 1, pytest.approx(0.8), pytest.approx(0.8)),
    ]


def test_numbers_that_cannot_be_what_the_format_means():
    logits, scores = np.array([[-3, 4]], np.float32), np.array([[0.1, 0.9]], np.float32)
    four = np.ones((1, 4), np.float32)
    assert "are they logits?" in (doubtful("boxes_scores", [four, logits], {}) or "")
    assert doubtful("boxes_scores", [four, scores], {}) is None
    assert "are they scores?" in (doubtful("detr_sigmoid", [scores, four], {}) or "")
    assert doubtful("detr_sigmoid", [logits, four], {}) is None
    heat = scores[None]
    assert "--option heat=scores" in (doubtful("centernet_usual", [heat], {}) or "")
    assert doubtful("centernet_usual", [heat], {"heat": "scores"}) is None
    joined = np.concatenate([four, logits], axis=1)
    assert "are they logits?" in (doubtful("yolo", [joined], {"layout": "rows"}) or "")


def test_default_boxes_by_hand():
    options = {"aspect_ratios": [[4], []], "scales": [0.2, 0.4, 0.9], "grids": [[1, 2], [1, 1]]}
    found = default_boxes(options, (100, 50))
    between = (0.2 * 0.4) ** 0.5
    first = [(0.2, 0.2), (between, between), (0.4, 0.1), (0.1, 0.4)]
    wanted = [(x, 0.5, *sides) for x in (0.25, 0.75) for sides in first]
    wanted += [(0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.6, 0.6)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    with pytest.raises(ArrayMismatch, match="3 scales and 2 grids"):
        default_boxes({**options, "scales": [0.1]}, (100, 50))


@pytest.mark.parametrize("size", [(300, 300), (320, 320)])
def test_default_boxes_are_torchvisions(size):
    torch = pytest.importorskip("torch", reason="torchvision's own boxes need torch")
    pytest.importorskip("torchvision", reason="the boxes are held against torchvision's")
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    (options,) = (one for (own, _), one in SSD_OPTIONS.items() if own == size)
    made = {key: options[key] for key in options if key != "grids"}
    generator = DefaultBoxGenerator(**made)
    grids = options.get("grids") or [[-(-size[1] // s), -(-size[0] // s)] for s in options["steps"]]
    wanted = generator._grid_default_boxes(grids, list(size[::-1]), dtype=torch.float32)
    found = default_boxes(options, size)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6, atol=1e-6)
    assert (size, len(found)) in SSD_OPTIONS
