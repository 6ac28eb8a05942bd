"""Keeps the weights and running statistics of the epoch with the lowest validation loss."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class BestEpoch:
    """The best epoch of a stage so far.

    Attributes:
        loss: its validation loss; None before the first.
        epoch: counted from 0.
        weights: parameters and buffers at its end.
    """

    loss: float | None = None
    epoch: int | None = None
    weights: dict[str, Tensor] | None = None

    def offer(self, loss: float, epoch: int, network: nn.Module) -> None:
        """Keep the network as it is if its loss is the lowest; equal losses keep the earlier epoch."""
        if self.loss is None or loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.weights = {name: value.clone() for name, value in network.state_dict().items()}

    def restore(self, network: nn.Module) -> None:
        """Restore the network's weights of the best epoch, if there was one, and forget them."""
        if self.weights is not None:
            network.load_state_dict(self.weights)
        self.loss = self.epoch = self.weights = None

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss, self.epoch, self.weights = state["loss"], state["epoch"], state["weights"]
