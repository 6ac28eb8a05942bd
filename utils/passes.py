"""What training costs on any machine: the rows that went through networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Passes:
    """Rows that went through a network and its copies, such as a teacher, counted on the host.

    Attributes:
        forward: rows of forward passes.
        backward: those among them that gradients were kept for, which then go back too.
    """

    forward: int = 0
    backward: int = 0

    def count(self, num_rows: int) -> None:
        """Count a forward pass."""
        self.forward += num_rows
        self.backward += num_rows * torch.is_grad_enabled()

    def become(self, other: Passes) -> None:
        """Take over the numbers of another count."""
        self.forward, self.backward = other.forward, other.backward

    def __deepcopy__(self, memo: dict[int, Any]) -> Passes:
        """A copy of a network counts with it."""
        return self
