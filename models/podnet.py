"""PODNet: pooled outputs distillation (Douillard et al., ECCV 2020)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from models.base import Stage
from models.exemplar import ExemplarMethod
from models.heads import Network, Outputs, ProxyHead
from models.kmeans import cluster_centres
from models.lucir import cosine_distance
from utils.config.configuration import Configuration
from utils.config.options import Option, above, boolean, changed, published, ranged
from utils.config.registry import METHODS
from utils.data.batch import Batch, Draft
from utils.data.plan import Plain, Rows, StreamSizes
from utils.inference import evaluating
from utils.optimizer import parameters_of
from utils.seeds import generator

GRADIENT_LIMIT = 5.0
_MAPS = above("podnet_lambda_c", 0)

PROXY_OPTIONS = (
    *changed(ExemplarMethod.options, reherd={"min_tasks": 2}),  # the second stage replays what a task leaves
    Option(
        "nca",
        str,
        "published",
        "classification loss: the published NCA, or plain softmax cross-entropy",
        choices=("published", "softmax"),
    ),
    published("second_epochs", ranged(int, 1), "epochs of the second stage", min_tasks=2),
    published("second_lr", ranged(float, 0), "learning rate of the second stage", min_tasks=2),
)


@METHODS.register()
class PodNet(ExemplarMethod):
    """L = NCA(η s, y) + λ_f m (1 − cos(h, h̄)) + λ_c m POD(maps, maps before), m = √(classes seen / new classes).

    s are similarities to several proxies per class, η a learned scale. The proxies of new classes begin as centres of
    the features of their images; old proxies rest. Then the second stage trains all proxies alone, on exemplars of all
    classes, which moves the running statistics too; its loss is NCA alone, as the distillation of features that rest
    has no gradient. The learning rate of the main stage follows a cosine.
    """

    options = (
        *PROXY_OPTIONS,
        published("podnet_lambda_f", ranged(float, 0), "weight of the feature distillation loss", min_tasks=2),
        published("podnet_lambda_c", ranged(float, 0), "weight of the feature-map distillation loss", min_tasks=2),
        Option(
            "podnet_pooling",
            str,
            "spatial",
            "how squared maps are pooled before they are compared; spatial: over width and over height",
            choices=("spatial", "width", "height", "gap", "channels"),
            min_tasks=2,
            active_when=(_MAPS,),
        ),
        Option(
            "podnet_normalize",
            boolean,
            True,
            "L2-normalize the pooled maps before they are compared",
            min_tasks=2,
            active_when=(_MAPS,),
        ),
        Option(
            "podnet_rows",
            str,
            "all",
            "rows whose maps are distilled: all, or only those of old classes",
            choices=("all", "old"),
            min_tasks=2,
            active_when=(_MAPS,),
        ),
    )
    heads = ("proxy",)
    transforms = "podnet"
    schedule = "epoch_cosine"
    has_teacher = True
    capturable = True
    reads_maps = True
    backbone_methods = ("forward_maps",)

    network: Network[ProxyHead]

    # -- stages ------------------------------------------------------------------------------------------------------

    def begin_task(self, task: int) -> None:
        super().begin_task(task)
        if task > 0:
            self.imprint()

    @classmethod
    def stages(cls, config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
        main = cls.main_stage(config, task)
        if task == 0:
            return [main]
        data = Plain(Rows(exemplars=1), drop_last=False)
        schedule = {"epochs": config.second_epochs, "lr": config.second_lr, "keep": config.best_epoch}
        return [main, Stage(data, **schedule, held_out=(task,), name="balance", chooses_exemplars=True)]

    def trained(self, stage: Stage) -> list[nn.Parameter]:
        head = self.network.head
        if stage.name == "balance":
            return [*head.old_parameters(), *head.newest_parameters()]
        return [*self.network.backbone.parameters(), head.eta, *head.newest_parameters()]

    def clip_gradients(self) -> None:
        """Limit every entry, as in the published runs."""
        assert self.optimizer is not None  # made by `begin_stage`
        nn.utils.clip_grad_value_(parameters_of(self.optimizer), GRADIENT_LIMIT)

    # -- losses ------------------------------------------------------------------------------------------------------

    def num_current(self, batch: Batch | Draft) -> int | None:
        return 0 if self.stage_name == "balance" else batch.num_current  # where every row comes from memory

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.forward(batch)
        losses = {"nca": self.classify(outputs.scores, batch.labels)}
        if self.task > 0 and self.stage_name != "balance":  # which trains nothing that the distillation sees
            losses |= self.distill(outputs, self.teach(batch.images), batch.labels)
        return losses

    def classify(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The classification loss of the scaled similarities [N, K], averaged over rows."""
        return nca(self.network.head.eta * scores, labels, self.config.nca)

    def logits(self, network: Network[Any], images: Tensor) -> Tensor:
        """The similarities as the loss scales them."""
        return network.head.eta * network(images)

    def distill(self, outputs: Outputs, taught: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """The terms that keep the network near to what it was; labels [N]."""
        config, multiplier = self.config, self.multiplier
        weights = (labels < self.num_old).to(outputs.features.dtype) if config.podnet_rows == "old" else None
        flat = cosine_distance(outputs.features, taught.features).mean()
        maps = pod(outputs.maps, taught.maps, config.podnet_pooling, config.podnet_normalize, weights)
        return {
            "flat": config.podnet_lambda_f * multiplier * flat,
            "pod": config.podnet_lambda_c * multiplier * maps,
        }

    @property
    def multiplier(self) -> float:
        """√(classes seen, the new ones included / new classes): distillation gains weight with the tasks."""
        return math.sqrt(self.num_seen / (self.num_seen - self.num_old))

    # -- proxies -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def imprint(self) -> None:
        """Put the proxies of the new classes at centres of their features, as long as the old proxies on average."""
        head = self.network.head
        length = torch.cat([*head.old_parameters()]).norm(dim=1).mean()
        (proxies,) = head.newest_parameters()
        with evaluating(self.network):
            centres = [self.centres_of(label, head.rows_per_class) for label in range(self.num_old, self.num_seen)]
        proxies.copy_(length * torch.cat(centres))

    def centres_of(self, label: int, number: int) -> Tensor:
        """Centres [number, D] of the normalised features of a class's training images."""
        pool = self.stream.pool((self.task,))
        rows = (pool.labels == label).nonzero().flatten()
        parts = [self.features_of(pool.take(part)[0]) for part in rows.split(self.config.batch_size)]
        return cluster_centres(normalize(torch.cat(parts)), number, generator(self.config.seed, "proxies", label))


def nca(scores: Tensor, labels: Tensor, form: str = "published") -> Tensor:
    """−mean of q_y − log(1 + Σ_{j≠y} exp q_j), q the scores less the row's highest one; [].

    This is what the published program computes for the loss of Douillard et al., eq. 9: the margin, which it subtracts
    from all scores, cancels, and the own class leaves exp 0 in the denominator. No row is below 0, where the paper's
    hinge would cut it off.

    Args:
        scores: [N, K].
        labels: [N].
        form: `published`; `softmax`, the denominator holds all classes.
    """
    if form == "softmax":
        return cross_entropy(scores, labels)
    # Masks, as deterministic kernels wait for the device where a gradient is scattered.
    is_own = labels.unsqueeze(1) == torch.arange(scores.shape[1], device=labels.device)
    shifted = scores - scores.amax(dim=1, keepdim=True)
    return (shifted.masked_fill(is_own, 0).logsumexp(dim=1) - shifted.where(is_own, 0).sum(dim=1)).mean()


def pod(
    maps: Sequence[Tensor],
    taught: Sequence[Tensor],
    pooling: str = "spatial",
    normalized: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over stages and rows of the distance between pooled maps, [] (Douillard et al., ECCV 2020, eqs. 1 to 5).

    Args:
        maps: after each stage, [N, C, H, W].
        taught: those of the teacher.
        pooling: what squared maps are summed over (`pooled`).
        normalized: divide pooled maps by their norm.
        weights: of the rows [N]; None: all the same. 0 if their sum is.
    """
    total = maps[0].new_zeros(())
    for ours, theirs in zip(maps, taught, strict=True):
        ours, theirs = (pooled(each, pooling) for each in (ours, theirs))
        if normalized:
            ours, theirs = normalize(ours), normalize(theirs)
        distances = (ours - theirs).norm(dim=1)
        total = total + (distances.mean() if weights is None else _weighted_mean(distances, weights))
    return total / len(maps)


def pooled(maps: Tensor, pooling: str) -> Tensor:
    """Squared maps [N, C, H, W], summed, as vectors [N, …].

    `width` leaves C · W values, `height` C · H, `spatial` has the latter and then the former, `channels` leaves H · W;
    `gap` takes the C averages over all places. The first two are named by the axis that is left.
    """
    squares = maps.square()
    if pooling == "gap":
        return squares.mean(dim=(2, 3))
    kept = {"width": (2,), "height": (3,), "spatial": (3, 2), "channels": (1,)}[pooling]
    return torch.cat([squares.sum(dim=axis).flatten(1) for axis in kept], dim=1)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)
