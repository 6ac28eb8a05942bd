"""A method on a network that passes its input through, so that the recorded logits are the leaves.

What is made here lies on the default device, which the fixture `device` sets; the tasks of rows lie on the host.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.heads import Outputs
from utils.config.registry import METHODS, NORMS, STREAMS
from utils.data.batch import Batch

_PLAIN_SGD = {"optimizer": "sgd", "optim_mom": 0.0, "optim_nesterov": False, "optim_wd": 0.0, "decay_norms": True}


class PassThrough(nn.Module):
    """Images are logits."""

    keeps_rows_apart = True

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forward(self, images: Tensor) -> Tensor:
        return images + 0 * self.unused


class ScriptedMemory:
    """Gives prepared draws, and keeps what is inserted."""

    def __init__(self, draws: list[Batch]) -> None:
        self.draws = draws
        self.inserted: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.draws)

    def draw(self, n: int) -> Batch | None:
        return self.draws.pop(0) if self.draws else None

    def insert(self, batch: Batch, **extras: Tensor) -> None:
        self.inserted.append({"raw": batch.raw, "labels": batch.labels, "tasks": batch.tasks, **extras})


class FixedNetwork(nn.Module):
    """Gives recorded scores, features and maps, whatever the images are; its head is a part of its own."""

    def __init__(self, scores: Tensor, features: Tensor | None = None, maps: list[Tensor] | None = None) -> None:
        super().__init__()
        self.fixed = Outputs(scores, features, maps or [])
        self.head = nn.Module()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def outputs(self, images: Tensor, maps: bool = False) -> Outputs:
        return self.fixed

    def forward(self, images: Tensor) -> Tensor:
        return self.fixed.scores


def _parts(head: str) -> SimpleNamespace:
    return SimpleNamespace(norm=NORMS.get("BN"), stream=STREAMS.get("split"), head=head)


def make_offline(name: str, task: int, num_new: int, network: nn.Module, teacher: nn.Module | None, **options: Any):
    """A method in the midst of a task of `num_new` classes, as all tasks before it, with a learning rate of 0."""
    values = {option.name: option.default for option in METHODS.get(name).options}
    values |= {"lr": 0.0, "epochs": 1, "milestones": (), "lr_decay": 1.0, "lr_schedule": METHODS.get(name).schedule}
    values |= {**_PLAIN_SGD, "best_epoch": "last", "batch_size": 4} | options
    values |= METHODS.get(name).resolve_auto(values, NORMS.get("BN"))
    config = SimpleNamespace(**values, parts=_parts(METHODS.get(name).heads[0]))
    classes = [range(index * num_new, (index + 1) * num_new) for index in range(10)]
    stream = SimpleNamespace(num_tasks=10, classes_of_task=classes.__getitem__, boundaries="sharp")
    method = METHODS.get(name)(network, config, stream, None)
    method.task, method.norm_task, method.teacher = task, task, teacher
    method.optimizer = torch.optim.SGD([network.unused], lr=0.0)
    return method


def stages_of(method: Any, task: int) -> list[Any]:
    """What a method trains during a task; its stream is one of numbers alone."""
    return method.stages(method.config, method.stream, task)


def observe(method: Any, labels: np.ndarray, num_current: int | None = None) -> dict[str, Tensor]:
    """The losses of one step; their gradients are then in the leaves."""
    batch = rows(torch.zeros(len(labels), 1), labels, task=method.task)
    return method.observe(replace(batch, num_current=num_current))


def leaf(logits: np.ndarray) -> Tensor:
    return torch.tensor(logits).requires_grad_()


def rows(images: Tensor, labels: np.ndarray | None = None, task: int = 0, **extras: np.ndarray) -> Batch:
    """A batch whose images are these logits."""
    size = len(images)
    labels = torch.zeros(size, dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Batch(
        images=images,
        labels=labels,
        raw=torch.zeros(size, 3, 2, 2, dtype=torch.uint8),
        tasks=torch.full((size,), task, device="cpu"),
        host_labels=labels.cpu(),
        extras={name: torch.tensor(value) for name, value in extras.items()},
    )


def make(name: str, draws: list[Batch] | None = None, num_classes: int = 10, **options: Any):
    """A method at the beginning of a stage, with plain SGD of learning rate 0."""
    values = {"lr": 0.0, "epochs": 1, "milestones": (), "lr_decay": 1.0, "lr_schedule": METHODS.get(name).schedule}
    values |= {**_PLAIN_SGD, "minibatch_size": 5, "forward": "separate"} | options
    config = SimpleNamespace(**values, best_epoch="last", parts=_parts("linear"))
    stream = SimpleNamespace(num_tasks=5, num_classes=num_classes, boundaries="sharp")
    method = METHODS.get(name)(PassThrough(), config, stream, ScriptedMemory(draws or []))
    method.begin_stage(stages_of(method, 4)[0])
    return method


def assert_matches(value: Tensor, recorded: np.ndarray) -> None:
    np.testing.assert_allclose(value.detach().cpu().numpy(), recorded, rtol=1e-9, atol=1e-11)


def assert_gradient(logits: Tensor, recorded: np.ndarray) -> None:
    """A leaf outside the loss has no gradient, which was recorded as zeros."""
    assert_matches(torch.zeros_like(logits) if logits.grad is None else logits.grad, recorded)
