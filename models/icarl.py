"""iCaRL: incremental classifier and representation learning (Rebuffi et al., CVPR 2017)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from models.exemplar import ExemplarMethod
from utils.config.options import Option, boolean, changed
from utils.config.parts import NormPart
from utils.config.registry import METHODS
from utils.data.batch import Batch
from utils.inference import evaluating, inference_batch_size


@METHODS.register()
class Icarl(ExemplarMethod):
    """L = mean over rows and outputs of BCE(z, target): σ(z̄) for old classes, one-hot for the others.

    The form of Masana et al. (FACIL, TPAMI 2023), `ce_bce`, is CE + Σ_old classes BCE(z, σ(z̄)), the latter averaged
    over rows. A test image gets the class whose exemplars' mean is nearest to its features, so that the classifier's
    validation loss chooses no epoch unless it is asked to. `--optim_wd 2e-5` is the term 10⁻⁵ ‖θ‖² of mammoth's loss.
    """

    options = (
        # The means are of the exemplars that a task leaves.
        *changed(
            ExemplarMethod.options,
            exemplar_selection={"min_tasks": 1},
            quota={"min_tasks": 1},
            reherd={"min_tasks": 2},
        ),
        Option(
            "icarl_loss",
            str,
            "bce",
            "loss: binary cross-entropy of all outputs; or cross-entropy plus that of the old outputs (ce_bce)",
            choices=("bce", "ce_bce"),
        ),
        Option(
            "icarl_flip", boolean, True, "compute class means over exemplars and their mirror images; 0: exemplars only"
        ),
    )
    heads = ("growing", "linear")
    default_batching = "union"
    has_teacher = True
    capturable = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.means: Tensor | None = None

    @classmethod
    def warnings(cls, values: dict[str, Any], norm: type[NormPart]) -> list[str]:
        if values["best_epoch"] == "last":
            return []
        return ["the epoch is chosen by the classifier's loss, and images are classified by the nearest mean"]

    def begin_task(self, task: int) -> None:
        """Until its end the classifier is measured: the means are of features that move, and of old classes alone."""
        super().begin_task(task)
        self.means = None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.forward(batch).scores
        taught = self.teach(batch.images).scores[:, : self.num_old].sigmoid() if self.task > 0 else scores[:, :0]
        if self.config.icarl_loss == "bce":
            classes = torch.arange(scores.shape[1], device=scores.device)
            targets = (batch.labels.unsqueeze(1) == classes).to(scores.dtype)
            targets = torch.cat([taught, targets[:, taught.shape[1] :]], dim=1)
            return {"bce": binary_cross_entropy_with_logits(scores, targets)}
        losses = {"ce": cross_entropy(scores, batch.labels)}
        if self.task > 0:
            old = binary_cross_entropy_with_logits(scores[:, : self.num_old], taught, reduction="sum")
            losses["distillation"] = old / len(batch)
        return losses

    def scores(self, images: Tensor) -> Tensor:
        """−‖ĥ − μ_c‖² for every class with exemplars; the classifier's scores before there are any."""
        if self.means is None:
            return self.network(images)
        features = normalize(self.network.outputs(images).features)
        return -torch.cdist(features, self.means).square()

    def end_task(self, task: int) -> None:
        super().end_task(task)
        with evaluating(self.network):
            self.means = self.class_means()

    def class_means(self) -> Tensor:
        """Normalised average [K, D] of the mean features of each class's exemplars and, with flips, of their mirror
        images."""
        raw, _ = self.memory.pool().everything()
        views = (raw, raw.flip(3)) if self.config.icarl_flip else (raw,)
        return normalize(torch.stack([self.mean_directions(images) for images in views]).mean(dim=0))

    def mean_directions(self, raw: Tensor) -> Tensor:
        """Mean normalised features [K, D] of each class's images, which are those of memory [N, C, H, W] in its order,
        forwarded as in evaluation."""
        batch_size = inference_batch_size(raw.shape, raw.device)
        directions = normalize(torch.cat([self.features_of(part) for part in raw.split(batch_size)]))
        sizes = self.memory.pool().labels.bincount().tolist()
        return torch.stack([of_class.mean(dim=0) for of_class in directions.split(sizes)])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = state["means"]
