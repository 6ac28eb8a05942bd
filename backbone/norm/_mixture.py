"""Constant mixtures of the rows of a table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .context import send


@dataclass(frozen=True)
class Mixture:
    """A constant matrix [S, N] with few entries, by which tables [N, K] are multiplied.

    Not by a matrix product, which autocast and TF32 would round where they are allowed.

    Attributes:
        rows: numbers of the rows that are mixed, in the order of the results.
        starts: where a result's rows begin, [S].
        shares: of every such row.
        transposed: the transposed matrix, [N, S].
    """

    rows: Tensor
    starts: Tensor
    shares: Tensor
    transposed: "Mixture | None" = None

    @classmethod
    def of(cls, matrix: Tensor, device: torch.device) -> "Mixture":
        """The matrix [S, N], which lies on the host, on a device."""
        return cls(*_entries(matrix, device), cls(*_entries(matrix.t(), device)))

    def __call__(self, table: Tensor) -> Tensor:
        """Matrix times table: [N, K] -> [S, K]."""
        return torch.embedding_bag(table, self.rows, self.starts, per_sample_weights=self.shares)[0]


def _entries(matrix: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    results, rows = matrix.nonzero(as_tuple=True)
    numbers = torch.bincount(results, minlength=len(matrix))
    return send(rows, device), send(numbers.cumsum(0) - numbers, device), send(matrix[results, rows], device)
