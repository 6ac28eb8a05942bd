"""LUCIR: learning a unified classifier via rebalancing (Hou et al., CVPR 2019), as in Cha et al., CVPR 2023."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.base import Stage
from models.exemplar import ExemplarMethod
from utils.batch import Batch
from utils.options import Option, ranged
from utils.registry import METHODS

NUM_RIVALS = 2  # new classes that an old one is ranked against
MARGIN = 0.5


@METHODS.register()
class Lucir(ExemplarMethod):
    """L = λ · (1 − cos(h, h̄)) + CE(η s, y) + ranking, λ = λ_base √(old classes / new classes).

    s are cosines between features and class weights, η a learned scale. The ranking keeps the own class of a row of
    an old class a margin above the two highest new classes. Old class weights are frozen.
    """

    options = (
        *ExemplarMethod.options,
        Option("lucir_lambda", ranged(float, 0), 5.0, "base weight of the distillation of features"),
        Option(
            "lucir_relu",
            str,
            "layer3",
            "stage whose last ReLU is removed: the third, or the final one",
            choices=("layer3", "final"),
        ),
    )
    heads = ("cosine",)
    default_pool = "union"
    has_teacher = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.network.backbone.drop_last_relu(self.config.lucir_relu)

    def trained(self, stage: Stage) -> list[nn.Parameter]:
        head = self.network.head
        return [*self.network.backbone.parameters(), *head.newest_parameters(), head.sigma]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.forward(batch)
        losses = {"ce": cross_entropy(outputs.scores, batch.labels)}
        if self.task > 0:
            num_old = self.num_old
            weight = self.config.lucir_lambda * math.sqrt(num_old / (self.num_seen - num_old))
            taught = self.teach(batch.images).features
            losses["distillation"] = weight * cosine_distance(outputs.features, taught).mean()
            losses["ranking"] = ranking(self.network.head.cosines(outputs.features), batch.labels, num_old)
        return losses


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 − a·b / (√(‖a‖² + ε) √(‖b‖² + ε)) of each row [N, D] -> [N], ε = 10⁻¹²."""
    norms = ((each.square().sum(dim=1) + 1e-12).sqrt() for each in (first, second))
    return 1 - (first * second).sum(dim=1) / math.prod(norms)


def ranking(cosines: Tensor, labels: Tensor, num_old: int) -> Tensor:
    """Mean over rows of old classes and their rivals of max(0, m − s_y + s_rival); 0 without such a row.

    Args:
        cosines: [N, K], old classes first.
        labels: [N].
        num_old: old classes; the two highest of the others are the rivals.
    """
    is_old = labels < num_old
    own = cosines.gather(1, labels.unsqueeze(1))
    num_rivals = min(NUM_RIVALS, cosines.shape[1] - num_old)
    rivals = cosines[:, num_old:].topk(num_rivals, dim=1).values
    excess = torch.relu(MARGIN - own + rivals).masked_fill(~is_old.unsqueeze(1), 0)
    return excess.sum() / (num_rivals * is_old.sum().clamp(min=1))
