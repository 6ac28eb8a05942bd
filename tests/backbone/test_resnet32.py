import math

import pytest
import torch

from backbone.resnet32 import ResNet32
from tests.backbone.rig import Places, build, convolutions, num_parameters


def test_number_of_parameters():
    """Weights of the 3x3 and 1x1 convolutions, then scale and shift of the norm layers, by hand."""
    stem = 432 + 32
    first = 10 * (2304 + 32)
    second = (4608 + 64) + (9216 + 64) + (512 + 64) + 8 * (9216 + 64)
    third = (18432 + 128) + (36864 + 128) + (2048 + 128) + 8 * (36864 + 128)
    assert num_parameters(build(ResNet32)) == stem + first + second + third == 466_256


def test_has_no_options():
    assert ResNet32.options == ()
    assert build(ResNet32, "none").num_features == 64


@pytest.mark.parametrize(("image_size", "sides"), [(16, (16, 8, 4)), (32, (32, 16, 8)), (84, (84, 42, 21))])
def test_maps_of_each_stage(image_size, sides):
    network = build(ResNet32, image_size=image_size)
    with torch.no_grad():
        _, maps = network.forward_maps(torch.randn(2, 3, image_size, image_size))
    assert [tuple(each.shape[1:]) for each in maps] == [(16 * 2**i, side, side) for i, side in enumerate(sides)]


def test_layers_in_order():
    """32 weighted layers on the main path with the classifier: the stem, 3 x 5 x 2 in the blocks."""
    places = Places()
    build(ResNet32, places)
    assert places.asked == [(16, 32)] * 11 + [(32, 16)] * 11 + [(64, 8)] * 11


def test_initial_weights_are_kaiming_normal_over_the_fan_out():
    for convolution in convolutions(build(ResNet32, "none")):
        weight = convolution.weight.detach()
        expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
        num_spreads = 5 / math.sqrt(weight.numel())
        assert abs(weight.mean()) < num_spreads * expected
        assert weight.std() == pytest.approx(expected, rel=num_spreads)
        assert weight.abs().max() > 2.3 * expected  # a normal distribution has tails, a uniform one ends at 1.73
