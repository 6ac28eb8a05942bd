"""How far a run's norm layers have drifted from the earlier tasks, measured on copies of its network.

Cha et al. (CVPR 2023) show the bias of batch normalization by training its layers alone once more, on the data of all
tasks together: how the accuracy changes is what these layers alone can give back. Beside it, the distance of the
running statistics from those of the same data shows where they are off.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from utils.config.configuration import Configuration
from utils.data.batch import Batch
from utils.data.loaders import Loader, Loaders
from utils.data.plan import all_until
from utils.data.pools import Stream
from utils.inference import evaluating, inference_batch_size
from utils.optimizer import optimizer_settings
from utils.run.evaluate import Counts

if TYPE_CHECKING:
    from utils.run.training import Sinks

LR_FACTOR = 0.1  # of the run's learning rate, constant while re-tuning; this suite's choice
_COUNTS = ("class_il", "task_il", "total")


@dataclass(frozen=True)
class NormDiagnosis:
    """Measures the norm layers of a network after a task.

    Attributes:
        stream: gives the training images of tasks (`datasets/stream.py`).
        loaders: give batches of them (`utils/data/plan.py`).
        prepare: raw images -> normalised ones, as for evaluation.
        logits: (network, images [N, C, H, W]) -> [N, K], what the method takes a cross-entropy of.
        config: the options in force.
        sinks: show how far it is (`utils/run/training.py`).
        check: called before every batch; may raise to stop.
    """

    stream: Stream
    loaders: Loaders
    prepare: Callable[[Tensor], Tensor]
    logits: Callable[[nn.Module, Tensor], Tensor]
    config: Configuration
    sinks: "Sinks"
    check: Callable[[], None]

    def measure(self, network: nn.Module, task: int) -> tuple[dict[str, list[float | None]], nn.Module | None]:
        """What `distances` finds, and a copy of the network that went through `retune`.

        Args:
            network: images [N, C, H, W] -> scores [N, K]; stays as it is.
            task: the last one seen.

        Returns:
            None in the copy's place if no norm layer has parameters or running statistics, of which anything could
            change.
        """
        copied = copy.deepcopy(network)
        distances = self.distances(copied, task)
        layers = self.layers(copied).values()
        if not distances and all(next(layer.parameters(), None) is None for layer in layers):
            nothing = "has nothing to re-tune: no parameters, and no running statistics"
            self.sinks.screen.say(f"  {self.config.nl} {nothing}")
            return distances, None
        self.retune(copied, task)
        return distances, copied

    def layers(self, network: nn.Module) -> dict[str, nn.Module]:
        """The norm layers by their names in the network, in its order."""
        kind: Any = self.config.parts.norm
        return {name: module for name, module in network.named_modules() if isinstance(module, kind)}

    def loader(self, task: int) -> Loader:
        """Batches of the run's size of the training images of all tasks seen, none of their rows from memory.

        Raises:
            UserError: there are fewer images than one batch.
        """
        return self.loaders.of(all_until(task), ("retune", task))

    def retune(self, network: nn.Module, task: int) -> None:
        """Train the norm layers of a network alone, for so many epochs on all tasks seen.

        The optimizer is the run's, at `LR_FACTOR` of its first learning rate.

        Args:
            network: is changed, and in evaluation mode afterwards.
            task: the last one seen.
        """
        config, loader = self.config, self.loader(task)
        num_batches = min(loader.num_batches, config.debug_mode or loader.num_batches)
        batches = (
            batch for epoch in range(config.retune_norms) for batch in islice(loader.batches(epoch), num_batches)
        )
        kind, settings = optimizer_settings(config)
        settings |= {"lr": LR_FACTOR * config.lr} | ({} if config.decay_norms else {"weight_decay": 0.0})
        layers = self.layers(network).values()
        steps = train_alone(network, layers, batches, partial(kind, **settings), partial(self.logits, network))
        self.sinks.progress.update(stage_step=0, stage_total=config.retune_norms * num_batches)
        for done, _ in enumerate(steps, start=1):
            self.check()
            self.sinks.progress.update(stage_step=done)

    def distances(self, network: nn.Module, task: int) -> dict[str, list[float | None]]:
        """Distances of the running statistics from those of the training images of all tasks seen.

        The images, not augmented, pass once through the network in evaluation mode; see `distance`.

        Args:
            network: stays as it is.
            task: the last one seen.

        Returns:
            Of the means and of the standard deviations, by the name of the layer; None where one is not finite.
        """
        layers = {name: layer for name, layer in self.layers(network).items() if has_running_statistics(layer)}
        if not layers:
            return {}
        pool = self.stream.pool(range(task + 1))
        with evaluating(network), watching(layers) as moments:
            for rows in torch.arange(len(pool)).split(inference_batch_size(pool.image_shape, pool.device)):
                self.check()
                network(self.prepare(pool.take(rows)[0]))
            found = torch.stack([distance(layer, moments[name]) for name, layer in layers.items()]).tolist()
        return {
            name: [value if math.isfinite(value) else None for value in pair]
            for name, pair in zip(layers, found, strict=True)
        }


def add_diagnosis(
    norms: dict[str, Any],
    num_tasks: int,
    task: int,
    distances: Mapping[str, Sequence[float | None]],
    counts: Sequence[Counts] | None,
) -> None:
    """Add the measurements after a task to those that `result.json` will hold.

    Args:
        norms: `retuned`, counts [T][T] of the re-tuned network as those of the run, or None if no norm layer has
            anything to re-tune; `distances`, by layer, `mean` and `std`, [T] each. None where not measured. Empty at
            first.
        num_tasks: T.
        task: the last one seen.
        distances: of that task, by layer.
        counts: on each task seen, by the re-tuned network; None if there is none.
    """
    nothing = [None] * num_tasks
    norms.setdefault("retuned", None if counts is None else {name: [nothing[:] for _ in nothing] for name in _COUNTS})
    by_layer = norms.setdefault("distances", {})
    for layer, pair in distances.items():
        entry = by_layer.setdefault(layer, {"mean": nothing[:], "std": nothing[:]})
        entry["mean"][task], entry["std"][task] = pair
    for column, each in enumerate(counts or ()):
        values = (each.correct_class_il, each.correct_task_il, each.total)
        for name, value in zip(_COUNTS, values, strict=True):
            norms["retuned"][name][task][column] = value


def train_alone(
    network: nn.Module,
    layers: Collection[nn.Module],
    batches: Iterator[Batch],
    optimize: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    logits: Callable[[Tensor], Tensor],
) -> Iterator[None]:
    """Train some layers of a network by cross-entropy, a step per item; everything else is in evaluation mode.

    Args:
        network: is changed, and in evaluation mode at the end.
        layers: those in training mode, whose parameters and running statistics move.
        batches: what they are trained on.
        optimize: makes the optimizer of these parameters.
        logits: of images [N, C, H, W] by the network, [N, K].
    """
    network.eval().requires_grad_(False)
    for layer in layers:
        layer.train().requires_grad_(True)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimizer = optimize(parameters) if parameters else None
    for batch in batches:
        loss = cross_entropy(logits(batch.images), batch.labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield
    network.eval()


def has_running_statistics(layer: nn.Module) -> bool:
    """Whether a norm layer keeps statistics of the batches it has seen."""
    return isinstance(getattr(layer, "running_mean", None), Tensor)


class Moments:
    """Mean and variance of each channel over all maps that were added, summed in float64 on their device."""

    def __init__(self) -> None:
        self._num_values = 0
        self._sums: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Add maps [N, C, H, W]."""
        values = maps.double()
        sums = torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        self._sums = sums if self._sums is None else self._sums + sums
        self._num_values += maps.numel() // maps.shape[1]

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """[C] each in float64, the variance biased."""
        assert self._sums is not None  # of maps that were added
        mean, square = self._sums / self._num_values
        return mean, (square - mean.square()).clamp(min=0)


@contextmanager
def watching(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Moments]]:
    """The moments, by layer, of what passes through layers in evaluation mode while the context lasts."""
    moments = {name: Moments() for name in layers}
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(_watch(layer, moments[name]))
        yield moments


def _watch(layer: Any, moments: Moments) -> Callable[[], None]:
    """Let a layer add the maps that its running statistics describe; calling the result ends that."""
    inner = getattr(layer, "normalize_running", None)
    if inner is None:
        return layer.register_forward_pre_hook(lambda _, inputs: moments.add(inputs[0])).remove

    def watched(maps: Tensor) -> Tensor:
        moments.add(maps)
        return inner(maps)

    layer.normalize_running = watched  # a layer with a step before it, such as CN, keeps statistics of what that gives
    return partial(delattr, layer, "normalize_running")


def distance(layer: Any, moments: Moments) -> Tensor:
    """How far the running statistics of a layer are from those of the data, over its channels c: [2] in float64.

    sqrt(mean_c ((m_c − μ_c) / σ_c)²) of the running means m from the means μ of the data, and sqrt(mean_c log²(s_c /
    σ_c)) of the running standard deviations s from those of the data σ. Both standard deviations are what the layer
    divides by, its eps included, so that a channel without spread counts too; a layer's own convention otherwise, such
    as an unbiased variance, is part of the distance.
    """
    mean, variance = moments.mean_and_variance()
    if hasattr(layer, "running_std"):  # which has eps in it
        running_std, std = layer.running_std.double(), variance.sqrt() + layer.eps
    else:
        running_std, std = (layer.running_var.double() + layer.eps).sqrt(), (variance + layer.eps).sqrt()
    of_means = (layer.running_mean.double() - mean) / std
    of_stds = (running_std / std).log()
    return torch.stack([of_means, of_stds]).square().mean(dim=1).sqrt()
