"""DyT against the paper's formula, written out number by number."""

import math

import pytest
import torch
from torch import nn

from backbone.norm import build_norm, convert_norms
from tests.backbone.norm.rig import make, maps


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_values_are_the_papers(affine, training):
    layer = make("DyT", dtype=torch.float64, affine=affine).train(training)
    x, alpha = maps(dtype=torch.float64), layer.alpha.item()
    gamma, beta = (layer.weight.tolist(), layer.bias.tolist()) if affine else ([1.0] * 8, [0.0] * 8)
    expected = torch.empty_like(x)
    for channel in range(8):
        values = x[:, channel].flatten().tolist()
        found = [gamma[channel] * math.tanh(alpha * value) + beta[channel] for value in values]
        expected[:, channel] = torch.tensor(found, dtype=torch.float64).view_as(x[:, channel])
    torch.testing.assert_close(layer(x), expected)


def test_gradients_are_the_papers_derivatives():
    """dy/dx = γ α (1 − tanh²), dy/dα = γ x (1 − tanh²), dy/dγ = tanh, dy/dβ = 1, each times the gradient of y."""
    layer = make("DyT", dtype=torch.float64)
    x = maps(dtype=torch.float64).requires_grad_()
    outer = maps(dtype=torch.float64, seed=5)
    layer(x).backward(outer)
    values, alpha, gamma = x.detach(), layer.alpha.detach(), layer.weight.detach()[:, None, None]
    tanh = torch.tanh(alpha * values)
    torch.testing.assert_close(x.grad, outer * gamma * alpha * (1 - tanh**2))
    torch.testing.assert_close(layer.alpha.grad, (outer * gamma * values * (1 - tanh**2)).sum())
    torch.testing.assert_close(layer.weight.grad, (outer * tanh).sum((0, 2, 3)))
    torch.testing.assert_close(layer.bias.grad, outer.sum((0, 2, 3)))


def test_alpha_is_one_number_that_starts_where_it_is_told():
    assert build_norm("DyT", 8).alpha.item() == 0.5
    assert build_norm("DyT", 8, dyt_alpha0=1.5).alpha.item() == 1.5
    assert "dyt_alpha0=1.5" in repr(build_norm("DyT", 8, dyt_alpha0=1.5))


@pytest.mark.parametrize("affine", [False, True])
def test_a_relu_in_place_may_follow(affine):
    network = convert_norms(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True)), "DyT", affine=affine)
    network(maps().requires_grad_()).sum().backward()
