"""DER++: dark experience replay with labels (Buzzega et al., NeurIPS 2020), as in mammoth and Lyu et al. (2023)."""

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from models.base import REPLAY_OPTIONS, ReplayMethod
from models.der import ALPHA
from utils.config.options import published, ranged
from utils.config.registry import METHODS
from utils.data.batch import Batch


@METHODS.register()
class Derpp(ReplayMethod):
    """L = CE(z, y) + α · mean((z₁ − z_stored,₁)²) + β · CE(z₂, y₂), with two independent draws from memory."""

    options = (
        *REPLAY_OPTIONS,
        ALPHA,
        published("beta", ranged(float, 0), "weight of the cross-entropy on the second draw"),
    )
    num_draws = 2
    capturable = True

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        draws = self.replay(2)
        logits, *replayed = self.forward(batch, draws)
        loss = cross_entropy(logits, batch.labels)
        if draws:
            first, second = draws
            loss = loss + self.config.alpha * mse_loss(replayed[0], first.extras["logits"])
            loss = loss + self.config.beta * cross_entropy(replayed[1], second.labels)
        losses = self.update(loss)
        self.remember(batch, logits=logits.detach())
        return losses
