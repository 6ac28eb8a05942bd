"""Correct predictions on a test set, Class-IL and Task-IL, counted in large batches without waiting for the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from utils.errors import Diverged
from utils.inference import inference_batch_size

if TYPE_CHECKING:
    from utils.data.pools import Pool


@dataclass(frozen=True)
class Counts:
    """Test images of one task that were classified correctly, by scenario, and all of them."""

    correct_class_il: int
    correct_task_il: int
    total: int


def evaluate(
    scores: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    prepare: Callable[[Tensor], Tensor],
    task_classes: range,
    num_seen: int | None = None,
    batch_size: int | None = None,
    check: Callable[[], None] | None = None,
) -> Counts:
    """Count the correct predictions on every image of one task's test set.

    Class-IL takes the best of all outputs, Task-IL the best of the task's own classes.

    Args:
        scores: normalised images [N, C, H, W] -> scores [N, K], the highest of which is the prediction.
        images: raw test images, [N, C, H, W] uint8.
        labels: [N] int64, on the same device.
        prepare: raw images -> normalised float images.
        task_classes: labels of the task, which are columns of the scores.
        num_seen: Class-IL compares only that many first outputs; all if None.
        batch_size: images per forward; by their size if None.
        check: called before every batch; may raise to stop.

    Raises:
        Diverged: a score is NaN, so that no prediction means anything.
    """
    batch_size = batch_size or inference_batch_size(images.shape)
    within = slice(task_classes.start, task_classes.stop)
    counts = torch.zeros(3, dtype=torch.int64, device=labels.device)
    for part, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        if check is not None:
            check()
        outputs = scores(prepare(part))
        class_il = outputs[:, :num_seen].argmax(dim=1) == targets
        task_il = outputs[:, within].argmax(dim=1) + task_classes.start == targets
        counts += torch.stack([class_il, task_il, outputs.isnan().any(dim=1)]).sum(dim=1)
    correct_class_il, correct_task_il, num_undefined = counts.tolist()
    if num_undefined:
        raise Diverged(
            f"the network outputs NaN on {num_undefined} of {len(labels)} test images; a lower --lr may help"
        )
    return Counts(correct_class_il, correct_task_il, len(labels))


def mean_cross_entropy(
    scores: Callable[[Tensor], Tensor],
    pool: "Pool",
    *,
    prepare: Callable[[Tensor], Tensor],
    batch_size: int,
    check: Callable[[], None] | None = None,
) -> float:
    """Mean cross-entropy over every image of a pool, such as the validation loss.

    Args:
        scores: normalised images [N, C, H, W] -> logits [N, K].
        pool: the images.
        prepare, batch_size, check: as in `evaluate`.

    Raises:
        Diverged: the mean is not finite.
    """
    total = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(len(pool)).split(batch_size):
        if check is not None:
            check()
        raw, labels, _ = pool.take(rows)
        total = total.to(raw.device) + cross_entropy(scores(prepare(raw)), labels, reduction="sum")
    mean = total.item() / len(pool)
    if not math.isfinite(mean):
        raise Diverged("the validation loss is no longer finite; a lower --lr may help")
    return mean
