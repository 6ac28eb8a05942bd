import torch

from backbone.norm.brn import correction_limits
from tests.backbone.norm.rig import make, maps


def test_limits_grow_with_the_forwards():
    forwards = torch.tensor([0.0, 5000, 12000, 25000, 40000, 10**7], dtype=torch.float64)
    ratios, shifts = correction_limits(forwards)
    torch.testing.assert_close(ratios, torch.tensor([1, 1, 1.4, 15 / 7, 3, 3], dtype=torch.float64))
    torch.testing.assert_close(shifts, torch.tensor([0, 0, 1.75, 5, 5, 5], dtype=torch.float64))


def test_first_forwards_equal_bn_with_eps_on_the_standard_deviation():
    layer, x = make("BRN", affine=False, dtype=torch.float64), maps(dtype=torch.float64)
    std = x.var((0, 2, 3), correction=0, keepdim=True).sqrt() + 1e-3
    torch.testing.assert_close(layer(x), (x - x.mean((0, 2, 3), keepdim=True)) / std)
    torch.testing.assert_close(layer.running_std, 1 + 0.01 * (std.flatten() - 1))


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
