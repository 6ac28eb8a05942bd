"""SS-IL: separated softmax for incremental learning (Ahn et al., ICCV 2021), as in Cha et al., CVPR 2023."""

import operator
from functools import reduce
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from models.eeil import softened_kl
from models.exemplar import ExemplarMethod
from utils.config.options import Option
from utils.config.registry import METHODS
from utils.data.batch import Batch
from utils.errors import UserError


@METHODS.register()
class SsIl(ExemplarMethod):
    """L = (Σ_current CE over the new classes + Σ_memory CE over the old ones) / rows + Σ_s τ² KL(σ_τ(z̄_s) ‖ σ_τ(z_s)).

    s runs over the last old task alone, as in the published runs, or over all old tasks, as in the paper. The
    divergences are summed over the outputs of a task and averaged over all rows.
    """

    options = (
        *ExemplarMethod.options,
        Option(
            "ssil_distill",
            str,
            "last",
            "which old tasks are distilled: only the last, or all",
            choices=("last", "all"),
            min_tasks=3,
        ),
    )
    has_teacher = True
    capturable = True

    @classmethod
    def check(cls, values: dict[str, Any], num_classes: int | None) -> None:
        super().check(values, num_classes)
        if "union" in (values["batching"], values["current_pool"]):
            raise UserError(
                "--model ssil tells current and memory rows apart by their source: use --batching ratio and "
                "--current_pool task"
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.forward(batch).scores
        if self.task == 0:
            return {"ce": cross_entropy(scores, batch.labels)}
        num_old, num_current = self.num_old, batch.num_current
        current = cross_entropy(scores[:num_current, num_old:], batch.labels[:num_current] - num_old, reduction="sum")
        memory = cross_entropy(scores[num_current:, :num_old], batch.labels[num_current:], reduction="sum")
        taught = self.teach(batch.images).scores
        return {"ce": (current + memory) / len(batch), "distillation": self.distill(scores, taught)}

    def distill(self, scores: Tensor, taught: Tensor) -> Tensor:
        """Σ over the distilled tasks of the divergence between their softened outputs."""
        first = self.task - 1 if self.config.ssil_distill == "last" else 0
        parts = [self.columns(task) for task in range(first, self.task)]
        return reduce(operator.add, (softened_kl(scores[:, part], taught[:, part]) for part in parts))
