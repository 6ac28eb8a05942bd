"""How well a method predicts the test images of its stream, after a task and inside one."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from utils.config.configuration import Configuration
from utils.data.pools import Stream, SubsetPool
from utils.inference import evaluating
from utils.run.evaluate import Counts, by_task, choose_images, evaluate


class Predictor(Protocol):
    """A method as evaluation sees it (`models/base.py`)."""

    @property
    def network(self) -> nn.Module: ...

    def scores(self, images: Tensor) -> Tensor: ...


class Evaluator:
    """Counts correct predictions on the test images of a stream of T tasks and K classes.

    Args:
        stream: gives the test images.
        method: predicts by its `scores`, unless another network is given.
        prepare: raw images -> normalised images.
        config: the options in force.
        check: called before every batch; may raise to stop.
    """

    def __init__(
        self,
        stream: Stream,
        method: Predictor,
        prepare: Callable[[Tensor], Tensor],
        config: Configuration,
        check: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._method = method
        self._prepare = prepare
        self._config = config
        self._check = check
        self.is_sharp = stream.boundaries == "sharp"

    def count_tasks(self, num_tasks: int, *, num_trained: int, network: nn.Module | None = None) -> list[Counts]:
        """Counts on the first tasks: of the classes that have come by then, by the task that each belongs to.

        Args:
            num_tasks: how many tasks are tested.
            num_trained: tasks trained so far, whose classes Class-IL compares with `--class_il_outputs seen`.
            network: images [N, C, H, W] -> scores [N, K]; None: the method's scores.
        """
        is_tested = self._stream.first_tasks < num_tasks
        return self.by_task(self.count_classes(is_tested, num_trained=num_trained, network=network))

    def count_classes(
        self,
        is_tested: Tensor,
        *,
        num_trained: int,
        network: nn.Module | None = None,
        is_used: Tensor | None = None,
    ) -> list[Counts]:
        """Counts of each class, by label; none of classes that are not tested.

        Args:
            is_tested: [K] bool on the host.
            num_trained, network: as of `count_tasks`.
            is_used: which test images are used, [N] bool on the host; None: all.
        """
        stream = self._stream
        pool = stream.pool(range(int(stream.task_of_class[is_tested].max()) + 1), "test")
        is_chosen = is_tested[pool.labels] if is_used is None else is_tested[pool.labels] & is_used[: len(pool)]
        rows = is_chosen.nonzero().flatten()
        pool = pool if len(rows) == len(pool) else SubsetPool(pool, rows)
        compares_seen = self._config.class_il_outputs == "seen"
        with evaluating(network or self._method.network):
            return evaluate(
                network or self._method.scores,
                pool,
                prepare=self._prepare,
                task_of_class=stream.task_of_class,
                first_tasks=stream.first_tasks,
                last_tasks=stream.first_tasks.clamp(min=num_trained - 1) if compares_seen else None,
                groups=pool.labels,
                check=self._check,
            )

    def count_after_task(self, task: int, *, with_next: bool) -> list[Counts]:
        """Counts of each class that has come by the end of a task, or of the next task, for forward transfer."""
        num_tested = min(task + 1 + with_next, self._stream.num_tasks)
        return self.count_classes(self._stream.first_tasks < num_tested, num_trained=task + 1)

    def count_point(self, task: int, seen: Sequence[int] | None) -> list[Counts]:
        """Counts of each class at an evaluation point in a task, on the images that such points use.

        Args:
            task: the task being trained.
            seen: labels that have come in it so far; None: all of those that come in it count.
        """
        is_seen = self._stream.first_tasks < task + (seen is None)
        if seen is not None:
            is_seen[seen] = True
        return self.count_classes(is_seen, num_trained=task + 1, is_used=self.point_images)

    @cached_property
    def point_images(self) -> Tensor | None:
        """Which test images the evaluation points use (`--eval_images`), [N] bool on the host; None: all."""
        config, stream = self._config, self._stream
        if not config.eval_images:
            return None
        labels = stream.pool(range(stream.num_tasks), "test").labels
        return choose_images(labels, stream.task_of_class, config.eval_images, config.seed)

    def num_classes_seen(self, task: int) -> int:
        """Classes that have come by the end of a task."""
        return int((self._stream.first_tasks <= task).nonzero().max()) + 1

    def by_task(self, classes: Sequence[Counts]) -> list[Counts]:
        """The counts of each task, from those of each class."""
        return by_task(classes, self._stream.task_of_class)

    def in_total(self, classes: Sequence[Counts]) -> list[Counts]:
        """The counts of all classes together, as if they were one task."""
        return by_task(classes, torch.zeros_like(self._stream.task_of_class))

    def accuracies(self, found: Sequence[Counts], task: int, scenarios: Sequence[str]) -> dict[str, Any]:
        """Accuracies in percent by scenario, and under `mean` the accuracy on what was seen.

        Args:
            found: counts of each task; of the tasks after `task`, nothing was seen, unless tasks share classes.
            task: the last one that has begun.
            scenarios: which to give.

        Returns:
            For each scenario a list over tasks, None where no image was tested. The mean is over tasks, or over images
            where tasks are mere segments of the stream.
        """
        found = found[: task + 1] if self.is_sharp else found
        result: dict[str, Any] = {"mean": {}}
        for scenario in scenarios:
            correct = [getattr(each, f"correct_{scenario}") for each in found]
            total = [each.total for each in found]
            percent: list[Any] = [100 * right / of if of else None for right, of in zip(correct, total, strict=True)]
            result[scenario] = percent
            result["mean"][scenario] = sum(percent) / len(found) if self.is_sharp else 100 * sum(correct) / sum(total)
        return result
