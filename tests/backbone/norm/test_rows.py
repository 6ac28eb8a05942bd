import pytest
import torch

from backbone.norm._rows import affine, row_moments, row_points, row_sums
from tests.backbone.norm.rig import maps

layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def arranged(layout, **settings):
    return maps(dtype=torch.float64, **settings).contiguous(memory_format=layout)


def tables(number, *shape):
    random = torch.Generator().manual_seed(3)
    return torch.randn(number, *shape, generator=random, dtype=torch.float64)


@layouts
@pytest.mark.parametrize("correction", [0, 1])
def test_moments_are_those_of_each_map(layout, correction):
    x = arranged(layout)
    means, variances = row_moments(x, torch.empty_like(x), correction=correction)
    torch.testing.assert_close(means, x.mean((2, 3)))
    torch.testing.assert_close(variances, x.var((2, 3), correction=correction))


def test_moments_of_a_single_pixel():
    means, variances = row_moments(maps(side=1), maps(side=1))
    torch.testing.assert_close(means, maps(side=1)[:, :, 0, 0])
    assert (variances == 0).all()


@layouts
def test_points_have_the_moments_of_each_map(layout):
    x = arranged(layout)
    variances, means = torch.var_mean(row_points(x, torch.empty_like(x)).view(2, 12, 8), 0, correction=0)
    torch.testing.assert_close(means, x.mean((2, 3)))
    torch.testing.assert_close(variances, x.var((2, 3), correction=0))


@layouts
@pytest.mark.parametrize("shape", [(12, 8), (8,)])
def test_affine_is_what_it_says(layout, shape):
    x = arranged(layout)
    slopes, offsets = tables(2, *shape, 1, 1)
    y = torch.empty_like(x)
    assert affine(x, slopes, offsets, y, times=3) is y
    torch.testing.assert_close(y, 3 * slopes * x + offsets)


@layouts
@pytest.mark.parametrize("other_layout", [torch.contiguous_format, torch.channels_last])
def test_sums_are_what_they_say(layout, other_layout):
    x, gradient = arranged(layout), arranged(other_layout, seed=5)
    (centers,) = tables(1, 12, 8)
    sums, products = row_sums(gradient, x, torch.empty_like(x), centers)
    torch.testing.assert_close(sums, gradient.sum((2, 3)))
    torch.testing.assert_close(products, (gradient * (x - centers[..., None, None])).sum((2, 3)))
    scaled = torch.stack((sums, products * centers.exp()))
    torch.testing.assert_close(row_sums(gradient, x, torch.empty_like(x), centers, centers.exp()), scaled)
    torch.testing.assert_close(
        row_sums(gradient, x, torch.empty_like(x)), torch.stack((sums, (gradient * x).sum((2, 3))))
    )


@layouts
def test_single_precision_suffices_far_from_zero(layout):
    x, gradient = ((maps(seed=seed) + far).contiguous(memory_format=layout) for seed, far in ((0, 50), (5, 0)))
    means, variances = row_moments(x, torch.empty_like(x))
    torch.testing.assert_close(variances.double(), x.double().var((2, 3), correction=0), rtol=1e-5, atol=1e-7)
    _, products = row_sums(gradient, x, torch.empty_like(x), means)
    distances = x.double() - means.double()[..., None, None]
    torch.testing.assert_close(products.double(), (gradient * distances).sum((2, 3)), rtol=0, atol=1e-3)
