"""LUCIR: learning a unified classifier via rebalancing (Hou et al., CVPR 2019), as in Cha et al., CVPR 2023."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from models.base import Stage
from models.exemplar import ExemplarMethod
from models.heads import CosineHead, Network
from utils.config.options import Condition, Option, above, boolean, chosen, ranged
from utils.config.parts import BackbonePart
from utils.config.registry import METHODS
from utils.data.batch import Batch

_RANKING: dict[str, Any] = {"min_tasks": 2, "active_when": (chosen("lucir_ranking", True),)}


@METHODS.register()
class Lucir(ExemplarMethod):
    """L = λ · (1 − cos(h, h̄)) + CE(η s, y) + ranking, λ = λ_base √(old classes / new classes).

    s are cosines between features and class weights, η a learned scale. The ranking keeps the own class of a row of
    an old class a margin above the highest new classes. Old class weights are frozen. Scores may be distilled instead
    of features, by λ · old classes · mean of (s − s̄)² over rows and old classes (as in FACIL, Masana et al., 2023).
    """

    options = (
        *ExemplarMethod.options,
        Option("lucir_lambda", ranged(float, 0), 5.0, "base weight of the feature distillation loss", min_tasks=2),
        Option(
            "lucir_relu",
            str,
            "layer3",
            "stage whose last ReLU is removed: the third, or the last",
            choices=("layer3", "final"),
            active_when=(
                Condition(
                    ("backbone.ends_stages_in_relu", "backbone"),
                    lambda ends_in_relu, backbone: ends_in_relu,
                    "--backbone {1} has no ReLU at the end of a stage",
                ),
            ),
        ),
        Option(
            "lucir_distill",
            str,
            "features",
            "what is distilled: directions of features, or cosine scores of old classes (scores)",
            choices=("features", "scores"),
            min_tasks=2,
            active_when=(above("lucir_lambda", 0),),
        ),
        Option("lucir_ranking", boolean, True, "use the margin ranking loss between old and new classes", min_tasks=2),
        Option(
            "lucir_margin", ranged(float, 0), 0.5, "margin of the ranking loss, a difference of cosines", **_RANKING
        ),
        Option(
            "lucir_rivals",
            ranged(int, 1),
            2,
            "number of new classes that each old one is ranked against, at most those of the task",
            **_RANKING,
        ),
    )
    heads = ("cosine",)
    backbone_methods = ("drop_last_relu",)
    default_pool = "union"
    has_teacher = True
    capturable = True

    network: Network[CosineHead]
    teacher: Network[CosineHead] | None

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.network.backbone.drop_last_relu(self.config.lucir_relu)

    @classmethod
    def identity_values(cls, values: dict[str, Any], backbone: type[BackbonePart]) -> dict[str, Any]:
        values = super().identity_values(values, backbone)
        if "lucir_relu" in values and getattr(backbone, "num_stages", None) == 3:
            return values | {"lucir_relu": "layer3"}
        return values

    def trained(self, stage: Stage) -> list[nn.Parameter]:
        head = self.network.head
        return [*self.network.backbone.parameters(), *head.newest_parameters(), head.sigma]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.forward(batch)
        losses = {"ce": cross_entropy(outputs.scores, batch.labels)}
        if self.task > 0:
            config, num_old = self.config, self.num_old
            weight = config.lucir_lambda * math.sqrt(num_old / (self.num_seen - num_old))
            losses["distillation"] = weight * self.distill(outputs.features, self.teach(batch.images).features)
            if config.lucir_ranking:
                cosines = self.network.head.cosines(outputs.features)
                losses["ranking"] = ranking(cosines, batch.labels, num_old, config.lucir_margin, config.lucir_rivals)
        return losses

    def distill(self, features: Tensor, taught: Tensor) -> Tensor:
        """How far features [N, D], or the cosines of old classes that they give, are from the teacher's; []."""
        if self.config.lucir_distill == "features":
            return cosine_distance(features, taught).mean()
        cosines = self.network.head.cosines(features)[:, : self.num_old]
        assert self.teacher is not None  # from the end of the first task on
        return self.num_old * mse_loss(cosines, self.teacher.head.cosines(taught))


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 − a·b / (√(‖a‖² + ε) √(‖b‖² + ε)) of each row [N, D] -> [N], ε = 10⁻¹²."""
    norms = ((each.square().sum(dim=1) + 1e-12).sqrt() for each in (first, second))
    return 1 - (first * second).sum(dim=1) / math.prod(norms)


def ranking(cosines: Tensor, labels: Tensor, num_old: int, margin: float, num_rivals: int) -> Tensor:
    """Mean over rows of old classes and their rivals of max(0, m − s_y + s_rival); 0 without such a row.

    Args:
        cosines: [N, K], old classes first.
        labels: [N].
        num_old: old classes.
        margin: m.
        num_rivals: the highest of the other classes that count; all of them if there are not so many.
    """
    is_old = labels < num_old
    is_own = labels.unsqueeze(1) == torch.arange(cosines.shape[1], device=labels.device)
    own = cosines.where(is_own, 0).sum(dim=1, keepdim=True)
    num_rivals = min(num_rivals, cosines.shape[1] - num_old)
    rivals = highest(cosines[:, num_old:], num_rivals)
    excess = torch.relu(margin - own + rivals).masked_fill(~is_old.unsqueeze(1), 0)
    return excess.sum() / (num_rivals * is_old.sum().clamp(min=1))


def highest(values: Tensor, number: int) -> Tensor:
    """The highest values of each row [N, K], [N, number] in descending order.

    As `topk`, whose gradient is scattered, which deterministic kernels wait for the device for.
    """
    columns = torch.arange(values.shape[1], device=values.device)
    rest, found = values.detach(), []
    for _ in range(number):
        is_highest = rest.argmax(dim=1, keepdim=True) == columns
        found.append(values.where(is_highest, 0).sum(dim=1))
        rest = rest.masked_fill(is_highest, -torch.inf)
    return torch.stack(found, dim=1)
