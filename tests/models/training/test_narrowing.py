"""Narrower copies of the general detector, and the least squares that give them their weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from framegate.models.training.nanodet_plus import (  # noqa: E402
    Architecture,
    NanoDetPlus,
    as_input,
    shuffled,
)
from framegate.models.training.narrowing import RIDGE, kept_in_shuffles, narrowed  # noqa: E402


def made(width: int, n_classes: int) -> NanoDetPlus:
    """As wide everywhere."""
    units = ((width,) * 4, (width,) * 8, (width,) * 4)
    return NanoDetPlus(
        Architecture(width, (width,) * 3, units, 32, (32,) * 4, ((width, width),) * 4, n_classes)
    ).eval()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pictures(n: int = 4, height: int = 64, width: int = 96) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return as_input(rng.integers(0, 256, (n, height, width, 3), np.uint8))


def lively(net: NanoDetPlus) -> NanoDetPlus:
    """With weights that let activations neither die nor grow, as a trained network has them."""
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, a=0.1)
            nn.init.normal_(conv.bias, std=0.1)
    return net.eval()


def test_of_equal_width_it_is_the_same_network() -> None:
    wide = lively(made(16, 5))
    same = narrowed(wide, made(16, 5), pictures(), range(5))
    with torch.no_grad():
        ours, theirs = same(pictures()), wide(pictures())
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_narrow_layer_is_the_ridge_solution() -> None:
    """The stem's own: all its cells are few enough to be looked at, so numpy can say what it is."""
    wide, narrow = lively(made(16, 5)), made(8, 5)
    of_wide, of_narrow = wide.stem, narrow.stem
    narrowed(wide, narrow, pictures(), range(5))
    normal = (pictures() - wide.mean) / wide.std
    with torch.no_grad():
        before = of_wide.linear(normal)
    told = functional.leaky_relu(before, 0.1).std((0, 2, 3)).numpy()
    kept = np.sort(np.argsort(-told)[:8])
    patches = functional.unfold(normal, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 27)
    inputs = np.hstack([patches.numpy(), np.ones((len(patches), 1))]).astype(np.float64)
    wanted = before.permute(0, 2, 3, 1).reshape(-1, 16).numpy()[:, kept].astype(np.float64)
    own = np.hstack([of_wide.weight.detach().numpy()[kept].reshape(8, 27),
                     of_wide.bias.detach().numpy()[kept, None]])  # fmt: skip
    weight = np.sqrt(RIDGE * (inputs**2).sum(0).mean())
    rows = np.vstack([inputs, weight * np.eye(28)])
    expected = np.linalg.lstsq(rows, np.vstack([wanted, weight * own.T]), rcond=None)[0].T
    np.testing.assert_allclose(
        of_narrow.weight.detach().numpy().reshape(8, 27), expected[:, :27], atol=1e-5
    )
    np.testing.assert_allclose(of_narrow.bias.detach().numpy(), expected[:, 27], atol=1e-5)


def test_a_deep_depthwise_layer_answers_for_a_channel_of_the_wide_one() -> None:
    """Ridge 0: each output's residual is at right angles to the nine inputs of its channel."""
    wide, narrow = lively(made(16, 5)), made(8, 5)
    narrowed(wide, narrow, pictures(), range(5), ridge=1e-9)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> object:
        return lambda _, given, out: seen.update({f"{name} in": given[0], f"{name} out": out})

    for name, net in (("wide", wide), ("narrow", narrow)):
        net.stages[1].units[2].branch.end.depth.register_forward_hook(keep(name))
        with torch.no_grad():
            net(pictures())
    ours = seen["narrow out"].permute(1, 0, 2, 3).flatten(1)
    theirs = seen["wide out"].permute(1, 0, 2, 3).flatten(1)
    inputs = seen["narrow in"].permute(1, 0, 2, 3)
    for channel, of_one in enumerate(inputs):
        patches = functional.unfold(of_one[:, None], 3, padding=1).transpose(1, 2).flatten(0, 1)
        gaps = theirs - ours[channel]
        along = (gaps @ patches).norm(dim=1) / (gaps.norm(dim=1) * patches.norm())
        assert along.min() < 1e-4  # of the channel that it repeats


def test_channels_keep_their_side_in_all_shuffles() -> None:
    """A stage of units that change nothing shuffles both networks; each split has the same side."""
    values = torch.rand(88, generator=torch.Generator().manual_seed(1))
    for n in (8, 24, 80, 88):
        ahead = 3
        kept = [kept_in_shuffles(values, n, ahead, place) for place in (0, 1)]
        at = torch.stack((2 * kept[0], 2 * kept[1] + 1), dim=1).flatten()
        for left in range(ahead - 1, -1, -1):
            old, changed = at.chunk(2)
            assert (old < 88).all()
            assert (changed >= 88).all()
            new = kept_in_shuffles(values, n, left, 1)
            pair = [ids.view(1, -1, 1, 1) for ids in (2 * old, 2 * new + 1)]
            at = shuffled(*pair).flatten()


def test_the_channels_with_the_greatest_values_stay() -> None:
    values = torch.tensor([5.0, 1, 2, 9, 3, 8, 7, 0])
    assert kept_in_shuffles(values, 4, 0, 0).tolist() == [0, 3, 5, 6]
    # With a unit ahead, two of each half stay.
    assert kept_in_shuffles(values, 4, 1, 0).tolist() == [0, 3, 5, 6]
    values[6] = -1
    assert kept_in_shuffles(values, 4, 1, 0).tolist() == [0, 3, 4, 5]
    assert kept_in_shuffles(values, 8, 3, 1).tolist() == list(range(8))


def test_widths_that_differ_from_layer_to_layer_fit_together() -> None:
    wide = lively(made(32, 2))
    plan = replace(
        wide.architecture,
        stages=(24, 32, 8),
        units=((8, 16, 24, 32), (32, 8) * 4, (16,) * 4),
        pyramid=16,
        ghosts=(32, 16, 16, 32),
        heads=((8, 16), (16, 8), (24, 24), (8, 8)),
    )
    cut = narrowed(wide, NanoDetPlus(plan).eval(), pictures(), range(2))
    with torch.no_grad():
        assert cut(pictures()).isfinite().all()


def test_more_channels_are_closer() -> None:
    wide = lively(made(32, 2))
    gaps = []
    for share in (0.25, 0.5, 1.0):
        cut = NanoDetPlus(wide.architecture.times(share)).eval()
        narrowed(wide, cut, pictures(), range(2))
        with torch.no_grad():
            gaps.append(float((cut(pictures()) - wide(pictures())).norm()))
    assert all(fewer > more for fewer, more in pairwise(gaps))


def test_the_head_keeps_the_classes_that_are_named_in_their_order() -> None:
    wide = lively(made(16, 5))
    cut = narrowed(wide, made(16, 3), pictures(), [4, None, 1])
    with torch.no_grad():
        ours, theirs = cut(pictures()), wide(pictures())
    for place, was in ((0, 4), (2, 1), (slice(3, None), slice(5, None))):
        gap = (ours[..., place] - theirs[..., was]).abs().max()
        assert gap <= 1e-4 * theirs.abs().max()
    assert torch.sigmoid(ours[..., 1]).max() == pytest.approx(0.01, abs=1e-3)
