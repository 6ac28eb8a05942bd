"""What a training batch consists of, told to the layers of a network for the length of one forward."""

import torch
from torch import Tensor

from utils.errors import UserError


class BatchContext:
    """The description of one batch.

    Args:
        task: index of the task being trained, from 0.
        task_of_sample: task index of every row, [N] int64 on the host, or None if unknown.
        num_current: the leading rows that come from the current stream; the rest comes from memory.

    Raises:
        UserError: an index is negative or beyond the current task, or more rows are current than there are.
    """

    def __init__(self, task: int, task_of_sample: Tensor | None, num_current: int) -> None:
        self.task = task
        self.task_of_sample = task_of_sample
        self.num_current = num_current
        self._shares: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        if task_of_sample is not None:
            if task_of_sample.device.type != "cpu":
                raise UserError("task_of_sample must be on the host, so that checking it waits for no device")
            if len(task_of_sample) and not 0 <= int(task_of_sample.min()) <= int(task_of_sample.max()) <= task:
                raise UserError(f"task_of_sample must hold task indices from 0 to the current task {task}")
            self.check_size(len(task_of_sample))

    def check_size(self, num_samples: int) -> None:
        """Raises UserError if the batch cannot have that many rows."""
        known = None if self.task_of_sample is None else len(self.task_of_sample)
        if known not in (None, num_samples) or not 0 <= self.num_current <= num_samples:
            raise UserError(
                f"a batch of {num_samples} rows is described with {self.num_current} current rows"
                + ("" if known is None else f" and the tasks of {known} rows")
            )

    def task_shares(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows per task, [t + 1], and each row's share of its task's rows, [N, t + 1]; sent once for all layers."""
        key = (device, dtype)
        if key not in self._shares:
            rows = torch.nn.functional.one_hot(self.task_of_sample, self.task + 1)
            counts = rows.sum(dim=0)
            shares = rows.double() / counts.clamp(min=1)
            self._shares[key] = tuple(each.to(device, dtype, non_blocking=True) for each in (counts, shares))
        return self._shares[key]
