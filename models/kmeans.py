"""Centres of clusters: Lloyd's algorithm (IEEE Transactions on Information Theory, 1982) from several starts."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

NUM_STARTS = 10
_MAX_ROUNDS = 300


def cluster_centres(points: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """The centres, of those found from all starts, whose points lie nearest to them.

    Computed on the host in float64, so that the device plays no part. A centre that loses all its points stays where it
    is; with fewer points than centres, some centres are equal.

    Args:
        points: [n, D], at least one, finite.
        number: of centres k.
        generator: on the host; draws the starts.

    Returns:
        [k, D], of the points' type and on their device; the sum over the points of the squared distance to the nearest
        centre is the lowest of all starts.
    """
    on_host = points.detach().to("cpu", torch.float64)
    centres = _starts(on_host, number, generator)
    owners = None
    for _ in range(_MAX_ROUNDS):
        nearest = _squared_distances(on_host, centres).argmin(dim=2)
        if owners is not None and torch.equal(nearest, owners):
            break
        owners = nearest
        centres = _means(on_host, owners, centres)
    spreads = _squared_distances(on_host, centres).amin(dim=2).sum(dim=1)
    return centres[spreads.argmin()].to(points.device, points.dtype)


def _starts(points: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Points as first centres, [starts, k, D]: each is drawn in proportion to its squared distance from those before.

    This is k-means++ (Arthur and Vassilvitskii, SODA 2007).
    """
    chosen = torch.randint(len(points), (NUM_STARTS, 1), generator=generator)
    nearest = _squared_distances(points, points[chosen])[:, :, 0]
    for _ in range(1, number):
        # Where every point is a centre already, any of them will do.
        weights = torch.where(nearest.sum(dim=1, keepdim=True) > 0, nearest, 1.0)
        drawn = torch.multinomial(weights, 1, generator=generator)
        nearest = nearest.minimum(_squared_distances(points, points[drawn])[:, :, 0])
        chosen = torch.cat([chosen, drawn], dim=1)
    return points[chosen]


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """[starts, n, k] of points [n, D] and centres [starts, k, D]."""
    products = points @ centres.transpose(1, 2)
    squares = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=2).unsqueeze(1)
    return (squares - 2 * products).clamp(min=0)


def _means(points: Tensor, owners: Tensor, centres: Tensor) -> Tensor:
    """Means [starts, k, D] of the points [n, D] that each centre owns, [starts, n]; the old centre of none."""
    member = one_hot(owners, centres.shape[1]).to(points.dtype)
    numbers = member.sum(dim=1).unsqueeze(2)
    return torch.where(numbers > 0, member.transpose(1, 2) @ points / numbers.clamp(min=1), centres)
