import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from models.kmeans import cluster_centres
from utils.seeds import generator


def draws():
    return generator(0, "test")


def spread(points, centres):
    return torch.cdist(points.double(), centres.double()).amin(dim=1).square().sum().item()


def blobs(centres, size=30, width=0.05):
    return torch.cat([centre + width * torch.randn(size, len(centre), generator=draws()) for centre in centres])


def test_well_separated_clusters_are_found():
    true = 4 * torch.eye(6)
    points = blobs(true)
    centres = cluster_centres(points, 6, draws())
    means = points.view(6, 30, 6).mean(dim=1)
    order = centres.argmax(dim=1).argsort()
    torch.testing.assert_close(centres[order], means)


def test_every_centre_is_the_mean_of_the_points_nearest_to_it():
    points = torch.randn(200, 5, generator=draws())
    centres = cluster_centres(points, 7, draws())
    owners = torch.cdist(points, centres).argmin(dim=1)
    for index in range(7):
        torch.testing.assert_close(centres[index], points[owners == index].mean(dim=0))


def test_as_near_as_an_established_program_comes():
    points = torch.randn(150, 3, generator=draws()).double()
    found = [kmeans2(points.numpy(), 8, iter=50, minit="++", seed=seed)[0] for seed in range(10)]
    theirs = min(spread(points, torch.from_numpy(np.asarray(each))) for each in found)
    assert spread(points, cluster_centres(points, 8, draws())) <= 1.02 * theirs


def test_same_draws_same_centres():
    points = torch.randn(50, 4, generator=draws())
    assert torch.equal(cluster_centres(points, 5, draws()), cluster_centres(points, 5, draws()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_is_kept(dtype):
    assert cluster_centres(torch.ones(3, 2, dtype=dtype), 2, draws()).dtype == dtype


@pytest.mark.parametrize("number", [1, 3, 10])
def test_fewer_points_than_centres_are_all_centres(number):
    points = torch.arange(3.0).unsqueeze(1)
    centres = cluster_centres(points, number, draws())
    assert centres.shape == (number, 1)
    assert set(centres.flatten().tolist()) == ({1.0} if number == 1 else {0.0, 1.0, 2.0})


def test_equal_points():
    centres = cluster_centres(torch.full((20, 3), 0.3), 10, draws())
    torch.testing.assert_close(centres, torch.full((10, 3), 0.3))
