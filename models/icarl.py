"""iCaRL: incremental classifier and representation learning (Rebuffi et al., CVPR 2017)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize, one_hot

from models.exemplar import ExemplarMethod
from utils.batch import Batch
from utils.evaluate import evaluating
from utils.registry import METHODS


@METHODS.register()
class Icarl(ExemplarMethod):
    """L = mean over rows and outputs of BCE(z, target): σ(z̄) for old classes, one-hot for the others.

    A test image gets the class whose exemplars' mean is nearest to its features.
    """

    heads = ("growing", "linear")
    default_batching = "union"
    has_teacher = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.means: Tensor | None = None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.forward(batch).scores
        targets = one_hot(batch.labels, scores.shape[1]).to(scores.dtype)
        if self.task > 0:
            taught = self.teach(batch.images).scores[:, : self.num_old].sigmoid()
            targets = torch.cat([taught, targets[:, self.num_old :]], dim=1)
        return {"bce": binary_cross_entropy_with_logits(scores, targets)}

    def scores(self, images: Tensor) -> Tensor:
        """−‖ĥ − μ_c‖² for every class with exemplars; the classifier's scores before there are any."""
        if self.means is None:
            return self.network(images)
        features = normalize(self.network.outputs(images).features)
        return -torch.cdist(features, self.means).square()

    def end_task(self, task: int) -> None:
        super().end_task(task)
        with evaluating(self.network):
            self.means = torch.stack([self.mean_of(label) for label in range(self.num_seen)])

    def mean_of(self, label: int) -> Tensor:
        """Normalised average of the mean features of a class's exemplars and of their mirror images."""
        raw = self.memory.of_class(label)
        features = [normalize(self.features_of(images)).mean(dim=0) for images in (raw, raw.flip(3))]
        return normalize((features[0] + features[1]) / 2, dim=0)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = state["means"]
