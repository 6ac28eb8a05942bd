import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbone.podnet_resnet18 import PODNetResNet18
from tests.backbone.rig import Places, build, convolutions, num_parameters


def test_number_of_parameters():
    """That of torchvision's network without its classifier, whose stem has 7 x 7 weights instead of 3 x 3."""
    network = build(PODNetResNet18, image_size=224)
    assert num_parameters(network) == 11_176_512 - (49 - 9) * 3 * 64
    assert network.num_features == 512


@pytest.mark.parametrize(
    ("image_size", "sides"),
    [(64, (32, 16, 8, 4)), (33, (17, 9, 5, 3)), (9, (5, 3, 2, 1))],
)
def test_maps_of_each_stage(image_size, sides):
    network = build(PODNetResNet18, image_size=image_size, nf=4)
    with torch.no_grad():
        _, maps = network.forward_maps(torch.randn(2, 3, image_size, image_size))
    assert [tuple(each.shape[1:]) for each in maps] == [(4 * 2**i, side, side) for i, side in enumerate(sides)]


def test_layers_in_order():
    places = Places()
    build(PODNetResNet18, places, image_size=224, nf=2)
    assert places.asked == [(2, 224)] + [(2, 112)] * 4 + [(4, 56)] * 5 + [(8, 28)] * 5 + [(16, 14)] * 5


def test_network_computes_the_written_sums():
    """By plain functions of PyTorch, from the weights in their order: two convolutions, then the shortcut's."""
    network = build(PODNetResNet18, "none", nf=3).double()
    weights = [convolution.weight for convolution in convolutions(network)]
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = F.max_pool2d(F.conv2d(x, weights.pop(0), padding=1).relu(), 3, stride=2, padding=1)
    maps = []
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and block == 0 else 1
            inner = F.conv2d(expected, weights.pop(0), stride=stride, padding=1).relu()
            residual = F.conv2d(inner, weights.pop(0), padding=1)
            shortcut = expected if stride == 1 else F.conv2d(expected, weights.pop(0), stride=2)
            expected = residual + shortcut
            if block == 0:
                expected = expected.relu()
        maps.append(expected)
    assert not weights
    features, given = network.forward_maps(x)
    for ours, written in zip(given, maps, strict=True):
        torch.testing.assert_close(ours, written, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features, maps[-1].mean((2, 3)), rtol=1e-12, atol=1e-12)
    assert features.min() < 0


def test_last_scale_of_every_block_is_zero_at_first_and_no_other():
    network = build(PODNetResNet18, nf=4)
    zero = [name for name, module in network.named_modules() if _is_zero(module)]
    assert zero == [f"stages.{stage}.{block}.norm2" for stage in range(4) for block in range(2)]


def _is_zero(module):
    return isinstance(module, nn.BatchNorm2d) and not module.weight.any()


def test_initial_weights_are_kaiming_normal_over_the_fan_out():
    for convolution in convolutions(build(PODNetResNet18, "none", nf=32)):
        weight = convolution.weight.detach()
        expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
        assert weight.std() == pytest.approx(expected, rel=5 / math.sqrt(weight.numel()))
        assert weight.abs().max() > 2.3 * expected
