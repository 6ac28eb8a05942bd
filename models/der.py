"""DER: dark experience replay (Buzzega et al., NeurIPS 2020), as in mammoth."""

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from models.base import REPLAY_OPTIONS, ReplayMethod
from utils.config.options import published, ranged
from utils.config.registry import METHODS
from utils.data.batch import Batch

ALPHA = published("alpha", ranged(float, 0), "weight of the loss on stored logits")


@METHODS.register()
class Der(ReplayMethod):
    """L = CE(z, y) + α · mean((z_mem − z_stored)²), the mean over rows and all K outputs.

    Stored are the training-mode logits of the augmented current rows in the step that first saw them; they are never
    refreshed.
    """

    options = (*REPLAY_OPTIONS, ALPHA)
    num_draws = 1
    capturable = True

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        draws = self.replay(1)
        logits, *replayed = self.forward(batch, draws)
        loss = cross_entropy(logits, batch.labels)
        for draw, draw_logits in zip(draws, replayed, strict=True):
            loss = loss + self.config.alpha * mse_loss(draw_logits, draw.extras["logits"])
        losses = self.update(loss)
        self.remember(batch, logits=logits.detach())
        return losses
