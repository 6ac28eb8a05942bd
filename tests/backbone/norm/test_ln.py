import pytest
import torch

from backbone.norm import NormError, build_norm
from tests.backbone.norm.rig import make, maps


def test_parameters_for_every_position():
    assert make("LN", side=3).weight.shape == (8, 3, 3)


def test_sample_is_normalised_as_a_whole():
    x = maps(dtype=torch.float64)
    layer = build_norm("LN", 8, spatial_size=3).double()
    y = layer(x)
    torch.testing.assert_close(y.mean((1, 2, 3)), torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.var((1, 2, 3), correction=0), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (3, 4), (1, 9)])
def test_other_resolutions_are_an_error(size):
    with pytest.raises(NormError, match=f"LN was built for maps of 3x3, but got {size[0]}x{size[1]}"):
        make("LN", side=3)(torch.zeros(2, 8, *size))


def test_size_must_be_known():
    with pytest.raises(NormError, match=r"LN .* give spatial_size"):
        build_norm("LN", 8)
