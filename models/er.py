"""ER: experience replay (Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019), as in mammoth."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.base import ReplayMethod
from utils.config.registry import METHODS
from utils.data.batch import Batch


@METHODS.register()
class Er(ReplayMethod):
    """L = CE(z, y) over current and memory rows together, so that each row weighs 1 / (B + M)."""

    auto_forward = "joint"
    num_draws = 1
    capturable = True

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        draws = self.replay(1)
        logits = self.forward(batch, draws)
        labels = [part.labels for part in (batch, *draws)]
        losses = self.update(cross_entropy(torch.cat(logits), torch.cat(labels)))
        self.remember(batch)
        return losses
