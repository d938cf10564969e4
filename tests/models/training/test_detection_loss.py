"""What a student is taught: which cells answer for an object, and what it costs to be wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from framegate.models.boxes import Boxes  # noqa: E402
from framegate.models.formats.nanodet import BINS, decode_cells  # noqa: E402
from framegate.models.training.detection_loss import Objects, lost  # noqa: E402

torch.set_num_threads(1)

SIZE = (96, 64)
N_CLASSES = 3


def objects(*boxes: tuple[float, float, float, float, int], unsure: tuple = ()) -> Objects:
    def parts(rows: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
        return table[:, :4], table[:, 4].long()

    return Objects(*parts(boxes), *parts(unsure))


def cells(seed: int = 0, batch: int = 1) -> torch.Tensor:
    """Outputs at random, for 8 x 12, 4 x 6, 2 x 3 and 1 x 2 cells."""
    draw = torch.Generator().manual_seed(seed)
    shape = batch, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, N_CLASSES + 4 * BINS
    return torch.randn(shape, generator=draw) - 2


def decoded(found: torch.Tensor, least: float) -> Boxes:
    return decode_cells(found.numpy(), SIZE, least, n_classes=N_CLASSES)


def trained(taught: list[Objects], steps: int = 200) -> torch.Tensor:
    """Free outputs that were moved down the loss until they fit."""
    free = cells(batch=len(taught)).requires_grad_()
    optimiser = torch.optim.Adam([free], lr=0.2)
    for _ in range(steps):
        one = lost(free, taught, SIZE)
        optimiser.zero_grad()
        (one.total / one.targets.clamp(min=1)).backward()
        optimiser.step()
    return free.detach()


def test_outputs_that_cost_least_decode_to_the_objects() -> None:
    """The decoder that serves is the oracle: small, large, at the border, a second picture."""
    wanted = [(8, 8, 20, 26, 0), (30.5, 5.25, 90, 60, 2), (0, 40, 25, 64, 1)]
    found = trained([objects(*wanted), objects((40, 10, 60, 50, 1))])
    boxes = decoded(found[0], 0.5)
    for *box, class_id in wanted:
        own = boxes.take(boxes.class_ids == class_id)
        assert len(own)
        np.testing.assert_allclose(own.xyxy, np.tile(np.float32(box), (len(own), 1)), atol=1.5)
    second = decoded(found[1], 0.5)
    assert set(second.class_ids.tolist()) == {1}


def test_nothing_there_is_learned_as_nothing() -> None:
    found = trained([objects()], steps=60)
    assert len(decoded(found[0], 0.2)) == 0


def test_an_unsure_box_costs_nothing_for_its_class_and_something_for_others() -> None:
    taught = [objects(unsure=((0, 0, 96, 64, 1),))]
    free = cells().requires_grad_()
    lost(free, taught, SIZE).total.backward()
    assert free.grad is not None
    assert not free.grad[0, :, 1].any()
    assert free.grad[0, :, 0].all()


def test_an_unsure_box_of_no_class_costs_nothing_for_all() -> None:
    free = cells().requires_grad_()
    lost(free, [objects(unsure=((0, 0, 96, 64, N_CLASSES),))], SIZE).total.backward()
    assert free.grad is None or not free.grad.any()


def test_an_object_between_cells_still_has_one() -> None:
    """One of 3 pixels has no cell's point inside; its box begins at the nearest one."""
    found = trained([objects((10, 10, 13, 13, 0))])
    boxes = decoded(found[0], 0.3)
    assert boxes.class_ids.tolist() == [0]
    np.testing.assert_allclose(boxes.xyxy[0], [8, 8, 13, 13], atol=1)


def test_the_loss_of_a_batch_is_the_sum_over_its_parts() -> None:
    taught = [objects((8, 8, 30, 30, 0)), objects((40, 10, 60, 50, 1), (5, 5, 20, 60, 2))]
    whole = lost(cells(batch=2), taught, SIZE)
    parts = [lost(cells(batch=2)[i : i + 1], [taught[i]], SIZE) for i in range(2)]
    assert float(whole.total) == pytest.approx(sum(float(one.total) for one in parts), rel=1e-5)
    assert float(whole.targets) == pytest.approx(sum(float(one.targets) for one in parts), rel=1e-5)


def test_a_lone_logit_costs_what_the_formula_says() -> None:
    """Quality focal loss of one cell, by hand: -log(1 - s) * s^2 for a target of 0."""
    free = torch.full_like(cells(), -50.0)
    free[0, 120, 1] = 1.0
    score = 1 / (1 + math.exp(-1))
    assert float(lost(free, [objects()], SIZE).total) == pytest.approx(
        -math.log(1 - score) * score**2, rel=1e-5
    )
