"""FRN and its thresholded linear unit against the paper's formulas, written out number by number."""

import math

import pytest
import torch
from torch import nn

from backbone.norm import build_norm, convert_norms, norm_factory
from tests.backbone.norm.rig import make, maps
from tests.backbone.norm.test_convert import WithActivation
from utils.config.registry import BACKBONES


def by_the_paper(x, gamma, beta, tau, epsilon):
    """z = max(γ x / √(ν² + |ε|) + β, τ), ν² = Σ x² / (H W); without τ, y itself."""
    z = torch.empty_like(x)
    for sample in range(len(x)):
        for channel in range(x.shape[1]):
            values = x[sample, channel].flatten().tolist()
            nu_squared = sum(value * value for value in values) / len(values)
            for place, value in enumerate(values):
                y = gamma[channel] * value / math.sqrt(nu_squared + abs(epsilon)) + beta[channel]
                z[sample, channel].view(-1)[place] = y if tau is None else max(y, tau[channel])
    return z


def numbers(parameter, otherwise):
    return [otherwise] * 8 if parameter is None else parameter.tolist()


@pytest.mark.parametrize("tlu", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_values_are_the_papers(tlu, affine, training):
    layer = make("FRN", dtype=torch.float64, affine=affine, tlu=tlu).train(training)
    x = maps(dtype=torch.float64)
    tau = layer.tau.tolist() if tlu else None
    expected = by_the_paper(x, numbers(layer.weight, 1.0), numbers(layer.bias, 0.0), tau, 1e-6)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_maps_of_a_single_pixel_have_a_learned_epsilon(sign):
    layer = make("FRN", side=1, dtype=torch.float64)
    assert build_norm("FRN", 8, spatial_size=1).epsilon.item() == pytest.approx(1e-4)
    with torch.no_grad():
        layer.epsilon.mul_(sign)
    x = maps(side=1, dtype=torch.float64)
    expected = by_the_paper(x, numbers(layer.weight, 1.0), numbers(layer.bias, 0.0), None, layer.epsilon.item())
    torch.testing.assert_close(layer(x), expected)
    assert make("FRN", side=2).epsilon is None


@pytest.mark.parametrize("side", [1, 3])
def test_gradients_are_those_of_finite_differences(side):
    """Of τ and ε too; no value lies close to τ, where the unit has no derivative."""
    layer = make("FRN", side=side, dtype=torch.float64, tlu=True)
    x = maps(4, side=side, dtype=torch.float64).requires_grad_()
    bare = make("FRN", side=side, dtype=torch.float64)
    assert (bare(x) - layer.tau[:, None, None]).abs().min() > 1e-4
    assert {"tau", "weight", "bias"} <= dict(layer.named_parameters()).keys()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()), atol=1e-7)


def test_maps_of_zeros_give_the_bias_and_finite_gradients():
    layer = make("FRN")
    x = torch.zeros(2, 8, 3, 3, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, layer.bias[:, None, None].expand_as(y))
    assert torch.isfinite(x.grad).all()


NUM_UNITS = {"resnet18": 9, "resnet32": 16, "resnet18_imagenet": 9, "podnet_resnet18": 9, "podnet_resnet32": 16}


@pytest.mark.parametrize("name", BACKBONES.names())
def test_in_a_backbone_the_unit_stands_where_a_relu_follows_at_once(name):
    """In the stem and within each block; what comes before a sum, or in a shortcut, ends without one."""
    options = {"nf": 4} if "18" in name else {}
    torch.manual_seed(0)
    network = BACKBONES.get(name)(norm_factory("FRN"), image_size=33, **options)
    ends = {key for key, module in network.named_modules() if getattr(module, "tau", None) is not None}
    assert ends == {"stem.1", *(key for key, _ in network.named_modules() if key.endswith("norm1"))}
    assert len(ends) == NUM_UNITS[name]
    assert not any(type(module) is nn.ReLU for module in network.modules())
    assert any(type(module) is nn.ReLU for module in BACKBONES.get(name)(norm_factory("BN"), image_size=33).modules())
    for key, parameter in network.named_parameters():
        if key.endswith("norm2.weight"):
            nn.init.ones_(parameter)  # some backbones start them at zero
    network(torch.randn(3, 3, 33, 33)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_in_a_network_of_others_it_leaves_their_relus_unless_they_are_parts_of_the_old_layer():
    network = convert_norms(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), WithActivation(8)), "FRN")
    first, relu, second = network
    assert (first.tau, type(relu)) == (None, nn.ReLU)
    x = maps(dtype=torch.float32)
    with torch.no_grad():
        second.tau.fill_(-0.5)
    assert second(x).min() == -0.5
    every = convert_norms(nn.Sequential(nn.BatchNorm2d(8)), "FRN", tlu=True)
    assert every[0].tau is not None
