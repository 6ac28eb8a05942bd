"""Correct predictions on test sets, Class-IL and Task-IL, counted in large batches without waiting for the device."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from utils.data.pools import Pool
from utils.data.staging import send
from utils.errors import Diverged, is_out_of_memory
from utils.inference import inference_batch_size
from utils.seeds import generator

_FEWER = 8  # so many times fewer images in a batch where a GPU's memory is full


@dataclass(frozen=True)
class Counts:
    """Test images of one task that were classified correctly, by scenario, and all of them."""

    correct_class_il: int
    correct_task_il: int
    total: int


def evaluate(
    scores: Callable[[Tensor], Tensor],
    pool: Pool,
    *,
    prepare: Callable[[Tensor], Tensor],
    task_of_class: Tensor,
    first_tasks: Tensor | None = None,
    last_tasks: Tensor | None = None,
    groups: Tensor | None = None,
    check: Callable[[], None] | None = None,
) -> list[Counts]:
    """Count the correct predictions on every image of the test sets of the first tasks, which share batches.

    Class-IL takes the best of all outputs, Task-IL the best of the task's own classes.

    Args:
        scores: normalised images [N, C, H, W] -> scores [N, K], the highest of which is the prediction; no row may
            depend on the others.
        pool: the test images of tasks 0 to T - 1.
        prepare: raw images -> normalised float images.
        task_of_class: task of each label, [K] int64 on the host; the scores may have fewer columns.
        first_tasks: the task from which on Class-IL may compare a class, [K] int64 on the host; its own if None.
        last_tasks: for images of each class, the last task whose classes Class-IL compares, [K] int64 on the host; all
            outputs if None.
        groups: of each image, by which it is counted, [N] int64 on the host; its task if None.
        check: called before every batch; may raise to stop.

    Returns:
        The counts of each group.

    Raises:
        Diverged: a score is NaN, so that no prediction means anything.
    """
    first_tasks = task_of_class if first_tasks is None else first_tasks
    tables = {"tasks": task_of_class} | ({} if last_tasks is None else {"first": first_tasks, "last": last_tasks})
    tables = send(tables, pool.device)
    hits: list[Tensor] = []

    def count(raw: Tensor, labels: Tensor) -> None:
        outputs = scores(prepare(raw))
        columns, tasks = tables["tasks"][: outputs.shape[1]], tables["tasks"][labels].unsqueeze(1)
        everywhere = outputs
        if last_tasks is not None:
            everywhere = _only(outputs, tables["first"][: outputs.shape[1]] <= tables["last"][labels].unsqueeze(1))
        predicted = [each.argmax(dim=1) == labels for each in (everywhere, _only(outputs, columns == tasks))]
        hits.append(torch.stack([*predicted, outputs.isnan().any(dim=1)]))

    _for_batches(pool, count, check)
    class_il, task_il, undefined = torch.cat(hits, dim=1).cpu()  # the only wait for the device
    if undefined.any():
        raise Diverged(
            f"the network outputs NaN on {int(undefined.sum())} of {len(pool)} test images; a lower --lr may help"
        )
    groups = pool.tasks if groups is None else groups
    number = int(groups.max()) + 1
    found = [each.bincount(minlength=number) for each in (groups[class_il], groups[task_il], groups)]
    return [Counts(*row) for row in torch.stack(found, dim=1).tolist()]


def by_task(counts: Sequence[Counts], task_of_class: Tensor) -> list[Counts]:
    """The counts of each task, from those of each class, by label."""
    tasks = task_of_class[: len(counts)]
    rows = torch.tensor([[each.correct_class_il, each.correct_task_il, each.total] for each in counts])
    sums = torch.zeros(int(tasks.max()) + 1, 3, dtype=torch.int64).index_add_(0, tasks, rows)
    return [Counts(*row) for row in sums.tolist()]


def choose_images(labels: Tensor, task_of_class: Tensor, number: int, seed: int) -> Tensor:
    """Draw so many test images of each task, all of one that has fewer, its classes as evenly as can be.

    Args:
        labels: of all test images, [N] int64 on the host.
        task_of_class: task of each label, [K] int64 on the host.
        number: at least as many as a task has classes.
        seed: of the run.

    Returns:
        [N] bool on the host.
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed, "evaluation"))
    is_chosen = torch.zeros(len(labels), dtype=torch.bool)
    for task in range(int(task_of_class.max()) + 1):
        rows = shuffled[task_of_class[labels[shuffled]] == task]
        is_of = labels[rows].unsqueeze(1) == (task_of_class == task).nonzero().flatten()
        places = is_of.cumsum(dim=0)[is_of]  # of each among those of its class
        is_chosen[rows[places.argsort(stable=True)[:number]]] = True
    return is_chosen


def _only(outputs: Tensor, allowed: Tensor) -> Tensor:
    """The outputs [N, K], lower where they are not allowed, [N, K] or [N, 1], than any that is, −∞ included."""
    return torch.where(allowed, outputs.clamp(min=torch.finfo(outputs.dtype).min), -torch.inf)


def mean_cross_entropy(
    scores: Callable[[Tensor], Tensor],
    pool: Pool,
    *,
    prepare: Callable[[Tensor], Tensor],
    check: Callable[[], None] | None = None,
) -> float:
    """Mean cross-entropy over every image of a pool, such as the validation loss.

    Args:
        scores: normalised images [N, C, H, W] -> logits [N, K].
        pool: the images.
        prepare, check: as in `evaluate`.

    Raises:
        Diverged: the mean is not finite.
    """
    sums: list[Tensor] = []

    def add(raw: Tensor, labels: Tensor) -> None:
        sums.append(cross_entropy(scores(prepare(raw)), labels, reduction="sum").double())

    _for_batches(pool, add, check)
    mean = torch.stack(sums).sum().item() / len(pool)
    if not math.isfinite(mean):
        raise Diverged("the validation loss is no longer finite; a lower --lr may help")
    return mean


def _for_batches(pool: Pool, use: Callable[[Tensor, Tensor], None], check: Callable[[], None] | None) -> None:
    """Hand all images of a pool, raw, and their labels to a function that changes nothing if it fails.

    Where a GPU's memory is too full for a batch, that one and those after it are smaller, once.
    """
    size, start = inference_batch_size(pool.image_shape, pool.device), 0
    smallest = max(1, size // _FEWER)
    while start < len(pool):
        if check is not None:
            check()
        try:
            use(*pool.take(torch.arange(start, min(start + size, len(pool))))[:2])
            start += size
        except RuntimeError as error:
            if pool.device.type != "cuda" or size == smallest or not is_out_of_memory(error):
                raise
            size = smallest
