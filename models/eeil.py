"""EEIL: end-to-end incremental learning (Castro et al., ECCV 2018), as in FACIL and Cha et al., CVPR 2023."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cross_entropy, kl_div

from models.base import Stage
from models.exemplar import ExemplarMethod, frozen_copy
from models.heads import Head, Network, Outputs
from utils.config.configuration import Configuration
from utils.config.options import Condition, Option, boolean, changed, ranged
from utils.config.parts import NormPart
from utils.config.registry import METHODS
from utils.data.batch import Batch
from utils.data.plan import DataPlan, Plain, Rows, StreamSizes

TEMPERATURE = 2.0
_IN_PAIRS = {  # the second stage pairs rows too
    "active_when": (
        Condition(
            ("batching", "eeil_second_stage"),
            lambda batching, second_stage: batching == "ratio" or second_stage == "released",
            "it belongs to --batching ratio or --eeil_second_stage released",
        ),
    )
}


@METHODS.register()
class Eeil(ExemplarMethod):
    """L = CE + Σ_{i<q} BCE(softmax(z_i / 2), softmax(z̄_i / 2)), z_i and z̄_i the outputs of task i, now and before.

    The binary cross-entropy is averaged over rows and outputs. q is the number of old tasks in the second stage; in
    the main stage the newest of them is not distilled, as in the published runs. The second stage trains on the
    exemplars, the task and the exemplars once more, at a hundredth of the learning rate.

    In the form of Ahn et al. (SS-IL, ICCV 2021), `kl`, 4 KL(softmax(z̄_i / 2) ‖ softmax(z_i / 2)) takes the place of
    BCE, averaged over rows, and the second stage distills the newest task alone, from a copy made before that stage.
    """

    options = (
        *changed(ExemplarMethod.options, batch_ratio=_IN_PAIRS, ratio_cycle=_IN_PAIRS),
        Option(
            "eeil_skip_newest_head",
            boolean,
            True,
            "do not distill the most recent old task in the main stage",
            min_tasks=2,
        ),
        Option(
            "eeil_distill",
            str,
            "bce",
            "distillation loss: binary cross-entropy; or KL divergence, in the second stage of the new task only (kl)",
            choices=("bce", "kl"),
            min_tasks=2,
        ),
        Option(
            "eeil_second_stage",
            str,
            "released",
            "data of the second stage: exemplars and all images of the task, or an equal number of both (balanced)",
            choices=("released", "balanced"),
            min_tasks=2,
        ),
        Option("second_epochs", ranged(int, 1), 40, "epochs of the second stage", min_tasks=2),
    )
    default_pool = "union"
    drops_last = True
    has_teacher = True
    capturable = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.unbalanced: Network[Head] | None = None  # during the second stage, the network as it was before

    @classmethod
    def warnings(cls, values: dict[str, Any], norm: type[NormPart]) -> list[str]:
        if values["eeil_second_stage"] == "released" or not norm.needs_joint:
            return []
        return [f"current and memory rows of the balanced second stage are one to {norm.name}, which balances nothing"]

    @classmethod
    def stages(cls, config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
        main = cls.main_stage(config, task)
        if task == 0:
            return [main]
        if config.eeil_second_stage == "released":
            data: DataPlan = cls.pairs(config, Rows((task,), exemplars=2))
        else:
            data = Plain(Rows((task,), exemplars=1, balanced=True))
        schedule = {"epochs": config.second_epochs, "lr": 0.01 * config.lr, "keep": config.best_epoch}
        return [main, Stage(data, **schedule, held_out=(task,), name="balance")]

    def begin_stage(self, stage: Stage) -> None:
        """Copy the network before a second stage that is distilled from it."""
        if stage.name == "balance" and self.config.eeil_distill == "kl" and self.unbalanced is None:
            self.unbalanced = frozen_copy(self.network)
        super().begin_stage(stage)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.forward(batch).scores
        losses = {"ce": cross_entropy(scores, batch.labels)}
        if self.distilled_tasks:
            losses["distillation"] = self.distill(scores, self.teach(batch.images).scores)
        return losses

    @property
    def distilled_tasks(self) -> range:
        """Tasks whose outputs are kept near to the teacher's in this stage."""
        if self.stage_name == "main":
            return range(max(0, self.task - int(self.config.eeil_skip_newest_head)))
        return range(self.task, self.task + 1) if self.config.eeil_distill == "kl" else range(self.task)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Outputs:
        if self.unbalanced is None:
            return super().teach(images)
        return self.unbalanced.outputs(images)

    def distill(self, scores: Tensor, taught: Tensor) -> Tensor:
        """Σ over the distilled tasks of the distance between their outputs."""
        distance = softened_bce if self.config.eeil_distill == "bce" else softened_kl
        total = scores.new_zeros(())
        for task in self.distilled_tasks:
            of_task = self.columns(task)
            total = total + distance(scores[:, of_task], taught[:, of_task])
        return total

    def end_task(self, task: int) -> None:
        self.unbalanced = None
        super().end_task(task)

    def state_dict(self) -> dict[str, Any]:
        unbalanced = None if self.unbalanced is None else self.unbalanced.state_dict()
        return super().state_dict() | {"unbalanced": unbalanced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state["unbalanced"] is not None:
            self.unbalanced = frozen_copy(self.network)
            self.unbalanced.load_state_dict(state["unbalanced"])


def softened_bce(scores: Tensor, taught: Tensor) -> Tensor:
    """Binary cross-entropy between softened outputs [N, K] of a task, averaged over rows and outputs; []."""
    now, before = ((each / TEMPERATURE).softmax(dim=1) for each in (scores, taught))
    return binary_cross_entropy(now, before)


def softened_kl(scores: Tensor, taught: Tensor) -> Tensor:
    """τ² KL(before ‖ now) of the softened outputs [N, K] of a task, averaged over rows; []."""
    now, before = ((each / TEMPERATURE).log_softmax(dim=1) for each in (scores, taught))
    return TEMPERATURE**2 * kl_div(now, before, reduction="batchmean", log_target=True)
