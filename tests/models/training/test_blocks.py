"""A student's blocks: folded they are plain convolutions that say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="students are torch modules")

from torch import nn  # noqa: E402

from framegate.models.training.blocks import (  # noqa: E402
    PAIR,
    Block,
    Conv,
)
from framegate.models.training.student import (  # noqa: E402
    Architecture,
    StagePlan,
    Student,
    folded,
)

SMALL = Architecture().times(0.25)
KINDS = [
    PAIR,
    Block("plain"),
    Block("rep"),
    Block("inverted", 3),
    Block("inverted", 5),
    Block("large", 7),
]


def learned(network: nn.Module) -> nn.Module:
    """Norms as after some training: none of their numbers is what it began with."""
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
                for tensor in (module.weight, module.bias, mean):
                    tensor.add_(0.3 * torch.randn(tensor.shape, generator=made))
                variance.mul_(0.5 + torch.rand(variance.shape, generator=made))
    return network.eval()


def with_blocks(spec: Block) -> Architecture:
    stages = tuple(StagePlan(one.width, (spec,) * len(one.blocks)) for one in SMALL.stages)
    return replace(SMALL, stages=stages)


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_folded_equals_unfolded(spec: Block) -> None:
    torch.manual_seed(0)
    network = learned(Student(with_blocks(spec)))
    plain = folded(network)
    picture = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for before, after in zip(network(picture), plain(picture), strict=True):
            scale = before.abs().max().clamp(min=1.0)
            assert ((after - before).abs().max() / scale).item() <= 1e-5


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_what_is_exported_has_no_norm_and_one_convolution_for_three_branches(spec: Block) -> None:
    kinds = {type(module).__name__ for module in folded(Student(with_blocks(spec))).modules()}
    assert not kinds & {"BatchNorm2d", "Rep"}


@pytest.mark.parametrize("stem", [Block("pooled"), Block("patch", 4), Block("patch", 8)], ids=str)
def test_a_stem_gives_a_fourth_of_the_picture(stem: Block) -> None:
    network = Student(replace(SMALL, stem=stem, n_classes=3)).eval()
    with torch.no_grad():
        head8, head16, head32, c3, p4 = network(torch.zeros(2, 3, 64, 96))
    assert head8.shape == (2, 47, 8, 12)
    assert head16.shape == (2, 47, 4, 6)
    assert head32.shape == (2, 47, 2, 3)
    assert c3.shape[2:] == (8, 12)
    assert p4.shape[2:] == (4, 6)


def test_a_place_may_be_empty() -> None:
    stages = tuple(StagePlan(one.width, (None,) * len(one.blocks)) for one in SMALL.stages)
    network = Student(replace(SMALL, stages=stages))
    assert not any(name.startswith("stages.0.blocks") for name, _ in network.named_parameters())
    network(torch.zeros(1, 3, 32, 32))


def test_a_part_of_a_picture_gives_what_the_whole_gives() -> None:
    """No block looks at the whole picture, or crops of the gate would see something else."""
    network = learned(Student(with_blocks(Block("inverted", 3))))
    whole = 255 * torch.rand(1, 3, 64, 512)
    with torch.no_grad():
        c3, part = network(whole)[3], network(whole[..., 128:])[3]
    assert torch.allclose(part[..., 24:], c3[..., 40:], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Block("repvgg"), "repvgg"),  # type: ignore[arg-type]
        (lambda: Block("large", 4), "kernel of large: 4"),
        (lambda: replace(SMALL, pyramid=20), "width: 20"),
        (lambda: replace(SMALL, stem=PAIR), "stem: pair3"),
        (lambda: replace(SMALL, stages=()), "stages: 0"),
        (lambda: SMALL.times(0.5, n_classes=0), "n_classes: 0"),
        (lambda: SMALL.times(1.5), "share: 1.5"),
    ],
)
def test_what_there_is_not_is_named(make: object, named: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=named):
        make()


def test_convolutions_keep_the_size_of_a_map() -> None:
    for kernel in (1, 3, 5, 7):
        assert Conv(8, 8, kernel)(torch.zeros(1, 8, 6, 10)).shape == (1, 8, 6, 10)
