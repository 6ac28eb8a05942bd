"""AFC: knowledge distillation by adaptive feature consolidation (Kang et al., CVPR 2022)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from backbone.norm import BatchContext, batch_context
from models.base import Stage
from models.heads import Outputs
from models.podnet import PROXY_OPTIONS, PodNet
from utils.config.configuration import Configuration
from utils.config.options import published, ranged
from utils.config.registry import METHODS
from utils.data.batch import Batch
from utils.data.plan import StreamSizes


@METHODS.register()
class Afc(PodNet):
    """L = NCA(η s, y) + λ m Σ_l mean_{i,c} I_{l,c} ‖û_{l,c} − v̂_{l,c}‖ / stages, m = √(classes seen / new classes).

    û and v̂ are the directions of the squared maps of a channel, now and before. The importance I of a channel is the
    mean over rows of the squared gradient of the classification loss with respect to its map, summed over positions; it
    is measured after each task, on the task's own batches, and scaled to mean 1 in every stage. Classifier, stages and
    schedule are PODNet's.
    """

    options = (
        *PROXY_OPTIONS,
        published("afc_lambda", ranged(float, 0), "weight of the feature-map distillation loss", min_tasks=2),
    )
    capturable = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.importance: list[Tensor] | None = None  # of the teacher's channels
        self.sums: list[Tensor] | None = None  # of the importance that is being measured
        self.replayed: dict[str, Any] | None = None  # the exemplars of the main stage, during the second one

    @classmethod
    def stages(cls, config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
        stages = super().stages(config, sizes, task)
        return [*stages, replace(stages[0], name="importance", epochs=1, lr=0.0, keep="last", trains=False)]

    def begin_stage(self, stage: Stage) -> None:
        """Importance is measured beside the exemplars that the task was learned beside."""
        if stage.name == "balance" and self.replayed is None:
            self.replayed = self.memory.state_dict()
        if stage.name == "importance" and self.replayed is not None:
            self.load_memory(self.replayed)
            self.replayed = None
        super().begin_stage(stage)

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        return self.measure(batch) if self.stage_name == "importance" else super().observe(batch)

    def distill(self, outputs: Outputs, taught: Outputs, labels: Tensor) -> dict[str, Tensor]:
        assert self.importance is not None  # from the end of the first task on
        weight = self.config.afc_lambda * self.multiplier
        return {"discrepancy": weight * discrepancy(outputs.maps, taught.maps, self.importance)}

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Add the importance of the channels on a batch; no parameter moves, running statistics do."""
        with self.described_alone(batch):
            # In the precision of the weights: maps that were rounded afterwards are no part of the loss's graph.
            features, maps = self.network.backbone.forward_maps(batch.images)
            loss = self.classify(self.network.head(features), batch.labels)
        self.add_importance(torch.autograd.grad(loss, maps))
        return {"importance_nca": loss.detach()}

    def described_alone(self, batch: Batch) -> AbstractContextManager:
        """Describes the batch to the norm layers as in training, but keeps no regularizer."""
        if batch.num_current is None:
            return nullcontext()
        return batch_context(self.network, BatchContext(self.task, batch.tasks, batch.num_current))

    def add_importance(self, gradients: Sequence[Tensor]) -> None:
        """Add the mean over rows of the squared gradients of the maps [N, C, H, W], summed over positions."""
        measured = [gradient.square().sum(dim=(2, 3)).mean(dim=0) for gradient in gradients]
        sums = self.sums or [torch.zeros_like(each) for each in measured]
        self.sums = [total + each for total, each in zip(sums, measured, strict=True)]

    def end_task(self, task: int) -> None:
        assert self.sums is not None  # of the stage that measures them
        means = [total.mean() for total in self.sums]  # 0 where no gradient came through: then all are alike
        self.importance = [
            torch.where(mean > 0, total / mean, torch.ones_like(total))
            for total, mean in zip(self.sums, means, strict=True)
        ]
        self.sums = None
        super().end_task(task)

    def state_dict(self) -> dict[str, Any]:
        own = {"importance": self.importance, "sums": self.sums, "replayed": self.replayed}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.importance, self.sums, self.replayed = (state[name] for name in ("importance", "sums", "replayed"))


def discrepancy(maps: Sequence[Tensor], taught: Sequence[Tensor], importance: Sequence[Tensor]) -> Tensor:
    """Mean over stages, rows and channels of I · ‖û − v̂‖, [] (Kang et al., CVPR 2022).

    Args:
        maps: after each stage, [N, C, H, W].
        taught: those of the teacher.
        importance: of each stage's channels, [C].
    """
    total = maps[0].new_zeros(())
    for ours, theirs, weights in zip(maps, taught, importance, strict=True):
        ours, theirs = (normalize(each.square().flatten(2), dim=2) for each in (ours, theirs))
        total = total + (weights * (ours - theirs).norm(dim=2)).mean()
    return total / len(maps)
