import pytest
import torch

from backbone.norm._rows import row_affine, row_moments
from tests.backbone.norm.rig import maps


def test_moments_are_those_of_each_map():
    x = maps(dtype=torch.float64)
    means, variances = row_moments(x)
    torch.testing.assert_close(means, x.mean((2, 3)))
    torch.testing.assert_close(variances, x.var((2, 3), correction=0))


def test_moments_of_a_single_pixel():
    means, variances = row_moments(maps(side=1))
    torch.testing.assert_close(means, maps(side=1)[:, :, 0, 0])
    assert (variances == 0).all()


def test_affine_is_what_it_says():
    x = maps(dtype=torch.float64)
    centers, slopes, offsets = torch.randn(3, *x.shape[:2], dtype=torch.float64)
    expected = slopes[..., None, None] * (x - centers[..., None, None]) + offsets[..., None, None]
    torch.testing.assert_close(row_affine(x, centers, slopes, offsets), expected)


def test_expanded_tables_get_summed_gradients():
    x = maps()
    slope = torch.ones(8, requires_grad=True)
    zeros = torch.zeros(12, 8)
    row_affine(x, zeros, slope.expand(12, 8), zeros).sum().backward()
    torch.testing.assert_close(slope.grad, x.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("needs_gradient", [True, False])
def test_input_without_gradient(needs_gradient):
    x = maps().requires_grad_(needs_gradient)
    slopes = torch.ones(12, 8, requires_grad=True)
    row_affine(x, torch.zeros(12, 8), slopes, torch.zeros(12, 8)).sum().backward()
    assert (x.grad is not None) == needs_gradient
    torch.testing.assert_close(slopes.grad, x.detach().sum((2, 3)), rtol=1e-5, atol=1e-4)


def test_gradients_match_finite_differences():
    x = maps(3, 2, 2, torch.float64).requires_grad_()
    tables = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    centers = torch.randn(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, *tables: row_affine(x, centers, *tables), (x, *tables))
    assert torch.autograd.gradcheck(row_moments, (x,))
