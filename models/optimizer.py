"""The optimizer of a stage."""

from typing import Any

import torch
from torch import Tensor


def make_sgd(groups: list[dict[str, Any]], lr: float, *, momentum: float, **settings: Any) -> torch.optim.SGD:
    """SGD whose step a CUDA graph can hold: a learning rate on the device, and momentum from the beginning.

    The momentum before the first step is 0, which gives what PyTorch's has after it.

    Args:
        groups: of parameters.
        lr: learning rate, which may be filled with another later.
        momentum: between 0 and 1.
        settings: further ones of `torch.optim.SGD`.
    """
    first = next((parameter for group in groups for parameter in group["params"]), torch.zeros(()))
    # The kernel for GPUs reads a float32; in the arithmetic of the CPU nothing is lost of the number.
    rate = torch.tensor(lr, dtype=torch.float32 if first.is_cuda else torch.float64, device=first.device)
    fused = is_fused(first)
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=fused, foreach=not fused, **settings)
    if momentum:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def is_fused(parameter: Tensor) -> bool:
    """Whether one kernel updates all parameters, as on a GPU; that of the CPU copies channels-last gradients first."""
    return parameter.is_cuda
