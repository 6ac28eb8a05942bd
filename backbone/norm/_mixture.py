"""Constant mixtures of the rows of tables."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .context import send


@dataclass(frozen=True)
class Mixture:
    """A constant matrix [S, N] with few entries, by which two tables [N, C] are multiplied at once.

    Not by a matrix product, which autocast and TF32 would round where they are allowed.

    Attributes:
        rows: numbers of the rows that are mixed, in the order of the results; the second table's follow the first's.
        starts: where a result's rows begin, [2 S].
        shares: of every such row.
    """

    rows: Tensor
    starts: Tensor
    shares: Tensor

    @classmethod
    def of(cls, matrix: Tensor, device: torch.device) -> "Mixture":
        """The matrix, which lies on the host, on a device."""
        twice = torch.block_diag(matrix, matrix)
        results, rows = twice.nonzero(as_tuple=True)
        numbers = torch.bincount(results, minlength=len(twice))
        return cls(send(rows, device), send(numbers.cumsum(0) - numbers, device), send(twice[results, rows], device))

    def __call__(self, tables: Tensor) -> Tensor:
        """Matrix times each table, the second below the first: [2 N, C] -> [2 S, C]."""
        return torch.embedding_bag(tables, self.rows, self.starts, per_sample_weights=self.shares)[0]
