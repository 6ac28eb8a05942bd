"""A method on a network that passes its input through, so that the recorded logits are the leaves."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.batch import Batch
from utils.registry import METHODS, NORMS


class PassThrough(nn.Module):
    """Images are logits."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return images + 0 * self.unused


class ScriptedMemory:
    """Gives prepared draws, and keeps what is inserted."""

    def __init__(self, draws: list[Batch]) -> None:
        self.draws = draws
        self.inserted: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.draws)

    def draw(self, n: int) -> Batch:
        return self.draws.pop(0)

    def insert(self, raw: Tensor, labels: Tensor, tasks: Tensor, **extras: Tensor) -> None:
        self.inserted.append({"raw": raw, "labels": labels, "tasks": tasks, **extras})


def leaf(logits: np.ndarray) -> Tensor:
    return torch.from_numpy(logits).clone().requires_grad_()


def rows(images: Tensor, labels: np.ndarray | None = None, task: int = 0, **extras: np.ndarray) -> Batch:
    """A batch whose images are these logits."""
    size = len(images)
    return Batch(
        images=images,
        labels=torch.zeros(size, dtype=torch.int64) if labels is None else torch.from_numpy(labels),
        raw=torch.zeros(size, 3, 2, 2, dtype=torch.uint8),
        tasks=torch.full((size,), task),
        extras={name: torch.from_numpy(value) for name, value in extras.items()},
    )


def make(name: str, draws: list[Batch] | None = None, num_classes: int = 10, **options: Any):
    """A method at the beginning of a stage, with plain SGD of learning rate 0."""
    values = {"lr": 0.0, "epochs": 1, "milestones": (), "lr_decay": 1.0, "optim_mom": 0.0, "optim_wd": 0.0}
    values |= {"optim_nesterov": False, "minibatch_size": 5, "forward": "separate"} | options
    config = SimpleNamespace(**values, parts=SimpleNamespace(norm=NORMS.get("BN")))
    stream = SimpleNamespace(num_tasks=5, num_classes=num_classes)
    method = METHODS.get(name)(PassThrough(), config, stream, ScriptedMemory(draws or []))
    method.begin_stage(method.stages(4)[0])
    return method


def assert_matches(value: Tensor, recorded: np.ndarray) -> None:
    np.testing.assert_allclose(value.detach().numpy(), recorded, rtol=1e-9, atol=1e-11)


def assert_gradient(logits: Tensor, recorded: np.ndarray) -> None:
    """A leaf outside the loss has no gradient, which was recorded as zeros."""
    assert_matches(torch.zeros_like(logits) if logits.grad is None else logits.grad, recorded)
