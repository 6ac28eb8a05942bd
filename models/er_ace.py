"""ER-ACE: asymmetric cross-entropy (Caccia et al., ICLR 2022), as in mammoth and Lyu et al. (2023)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.base import ReplayMethod
from utils.config.registry import METHODS
from utils.data.batch import Batch


@METHODS.register()
class ErAce(ReplayMethod):
    """L = CE(mask(z), y) + [t > 0] · CE(z_mem, y_mem).

    The mask keeps the classes of the current batch and, until the last class has been seen, everything from the
    highest seen class on; it relies on labels numbered in order of appearance. In the first task nothing is masked. In
    a stream without boundaries every step counts as t > 0.
    """

    replays_in_first_task = False
    num_draws = 1
    capturable = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        device = next(self.network.parameters()).device
        self.seen = torch.zeros(self.stream.num_classes, dtype=torch.bool, device=device)

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        draws = self.replay(1)
        logits, *replayed = self.forward(batch, draws)
        present = torch.zeros_like(self.seen).index_fill_(0, batch.labels, True)
        self.seen |= present
        if self.replays:
            logits = logits.masked_fill(~kept_classes(present, self.seen), torch.finfo(logits.dtype).min)
        loss = cross_entropy(logits, batch.labels)
        for draw, draw_logits in zip(draws, replayed, strict=True):
            loss = loss + cross_entropy(draw_logits, draw.labels)
        losses = self.update(loss)
        self.remember(batch)
        return losses

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.seen.copy_(state["seen"])


def kept_classes(present: Tensor, seen: Tensor) -> Tensor:
    """Classes [K] that stay in the softmax of the current rows.

    present ∪ {c ≥ m} with m the highest seen class, only `present` once m is the last class. That m itself stays even
    when absent is the published behaviour.

    Args:
        present: classes of the current batch, [K] bool.
        seen: classes of the stream so far, the current batch included, [K] bool.
    """
    classes = torch.arange(len(seen), device=seen.device)
    highest = (classes * seen).amax()
    return present | ((classes >= highest) & (highest < len(seen) - 1))
