"""Augmentations that tests can see through."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class Unchanged:
    """Draws nothing.

    Args:
        apply: raw images -> images; float ones of the same values.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor] = Tensor.float) -> None:
        self._apply = apply
        self.generators = {purpose: torch.Generator().manual_seed(0) for purpose in ("stream", "memory")}

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def apply(self, raw: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
        return self._apply(raw)


class Noise(Unchanged):
    """Adds a number to every image: the images tell how often and in what order something was drawn."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        return {"noise": torch.rand(shape[0], generator=generator)}

    def apply(self, raw: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
        return self._apply(raw) + changes["noise"][:, None, None, None]
