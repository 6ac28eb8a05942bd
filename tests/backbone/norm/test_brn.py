import pytest
import torch

from backbone.norm.brn import correction_limits
from tests.backbone.norm.rig import make, maps


def test_limits_grow_with_the_forwards():
    lowest, highest = correction_limits(torch.tensor([0, 5000, 12000, 25000, 40000, 10**7]), torch.float64)
    ratios, shifts = highest.squeeze(-1)
    torch.testing.assert_close(ratios, torch.tensor([1, 1, 1.4, 15 / 7, 3, 3], dtype=torch.float64))
    torch.testing.assert_close(shifts, torch.tensor([0, 0, 1.75, 5, 5, 5], dtype=torch.float64))
    torch.testing.assert_close(lowest.squeeze(-1), torch.stack((1 / ratios, -shifts)))


def test_first_forwards_equal_bn_with_eps_on_the_standard_deviation():
    layer, x = make("BRN", affine=False, dtype=torch.float64), maps(dtype=torch.float64)
    std = x.var((0, 2, 3), correction=0, keepdim=True).sqrt() + 1e-3
    torch.testing.assert_close(layer(x), (x - x.mean((0, 2, 3), keepdim=True)) / std)
    torch.testing.assert_close(layer.running_std, 1 + 0.01 * (std.flatten() - 1))


@pytest.mark.parametrize("affine", [True, False])
def test_closed_form_equals_the_definition(affine):
    layer, weights = make("BRN", dtype=torch.float64, affine=affine), maps(dtype=torch.float64, seed=8)
    layer.num_batches_tracked.fill_(12000)
    inputs = [maps(dtype=torch.float64).requires_grad_() for _ in range(2)]
    mean = inputs[0].mean((0, 2, 3), keepdim=True)
    std = inputs[0].var((0, 2, 3), correction=0, keepdim=True).sqrt() + layer.eps
    with torch.no_grad():  # below, within and above the limits, in different channels
        layer.running_std.copy_(std.flatten() * torch.tensor([0.5, 0.6, 0.8, 1, 1.2, 1.3, 1.5, 2], dtype=torch.float64))
        layer.running_mean.copy_(mean.flatten() + torch.tensor([9, 2, 1, 0, -1, -2, -9, 9.0], dtype=torch.float64))
        old_mean, old_std = layer.running_mean.view(1, -1, 1, 1).clone(), layer.running_std.view(1, -1, 1, 1).clone()
        ratio = (std / old_std).clamp(1 / 1.4, 1.4)
        shift = ((mean - old_mean) / old_std).clamp(-1.75, 1.75)
    expected = (inputs[0] - mean) / std * ratio + shift
    if affine:
        expected = layer.weight.view(1, -1, 1, 1) * expected + layer.bias.view(1, -1, 1, 1)
    y = layer(inputs[1])
    torch.testing.assert_close(y, expected)
    parameters = list(layer.parameters())
    found = torch.autograd.grad((y * weights).sum(), [inputs[1], *parameters])
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), [inputs[0], *parameters]))
    torch.testing.assert_close(layer.running_std, (0.99 * old_std + 0.01 * std).detach().flatten())
    torch.testing.assert_close(layer.running_mean, (0.99 * old_mean + 0.01 * mean).detach().flatten())


def test_late_forwards_normalise_as_evaluation_does():
    layer, x = make("BRN", dtype=torch.float64), maps(dtype=torch.float64)
    layer.num_batches_tracked.fill_(60000)
    layer.running_mean.copy_(x.mean((0, 2, 3)) + 0.5)
    layer.running_std.copy_(x.var((0, 2, 3)).sqrt() * 1.3)
    expected = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), expected)


def test_constant_channel_has_finite_gradients():
    x = maps()
    x[:, 2] = 1.5
    x.requires_grad_()
    make("BRN")(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
