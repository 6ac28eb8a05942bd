"""Other normalization layers in networks that were built with batch normalization."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ._factory import NormFactory, norm_factory
from .errors import NormError


def convert_norms(
    network: nn.Module, name: str, *, input_size: int | tuple[int, int, int] | None = None, **options: Any
) -> nn.Module:
    """Replace every BatchNorm2d inside a network, in place, by new layers.

    Every other parameter stays as it was, and no random number is drawn. A new layer has the type, device and mode of
    the old one, but starts with weight 1, bias 0 and fresh running statistics. `BN` without options keeps the layers.

    Args:
        network: of torchvision, timm or one's own.
        name: of the layer, such as `TBBN`.
        input_size: of one image, (C, H, W) or the side of an RGB image. Needed by LN: the network is run once in
            evaluation, on zeros, to find the size of the maps.
        options: as for `norm_factory`.

    Returns:
        The network itself.

    Raises:
        NormError: the network has no BatchNorm2d, or one that cannot be replaced; it is left as it was.
    """
    factory = norm_factory(name, **options)
    places = _places(network)
    if not places:
        raise NormError(f"{factory.layer.name} reached no layer: {type(network).__name__} has no BatchNorm2d inside")
    if factory.layer.name == "BN" and not factory.options:
        return network
    if factory.layer.needs_spatial_size and input_size is None:
        raise NormError(f"{factory.layer.name} has parameters for every position: give input_size")
    olds = {id(old): old for _, _, old in places}  # a layer may be used in several places
    sides = {} if input_size is None else _sides_of_maps(network, olds, input_size)
    if factory.layer.needs_spatial_size and len(sides) < len(olds):
        raise NormError(f"{factory.layer.name} needs square maps of one size, which not every BatchNorm2d has here")
    replacements = {key: _replace(old, factory, sides.get(key)) for key, old in olds.items()}
    for parent, child, old in places:
        parent.add_module(child, replacements[id(old)])
    return network


def _places(network: nn.Module) -> list[tuple[nn.Module, str, nn.BatchNorm2d]]:
    """Parent, name and layer."""
    children = ((parent, *child) for parent in network.modules() for child in parent._modules.items())
    return [(parent, name, child) for parent, name, child in children if isinstance(child, nn.BatchNorm2d)]


def _replace(old: nn.BatchNorm2d, factory: NormFactory, side: int | None) -> nn.Module:
    """A new layer in the place of an old one, followed by what a subclass does after normalizing."""
    new = factory(old.num_features, side)
    reference = next((tensor for tensor in (old.weight, old.running_mean) if tensor is not None), None)
    if reference is not None:
        new = new.to(reference.device, reference.dtype)
    new.train(old.training)
    if type(old).forward is nn.BatchNorm2d.forward:
        return new
    if isinstance(getattr(old, "drop", None), nn.Module) and isinstance(getattr(old, "act", None), nn.Module):
        return nn.Sequential(new, old.drop, old.act)  # timm's BatchNormAct2d
    raise NormError(f"{type(old).__name__} does more than BatchNorm2d, and would lose it: build the network with that")


def _sides_of_maps(
    network: nn.Module, layers: dict[int, nn.BatchNorm2d], input_size: int | tuple[int, int, int]
) -> dict[int, int]:
    """Side of the square maps that reach each layer, by the layer's id; none where they are not all of one size."""
    shapes: dict[int, set[tuple[int, int]]] = {key: set() for key in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[id(layer)].add(tuple(inputs[0].shape[2:]))

    handles = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    modes = [(module, module.training) for module in network.modules()]
    try:
        _run_once(network.eval(), (3, input_size, input_size) if isinstance(input_size, int) else input_size)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    sizes = {key: next(iter(sizes)) for key, sizes in shapes.items() if len(sizes) == 1}
    return {key: height for key, (height, width) in sizes.items() if height == width}


@torch.no_grad()
def _run_once(network: nn.Module, image_shape: tuple[int, ...]) -> None:
    """One image of zeros, leaving the random streams as they are."""
    reference = next(chain(network.parameters(), network.buffers()), torch.zeros(()))
    devices = [reference.device] if reference.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        network(reference.new_zeros(1, *image_shape))
