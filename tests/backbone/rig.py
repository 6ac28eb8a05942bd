"""What the tests of the backbones share: norm factories that wait for no norm layer of ours, and their record."""

import torch
from torch import Tensor, nn

from backbone.blocks import BasicBlock
from utils.config.registry import BACKBONES

FACTORIES = {
    "batch": lambda num_features, spatial_size: nn.BatchNorm2d(num_features),
    "group": lambda num_features, spatial_size: nn.GroupNorm(1, num_features),
    "layer": lambda num_features, spatial_size: nn.LayerNorm([num_features, spatial_size, spatial_size]),
    "none": lambda num_features, spatial_size: nn.Identity(),
}


class Places:
    """A norm factory that writes down where it was asked for a layer."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, num_features: int, spatial_size: int) -> nn.Module:
        self.asked.append((num_features, spatial_size))
        return CheckedIdentity(num_features, spatial_size)


class CheckedIdentity(nn.Module):
    """Passes on a map, which must have the promised shape."""

    def __init__(self, num_features: int, spatial_size: int) -> None:
        super().__init__()
        self.promised = (num_features, spatial_size, spatial_size)

    def forward(self, x: Tensor) -> Tensor:
        assert tuple(x.shape[1:]) == self.promised
        return x


class KeepsOutput(torch.autograd.Function):
    """x -> exp(x / 8), whose backward pass needs the output untouched, as some norm layer's might."""

    @staticmethod
    def forward(context, x):
        output = (x / 8).exp()
        context.save_for_backward(output)
        return output

    @staticmethod
    def backward(context, gradient):
        (output,) = context.saved_tensors
        return gradient * output / 8


class OutputKeepingNorm(nn.Module):
    """A layer that keeps its own output for the backward pass."""

    def __init__(self, num_features: int, spatial_size: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return KeepsOutput.apply(x)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def build(backbone: type, factory="batch", seed: int = 0, **options) -> nn.Module:
    """A backbone with freshly seeded weights, for 32 pixels unless told otherwise."""
    torch.manual_seed(seed)
    return backbone(FACTORIES.get(factory, factory), **({"image_size": 32} | options))


def narrow(name: str, factory="batch", **options) -> nn.Module:
    """A registered backbone, of few channels where it has a width."""
    narrow_options = {"nf": 4} if "resnet18" in name else {}
    return build(BACKBONES.get(name), factory, **(narrow_options | options))


def awake(network: nn.Module) -> nn.Module:
    """The network with scale 1 in all norm layers, so that no residual branch is switched off."""
    for block in network.modules():
        if isinstance(block, BasicBlock) and getattr(block.norm2, "weight", None) is not None:
            nn.init.ones_(block.norm2.weight)
    return network
