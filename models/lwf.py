"""LwF: learning without forgetting (Li and Hoiem, TPAMI 2018), with exemplars (Masana et al., FACIL, TPAMI 2023)."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from models.exemplar import ExemplarMethod
from utils.config.options import Option, ranged
from utils.config.registry import METHODS
from utils.data.batch import Batch

TEMPERATURE = 2.0
FLOOR = 1e-5  # of the probabilities of all old classes together


@METHODS.register()
class Lwf(ExemplarMethod):
    """L = CE − λ Σ_c softmax(z̄ / 2)_c log p_c, p = (softmax(z / 2) + 10⁻⁵ / n) / (1 + 10⁻⁵), averaged over rows.

    z are the outputs of all n old classes, under one softmax, z̄ those of the teacher. The factor τ² of Hinton et al.
    (2015) is not there. Batches are those of fine-tuning (`ft`).
    """

    options = (
        *ExemplarMethod.options,
        Option(
            "lwf_lambda", ranged(float, 0), 1.0, "weight of the distillation loss on old classes' outputs", min_tasks=2
        ),
    )
    has_teacher = True
    capturable = True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.forward(batch).scores
        losses = {"ce": cross_entropy(scores, batch.labels)}
        if self.task > 0:
            taught = self.teach(batch.images).scores
            losses["distillation"] = self.config.lwf_lambda * distill(scores[:, : self.num_old], taught)
        return losses


def distill(scores: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy of softened outputs [N, n], now against before, averaged over rows; []."""
    now, before = ((each / TEMPERATURE).softmax(dim=1) for each in (scores, taught))
    floored = (now + FLOOR / now.shape[1]) / (1 + FLOOR)
    return -(before * floored.log()).sum(dim=1).mean()
