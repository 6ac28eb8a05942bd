import pytest
import torch

from backbone.norm import build_norm
from tests.backbone.norm.rig import make, maps


def mixing(*parts):
    """SN in double precision with all weight on some of instance (0), layer (1) and batch (2)."""
    layer = build_norm("SN", 8, affine=False).double()
    shares = torch.full((3,), -1e4)
    shares[list(parts)] = 0
    with torch.no_grad():
        layer.mean_weight.copy_(shares)
        layer.var_weight.copy_(shares)
    return layer


@pytest.mark.parametrize(("part", "axes"), [(0, (2, 3)), (1, (1, 2, 3)), (2, (0, 2, 3))])
def test_each_part_alone_centres_over_its_own_axes(part, axes):
    y = mixing(part)(maps(dtype=torch.float64))
    torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), rtol=0, atol=1e-10)


def test_variance_over_a_map_is_unbiased():
    x = maps(dtype=torch.float64)
    expected = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(mixing(0)(x), expected)


def test_shares_start_equal():
    x = maps(dtype=torch.float64)
    layer = build_norm("SN", 8, affine=False).double()
    torch.testing.assert_close(layer(x), mixing(0, 1, 2)(x))


def test_running_variance_starts_at_zero_and_moves_slowly():
    x = maps(dtype=torch.float64)
    layer = build_norm("SN", 8).double()
    for _ in range(2):
        layer(x)
    spread = x.var((2, 3)) + x.mean((2, 3)).square()
    variance = spread.mean(0) - x.mean((0, 2, 3)).square()
    torch.testing.assert_close(layer.running_var, variance * (1 - 0.997**2))
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)) * (1 - 0.997**2))


def by_definition(layer, x):
    """The layer from its formulas; gives the output."""
    means, variances = x.mean((2, 3)), x.var((2, 3))
    seconds = variances + means.square()
    layer_mean = means.mean(1, keepdim=True)
    statistics = [(means, variances), (layer_mean, seconds.mean(1, keepdim=True) - layer_mean.square())]
    if layer.training:
        statistics.append((means.mean(0), seconds.mean(0) - means.mean(0).square()))
    else:
        statistics.append((layer.running_mean, layer.running_var))
    mean_shares, var_shares = layer.mean_weight.softmax(0), layer.var_weight.softmax(0)
    mean = sum(share * each for share, (each, _) in zip(mean_shares, statistics, strict=True))[..., None, None]
    variance = sum(share * each for share, (_, each) in zip(var_shares, statistics, strict=True))[..., None, None]
    y = (x - mean) / (variance + layer.eps).sqrt()
    return y if layer.weight is None else layer.weight.view(1, -1, 1, 1) * y + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("offset", [0, 50])
def test_closed_form_equals_the_definition(affine, training, offset):
    layer = make("SN", dtype=torch.float64, affine=affine)
    layer(maps(dtype=torch.float64, seed=4))
    layer.train(training)
    inputs = [(maps(dtype=torch.float64) + offset).requires_grad_() for _ in range(2)]
    weights = maps(dtype=torch.float64, seed=8)
    parameters = list(layer.parameters())
    expected = by_definition(layer, inputs[0])
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [inputs[0], *parameters])
    y = layer(inputs[1])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad((y * weights).sum(), [inputs[1], *parameters]), expected_gradients)
