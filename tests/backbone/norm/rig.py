"""Layers, batches and steps for the tests of normalization layers."""

import torch

from backbone.norm import BatchContext, batch_context, begin_task, build_norm, norm_loss
from utils.config.registry import NORMS

NAMES = NORMS.names()
GROUPED = {"GN": {"num_groups": 4}, "CN": {"num_groups": 4}}
NUM_TASKS = 4


def make(name, channels=8, side=3, dtype=torch.float32, **options):
    """A layer with weights that are not all ones."""
    options = GROUPED.get(name, {}) | options
    layer = build_norm(name, channels, spatial_size=side, num_tasks=NUM_TASKS, **options).to(dtype)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return layer


def maps(num_samples=12, channels=8, side=3, dtype=torch.float32, seed=2):
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(num_samples, channels, side, side, generator=random, dtype=dtype) + 1


def context(task=2, num_current=8, num_memory=4):
    """Current samples of the task itself, memory samples of the tasks before it in turn."""
    memory = torch.arange(num_memory) % max(task, 1)
    return BatchContext(task, torch.cat([torch.full((num_current,), task), memory]), num_current)


def train_step(layer, x, described=None):
    """One training forward and backward with the regularizer; the output, the regularizer and the gradients."""
    layer.train()
    if described is None:
        y = layer(x)
    else:
        begin_task(layer, described.task)
        with batch_context(layer, described):
            y = layer(x)
    regularizer = norm_loss(layer)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    ((weights * y.square()).sum() + regularizer).backward()
    return y.detach(), regularizer.detach(), {name: p.grad for name, p in layer.named_parameters()}


def state_of(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same_state(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
