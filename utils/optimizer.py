"""The optimizer of a stage, as the options of a run describe it."""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class OptimizerOptions(Protocol):
    """The options of a run that describe its optimizer (`utils/config/options.py`); each optimizer reads its own."""

    optimizer: str
    optim_wd: float
    optim_mom: float
    optim_nesterov: bool
    optim_beta1: float
    optim_beta2: float
    optim_eps: float


def optimizer_settings(options: OptimizerOptions) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
    """The class, and its arguments beside the learning rate."""
    decay = {"weight_decay": options.optim_wd}
    if options.optimizer == "sgd":
        momentum = {"momentum": options.optim_mom, "nesterov": options.optim_nesterov}
        return _without_compiler(torch.optim.SGD), {**momentum, **decay}
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    betas = (options.optim_beta1, options.optim_beta2)
    return _without_compiler(kinds[options.optimizer]), {"betas": betas, "eps": options.optim_eps, **decay}


@cache
def _without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimizer, whose methods do not bring in PyTorch's compiler, to be told that they are not for it.

    That takes as long as to bring in PyTorch itself, nearly half of a small run.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def make_optimizer(groups: list[dict[str, Any]], lr: float, options: OptimizerOptions) -> torch.optim.Optimizer:
    """An optimizer whose step a CUDA graph can hold: a learning rate on the device, and a state from the beginning.

    The state before the first step is 0, which gives what PyTorch's has after it.

    Args:
        groups: of parameters.
        lr: learning rate, which may be filled with another later.
        options: of the run.
    """
    kind, settings = optimizer_settings(options)
    first = next((parameter for group in groups for parameter in group["params"]), torch.zeros(()))
    # The kernel for GPUs reads a float32; in the arithmetic of the CPU nothing is lost of the number.
    rate = torch.tensor(lr, dtype=torch.float32 if first.is_cuda else torch.float64, device=first.device)
    fused = is_fused(first)
    is_sgd = options.optimizer == "sgd"
    if is_sgd:
        ways, state = {"foreach": not fused}, ["momentum_buffer"] if options.optim_mom else []
    else:  # on the CPU, PyTorch takes a learning rate of this kind parameter by parameter alone
        ways, state = {"foreach": False, "capturable": first.is_cuda}, ["exp_avg", "exp_avg_sq"]
    optimizer = kind(groups, lr=rate, fused=fused, **ways, **settings)
    for parameter in parameters_of(optimizer):
        optimizer.state[parameter].update({name: torch.zeros_like(parameter) for name in state})
        if not is_sgd:
            optimizer.state[parameter]["step"] = torch.zeros((), device=parameter.device)
    return optimizer


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """What an optimizer changes."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def is_fused(parameter: Tensor) -> bool:
    """Whether one kernel updates all parameters, as on a GPU; that of the CPU copies channels-last gradients first."""
    return parameter.is_cuda
