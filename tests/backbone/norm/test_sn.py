import pytest
import torch

from backbone.norm import build_norm
from tests.backbone.norm.rig import maps


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
