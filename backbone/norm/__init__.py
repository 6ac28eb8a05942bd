"""Normalization layers by name, for this suite's backbones and for anybody's own network.

norm = norm_factory("TBBN")                      # norm(num_features, spatial_size) -> layer
convert_norms(network, "AdaB2N", num_tasks=5)    # every BatchNorm2d of a network, in place
begin_task(network, task)
with batch_context(network, BatchContext(task, task_of_sample, num_current)):
    loss = criterion(network(images), labels) + lambd * norm_loss(network)
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from backbone.norm.base import BalancedNorm, NormLayer
from backbone.norm.context import BatchContext
from utils.errors import UserError
from utils.registry import NORMS

__all__ = [
    "BatchContext",
    "batch_context",
    "begin_task",
    "build_norm",
    "convert_norms",
    "norm_factory",
    "norm_loss",
    "undecayed_parameters",
]


def build_norm(name: str, num_features: int, *, spatial_size: int | None = None, **options: Any) -> NormLayer:
    """The norm layer of that name.

    Args:
        name: such as `TBBN`, in any case.
        num_features: channels C.
        spatial_size: side of the maps; LN needs it.
        options: the layer's own, such as `kappa`.

    Raises:
        UserError: an unknown name, an option that the layer does not have or lacks, or options that do not fit C.
    """
    layer = NORMS.get(name)
    _check_options(layer, options)
    return layer(num_features, spatial_size=spatial_size, **options)


def norm_factory(name: str, **options: Any) -> Callable[[int, int | None], NormLayer]:
    """A function of (num_features, spatial_size) that builds the layer of that name; for a backbone to call."""
    _check_options(NORMS.get(name), options)
    return lambda num_features, spatial_size=None: build_norm(name, num_features, spatial_size=spatial_size, **options)


def _check_options(layer: type[NormLayer], options: dict[str, Any]) -> None:
    accepted: set[str] = set()
    for base in layer.__mro__:
        if issubclass(base, NormLayer):
            accepted |= set(inspect.signature(base.__init__).parameters)
    accepted -= {"self", "num_features", "spatial_size", "more"}
    for option in options:
        if option not in accepted:
            raise UserError(f"{layer.name} has no option {option!r}; it takes {', '.join(sorted(accepted))}")
    if layer.needs_num_tasks and "num_tasks" not in options:
        raise UserError(f"{layer.name} has a weight for every task: give num_tasks")


def convert_norms(network: nn.Module, name: str, *, input_size: int | None = None, **options: Any) -> nn.Module:
    """Replace every BatchNorm2d of a network in place; every other parameter stays as it was.

    Args:
        network: any network, such as torchvision's.
        name: the norm layer; `BN` keeps the layers that are there.
        input_size: side of the square images; LN needs it.
        options: the layer's own.

    Returns:
        The network.

    Raises:
        UserError: there is no BatchNorm2d, or the layer does not fit.
    """
    found = [key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise UserError(f"{type(network).__name__} has no BatchNorm2d that {name} could replace")
    norm = norm_factory(name, **options)
    if NORMS.canonical(name) == "BN":
        return network
    sizes = _map_sizes(network, found, input_size) if input_size is not None else {}
    for key in found:
        parent_name, _, child_name = key.rpartition(".")
        parent, old = network.get_submodule(parent_name), network.get_submodule(key)
        new = norm(old.num_features, sizes.get(key))
        new.to(device=old.running_mean.device, dtype=old.running_mean.dtype).train(old.training)
        setattr(parent, child_name, new)
    return network


def _map_sizes(network: nn.Module, keys: list[str], input_size: int) -> dict[str, int]:
    """Side of the maps at every named layer, from a dry run that leaves statistics, modes and random numbers alone."""
    sizes: dict[str, int] = {}

    def note(key: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            height, width = inputs[0].shape[2:]
            if height != width:
                raise UserError(f"maps at {key} are {height}x{width}; a layer with a scale per position needs squares")
            sizes[key] = height

        return hook

    hooks = [network.get_submodule(key).register_forward_pre_hook(note(key)) for key in keys]
    modes = [(module, module.training) for module in network.modules()]
    first = next(network.parameters())
    try:
        with torch.random.fork_rng(), torch.no_grad():
            network.eval()
            network(torch.zeros(1, 3, input_size, input_size, device=first.device, dtype=first.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return sizes


def _balanced_layers(network: nn.Module) -> list[BalancedNorm]:
    return [module for module in network.modules() if isinstance(module, BalancedNorm)]


@contextlib.contextmanager
def batch_context(network: nn.Module, context: BatchContext) -> Iterator[None]:
    """Describe the batch of one training forward to the layers of a network that want to know; forgotten afterwards."""
    layers = _balanced_layers(network)
    for layer in layers:
        layer.context = context
    try:
        yield
    finally:
        for layer in layers:
            layer.context = None


def begin_task(network: nn.Module, task: int) -> None:
    """Tell every layer the index, from 0, of the task that starts, after all training of the task before."""
    for layer in _balanced_layers(network):
        layer.begin_task(task)


def norm_loss(network: nn.Module) -> Tensor:
    """Σ of the layers' regularizers of the last training forward, 0-dimensional, 0 if there are none; given once."""
    total = next(network.parameters()).new_zeros(())
    for layer in _balanced_layers(network):
        if layer.regularizer is not None:
            total = total + layer.regularizer
            layer.regularizer = None
    return total


def undecayed_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that weight decay must leave alone: AdaB²N's task weights."""
    return [parameter for name, parameter in network.named_parameters() if name.endswith("task_weight")]
