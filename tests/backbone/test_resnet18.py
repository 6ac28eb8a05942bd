import math

import pytest
import torch

from backbone.resnet18 import ResNet18
from tests.backbone.rig import Places, build, convolutions, num_parameters


def test_number_of_parameters():
    assert num_parameters(build(ResNet18)) == 11_168_832


@pytest.mark.parametrize("nf", [1, 4, 20])
def test_number_of_parameters_of_any_width(nf):
    stem = 3 * 9 * nf
    stages = 4 * 9 * nf**2 + sum((2 + 3 * 4) * 9 * (k * nf) ** 2 + 2 * (k * nf) ** 2 for k in (1, 2, 4))
    norms = 2 * nf * (1 + 4 + (2 + 4 + 8) * 5)
    assert num_parameters(build(ResNet18, nf=nf)) == stem + stages + norms


def test_default_width_and_its_option():
    (option,) = ResNet18.options
    assert (option.name, option.default) == ("nf", 64)
    assert build(ResNet18, "none").num_features == 8 * option.default
    assert option.type("20") == 20
    with pytest.raises(ValueError, match="at least 1"):
        option.type("0")


@pytest.mark.parametrize(
    ("image_size", "sides"),
    [(16, (16, 8, 4, 2)), (32, (32, 16, 8, 4)), (64, (64, 32, 16, 8)), (84, (84, 42, 21, 11))],
)
def test_maps_of_each_stage(image_size, sides):
    network = build(ResNet18, image_size=image_size, nf=4)
    with torch.no_grad():
        _, maps = network.forward_maps(torch.randn(2, 3, image_size, image_size))
    assert [tuple(each.shape[1:]) for each in maps] == [(4 * 2**i, side, side) for i, side in enumerate(sides)]


def test_layers_in_order():
    places = Places()
    build(ResNet18, places, nf=2)
    assert places.asked == [(2, 32)] * 5 + [(4, 16)] * 5 + [(8, 8)] * 5 + [(16, 4)] * 5


def test_initial_weights_are_pytorchs_default():
    """Uniform within 1/sqrt(fan-in), the Kaiming-uniform rule with a = sqrt(5)."""
    for convolution in convolutions(build(ResNet18, "none", nf=32)):
        weight = convolution.weight.detach()
        bound = 1 / math.sqrt(weight[0].numel())
        num_spreads = 5 / math.sqrt(weight.numel())
        assert 0.97 * bound < weight.abs().max() <= bound
        assert abs(weight.mean()) < num_spreads * bound / math.sqrt(3)
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=num_spreads)


def test_initial_weights_are_drawn_in_the_order_of_the_layers():
    network = build(ResNet18, nf=3, seed=7)
    torch.manual_seed(7)
    for convolution in convolutions(network):
        drawn = torch.nn.Conv2d(convolution.in_channels, convolution.out_channels, convolution.kernel_size, bias=False)
        assert torch.equal(drawn.weight, convolution.weight)
