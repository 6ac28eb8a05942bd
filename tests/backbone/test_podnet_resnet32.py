import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbone.blocks import BasicBlock
from backbone.podnet_resnet32 import PODNetResNet32
from tests.backbone.rig import Places, build, convolutions, num_parameters


def test_number_of_parameters():
    """Weights of the 3x3 convolutions, then scale and shift of the norm layers, by hand; shortcuts have none."""
    stem = 432 + 32
    first = 10 * (2304 + 32)
    second = (4608 + 64) + 9 * (9216 + 64)
    third = (18432 + 128) + 9 * (36864 + 128)  # its four blocks and the one of the last stage
    assert num_parameters(build(PODNetResNet32)) == stem + first + second + third


@pytest.mark.parametrize(("image_size", "sides"), [(32, (32, 16, 8, 8)), (33, (33, 17, 9, 9))])
def test_maps_of_each_stage(image_size, sides):
    network = build(PODNetResNet32, image_size=image_size)
    with torch.no_grad():
        _, maps = network.forward_maps(torch.randn(2, 3, image_size, image_size))
    assert [tuple(each.shape[1:]) for each in maps] == list(zip((16, 32, 64, 64), sides, sides, strict=True))


def test_layers_in_order():
    places = Places()
    build(PODNetResNet32, places)
    assert places.asked == [(16, 32)] * 11 + [(32, 16)] * 10 + [(64, 8)] * 10


def test_initial_weights_are_kaiming_normal_over_the_fan_out():
    for convolution in convolutions(build(PODNetResNet32, "none")):
        weight = convolution.weight.detach()
        expected = math.sqrt(2 / (weight.shape[0] * 9))
        assert weight.std() == pytest.approx(expected, rel=5 / math.sqrt(weight.numel()))
        assert weight.abs().max() > 2.3 * expected


def test_every_block_is_its_shortcut_at_first():
    network = build(PODNetResNet32)
    with torch.no_grad():
        features, maps = network.forward_maps(x := torch.randn(3, 3, 32, 32))
        stem = network.stem(x)
    assert torch.equal(maps[0], stem)
    expected = F.pad(F.pad(stem[:, :, ::2, ::2], (0,) * 5 + (16,))[:, :, ::2, ::2], (0,) * 5 + (32,))
    assert torch.equal(maps[2], expected)
    assert torch.equal(maps[3], expected)
    assert features[:, :16].all()
    assert not features[:, 16:].any()


def test_without_trainable_scales_the_blocks_start_open():
    network = build(PODNetResNet32, lambda num_features, side: nn.BatchNorm2d(num_features, affine=False))
    with torch.no_grad():
        features, _ = network.forward_maps(torch.randn(3, 3, 32, 32))
    assert features[:, 16:].all()


def test_blocks_and_network_compute_the_written_sums():
    """Both by plain functions of PyTorch, from the weights in their order."""
    network = build(PODNetResNet32, "none").double()
    weights = [convolution.weight for convolution in convolutions(network)]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = F.conv2d(x, weights.pop(0), padding=1).relu()
    maps = []
    for stage, depth in enumerate((5, 5, 4, 1)):
        for block in range(depth):
            stride = 2 if stage in (1, 2) and block == 0 else 1
            inner = F.conv2d(expected, weights.pop(0), stride=stride, padding=1).relu()
            residual = F.conv2d(inner, weights.pop(0), padding=1)
            shortcut = torch.zeros_like(residual)
            shortcut[:, : expected.shape[1]] = expected[:, :, ::stride, ::stride]
            expected = residual + shortcut
        maps.append(expected)
    assert not weights
    features, given = network.forward_maps(x)
    for ours, written in zip(given, maps, strict=True):
        torch.testing.assert_close(ours, written, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features, maps[-1].mean((2, 3)), rtol=1e-12, atol=1e-12)
    assert features.min() < 0


def test_no_sum_is_rectified():
    blocks = [module for module in build(PODNetResNet32).modules() if isinstance(module, BasicBlock)]
    assert len(blocks) == 15
    assert not any(block.last_relu for block in blocks)
