"""Other normalization layers in networks that were built with batch normalization."""

from typing import Any

import torch
from torch import Tensor, nn

from backbone.norm._factory import NormFactory, norm_factory
from backbone.norm.base import Norm
from utils.errors import UserError


def convert_norms(
    network: nn.Module, name: str, *, input_size: int | tuple[int, int, int] | None = None, **options: Any
) -> nn.Module:
    """Replace every BatchNorm2d of a network, in place, by new layers.

    Every other parameter stays as it was, and no random number is drawn. A new layer has the type, device and mode of
    the old one, but starts with weight 1, bias 0 and fresh running statistics. `BN` without options keeps the layers.

    Args:
        network: of torchvision, timm or one's own. Of the subclasses of BatchNorm2d, those with a `drop` and an `act`
            after the normalization (timm's BatchNormAct2d) keep both.
        name: of the layer, such as `TBBN`.
        input_size: of one image, (C, H, W) or the side of an RGB image. Needed by LN: the network is run once in
            evaluation to find the size of the maps.
        options: as for `norm_factory`.

    Returns:
        The network itself.

    Raises:
        UserError: the network has no BatchNorm2d, or one that cannot be replaced.
    """
    factory = norm_factory(name, **options)
    places = [
        (parent, child_name, child)
        for parent in network.modules()
        for child_name, child in parent._modules.items()
        if isinstance(child, nn.BatchNorm2d)
    ]
    if not places:
        raise UserError(f"{factory.layer.name} reached no layer: {type(network).__name__} has no BatchNorm2d inside")
    if factory.keeps_batch_norm:
        return network
    layers = {id(child): child for _, _, child in places}
    sides = _sides_of_maps(network, list(layers.values()), input_size)
    replacements = {key: _replacement(layer, factory, sides.get(key)) for key, layer in layers.items()}
    for parent, child_name, child in places:
        parent._modules[child_name] = replacements[id(child)]
    return network
