"""Other normalization layers in networks that were built with batch normalization."""

import warnings
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ._factory import NormFactory, norm_factory
from .base import Norm
from .errors import NormError
from .registry import constructor_arguments


def convert_norms(
    network: nn.Module,
    name: str,
    *,
    input_size: int | tuple[int, int, int] | None = None,
    fresh: bool = False,
    **options: Any,
) -> nn.Module:
    """Replace every BatchNorm2d inside a network, in place, by new layers that go on where it was.

    A new layer has the mode, device and type of the old one, its scale and shift (the same parameters, so that an
    optimizer goes on with them), and unless `options` say otherwise its affine, eps and momentum, where these mean
    the same: BRN keeps an eps of its own. BN, TBBN, AdaB2N and BRN also take the running statistics, so that a trained
    network evaluates as before. LN, IN, GN, SN, CN, FRN and DyT normalize in another way and have to be trained on. A
    warning names what is lost. Everything else in the network stays as it was, and no random number is drawn. BN, too,
    is a new layer, which knows of the batches that share a forward, as all do.

    FRN leaves the network's ReLUs where they are; its TLU takes the place of one only in timm's BatchNormAct2d, which
    has it inside. For a network without ReLUs, `tlu=True` gives every layer its TLU.

    Load weights of the old network before the conversion. After it, they fit BN, TBBN and AdaB2N by
    `load_state_dict(state, strict=False)`, which misses no more than `cur_tasks` and `task_weight`, but not BRN, which
    has `running_std` in place of `running_var`.

    Args:
        network: of torchvision, timm or one's own.
        name: of the layer, such as `TBBN`.
        input_size: of one image, (C, H, W) or the side of an RGB image. Needed by LN: the network is run once in
            evaluation, on zeros, to find the size of the maps.
        fresh: take over nothing: the layer's own defaults, weight 1, bias 0 and running statistics at their start.
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
    if factory.layer.needs_spatial_size and input_size is None:
        raise NormError(f"{factory.layer.name} has parameters for every position: give input_size")
    olds = {id(old): old for _, _, old in places}  # a layer may be used in several places
    sides = {} if input_size is None else _sides_of_maps(network, olds, input_size)
    if factory.layer.needs_spatial_size and len(sides) < len(olds):
        raise NormError(f"{factory.layer.name} needs square maps of one size, which not every BatchNorm2d has here")
    news = {key: _make(old, factory, sides.get(key), fresh) for key, old in olds.items()}
    lost = {} if fresh else {key: list(_take_over(news[key], old, factory)) for key, old in olds.items()}
    replacements = {key: _with_what_follows(news[key], old) for key, old in olds.items()}
    names = {id(module): name for name, module in network.named_modules()}
    for parent, child, old in places:
        parent.add_module(child, replacements[id(old)])
    _warn_of(factory.layer.name, {names[key]: what for key, what in lost.items()})
    return network


def _places(network: nn.Module) -> list[tuple[nn.Module, str, nn.BatchNorm2d]]:
    """Parent, name and layer. Raises NormError for layers of batch normalization that cannot be replaced."""
    for name, module in network.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise NormError(f"{name} is a SyncBatchNorm; no layer here shares its batch among devices: use BatchNorm2d")
        if isinstance(module, nn.LazyBatchNorm2d):
            raise NormError(f"{name} does not know its channels yet: run the network once before")
    children = ((parent, *child) for parent in network.modules() for child in parent._modules.items())
    return [(parent, name, child) for parent, name, child in children if isinstance(child, nn.BatchNorm2d)]


def _make(old: nn.BatchNorm2d, factory: NormFactory, side: int | None, fresh: bool) -> Norm:
    """A layer for the place of an old one."""
    accepted = constructor_arguments(factory.layer)
    shared = {} if fresh else {name: getattr(old, name) for name in factory.layer.shared_arguments if name in accepted}
    if shared.get("momentum", 0) is None:
        del shared["momentum"]
    new = factory.layer(old.num_features, spatial_size=side, **(shared | factory.options))
    _takes_relu(new, old)
    reference = next((tensor for tensor in (old.weight, old.running_mean) if tensor is not None), None)
    if reference is not None:
        new = new.to(reference.device, reference.dtype)
    return new.train(old.training)


def _take_over(new: Norm, old: nn.BatchNorm2d, factory: NormFactory) -> Iterator[str]:
    """Go on from the parameters and statistics of an old layer; yields what is lost."""
    for name, what, start in (("weight", "scale", 1), ("bias", "shift", 0)):
        ours, theirs = getattr(new, name, None), getattr(old, name)
        if ours is None and _differs(theirs, start):
            yield f"the {what}"
        if ours is None or theirs is None:
            continue
        if ours.shape == theirs.shape:
            setattr(new, name, theirs)
        else:  # LN has a value for every position of a channel
            ours.data.copy_(theirs.data.view(-1, *[1] * (ours.dim() - 1)))
            ours.requires_grad_(theirs.requires_grad)
    if old.running_mean is None:
        yield "evaluation by the batch itself (track_running_stats=False)"
    elif (_differs(old.running_mean, 0) or _differs(old.running_var, 1)) and not new.take_statistics(old):
        yield "evaluation by the running statistics"
    if old.momentum is None and hasattr(new, "momentum") and "momentum" not in factory.options:
        yield "the cumulative average (momentum=None)"
    if old._forward_hooks or old._forward_pre_hooks or old._backward_hooks or old._backward_pre_hooks:
        yield "the hooks"


def _warn_of(layer: str, lost: dict[str, list[str]]) -> None:
    """One warning for all that is lost, by the name of the layer that had it."""
    owners: dict[str, list[str]] = {}
    for name, losses in lost.items():
        for what in losses:
            owners.setdefault(what, []).append(name)
    told = [f"{what} ({', '.join(names[:2])}{', …' * (len(names) > 2)})" for what, names in owners.items()]
    if told:
        warnings.warn(f"{layer} does not take over {', '.join(told)}", stacklevel=3)


def _differs(tensor: Tensor | None, start: float) -> bool:
    return tensor is not None and not tensor.is_meta and bool((tensor != start).any())


def _with_what_follows(new: Norm, old: nn.BatchNorm2d) -> nn.Module:
    """The new layer, followed by what a subclass of the old one does after normalizing."""
    if type(old).forward is nn.BatchNorm2d.forward:
        return new
    if _takes_relu(new, old):
        return new
    drop, act = getattr(old, "drop", None), getattr(old, "act", None)
    if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return nn.Sequential(new, drop, act)  # timm's BatchNormAct2d
    raise NormError(f"{type(old).__name__} does more than BatchNorm2d, and would lose it: build the network with that")


def _takes_relu(new: Norm, old: nn.BatchNorm2d) -> bool:
    """Whether the new layer takes the place of a ReLU that is a part of the old one."""
    drop, act = getattr(old, "drop", None), getattr(old, "act", None)  # of timm's BatchNormAct2d, in this order
    return isinstance(drop, nn.Identity) and isinstance(act, nn.ReLU) and new.take_relu()


def _sides_of_maps(
    network: nn.Module, layers: dict[int, nn.BatchNorm2d], input_size: int | tuple[int, int, int]
) -> dict[int, int]:
    """Side of the square maps that reach each layer, by the layer's id; none where they are not all of one size."""
    shapes: dict[int, set[tuple[int, int]]] = {key: set() for key in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[2:]
        shapes[id(layer)].add((height, width))

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
