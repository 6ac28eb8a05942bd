"""What the residual networks share: the basic block with its shortcuts, and a stem with stages of such blocks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.branch import Branch
from backbone.convolution import Convolution, rounded_weights, weights_on_branch
from backbone.norm import Norm
from backbone.norm.base import add_and_rectify
from utils.config.options import Option, ranged
from utils.errors import UserError

NormFactory = Callable[[int, int], nn.Module]  # norm(num_features, spatial_size), the side of its maps in pixels

_CHANNELS_PER_PIXEL = 8  # of small maps

WIDTH_OPTION = Option("nf", ranged(int, 1), 64, "base width of ResNet-18; its features are 8 times as many")


def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that gives ⌈side / stride⌉ pixels a side, without a bias because a norm layer follows it."""
    return Convolution(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def halved(side: int) -> int:
    """The side of maps after a stride of 2, in pixels."""
    return -(-side // 2)


def relu_after(norm: nn.Module) -> nn.Module:
    """The ReLU that follows a norm layer; nothing after a layer that takes its place, such as FRN with its TLU."""
    take_relu = getattr(norm, "take_relu", None)  # a layer of another library has none
    return nn.Identity() if take_relu is not None and take_relu() else nn.ReLU()


def normalized(norm: nn.Module, x: Tensor, *, added: Tensor | None = None, rectified: bool = False) -> Tensor:
    """relu(norm(x) + added), within the layer if it is one of the suite's; of another library it takes maps alone."""
    if getattr(norm.forward, "__func__", None) is Norm.forward:
        return norm(x, added=added, rectified=rectified)
    return add_and_rectify(norm(x), added, rectified)


class Stem(nn.Sequential):
    """A convolution, a norm layer, what `relu_after` gives, and anything else; a ReLU is taken with the layer."""

    def forward(self, x: Tensor) -> Tensor:
        if len(self) < 3 or not isinstance(self[2], nn.ReLU):
            return super().forward(x)
        convolution, norm, _, *others = self
        x = normalized(norm, convolution(x), rectified=True)
        for module in others:
            x = module(x)
        return x


class ZeroPaddedShortcut(nn.Module):
    """Every stride-th row and column, with channels of zeros appended: a shortcut without parameters.

    Option A of He et al., CVPR 2016, section 3.3.

    Args:
        num_new_channels: channels of zeros.
        stride: in pixels.
    """

    def __init__(self, num_new_channels: int, stride: int) -> None:
        super().__init__()
        self.num_new_channels = num_new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, side, side] -> [N, C + new, ⌈side / stride⌉, ⌈side / stride⌉]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.num_new_channels))


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), two 3x3 convolutions (He et al., CVPR 2016, section 3).

    The shortcut is the identity where stride and width stay as they are, a 1x1 convolution with its norm elsewhere.

    Args:
        in_channels, out_channels: widths of the incoming and the outgoing maps.
        stride: of the first convolution and the shortcut.
        norm: makes the norm layers.
        side: of the outgoing maps, in pixels.

    Attributes:
        last_relu: whether the sum is rectified.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormFactory, side: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm1 = norm(out_channels, side)
        self.has_relu = isinstance(relu_after(self.norm1), nn.ReLU)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.norm2 = norm(out_channels, side)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = self.make_shortcut(in_channels, out_channels, stride, norm, side)
        self.last_relu = True

    def make_shortcut(
        self, in_channels: int, out_channels: int, stride: int, norm: NormFactory, side: int
    ) -> nn.Module:
        """What takes the incoming maps to the shape of the outgoing ones."""
        return nn.Sequential(convolution(in_channels, out_channels, 1, stride), norm(out_channels, side))

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, stride · side, stride · side] -> [N, out_channels, side, side]."""
        branch = Branch(x.device, "shortcuts")
        branch.fork(x)
        hidden = normalized(self.norm1, self.conv1(x), rectified=self.has_relu)
        hidden = self.conv2(hidden)
        with branch.on():
            added = self.shortcut(x)
        branch.join()
        return normalized(self.norm2, hidden, added=added, rectified=self.last_relu)


class ResidualNetwork(nn.Module):
    """A stem and stages of basic blocks, every stage of another width than the last halving the maps; no classifier.

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps; draws no random numbers.
        image_size: side of the images, in pixels.
        widths: channels of each stage; the stem has those of the first.
        num_blocks: basic blocks of each stage.

    Attributes:
        num_features: D, the channels of the last map.
        block: kind of the basic blocks.
        num_stem_halvings: how often the stem halves the maps.
        num_stages: how many stages there are.
        ends_stages_in_relu: whether a ReLU follows the last sum of a stage.

    Raises:
        UserError: a stage would have to halve a map of a single pixel.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    block: ClassVar[type[BasicBlock]] = BasicBlock
    num_stem_halvings: ClassVar[int] = 0
    num_stages: ClassVar[int] = 4
    ends_stages_in_relu: ClassVar[bool] = True

    def __init__(self, norm: NormFactory, *, image_size: int, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        num_halvings = self.num_stem_halvings + sum(width != next_width for width, next_width in pairwise(widths))
        self._check_image_size(image_size, num_halvings)
        self.num_features = widths[-1]
        self.stem = self.make_stem(norm, widths[0], image_size)
        self.stages = nn.ModuleList()
        self.num_arranged = len(widths)  # leading stages in the network's memory format, the others are contiguous
        self.num_large = 0  # leading stages whose maps are not small
        side, channels = image_size, widths[0]
        for _ in range(self.num_stem_halvings):
            side = halved(side)
        for width, depth in zip(widths, num_blocks, strict=True):
            stride = 1 if width == channels else 2
            side = side if stride == 1 else halved(side)
            blocks = [self.block(channels, width, stride, norm, side)]
            blocks += [self.block(width, width, 1, norm, side) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            self.num_large += width <= _CHANNELS_PER_PIXEL * side * side
            channels = width
        self._convolutions = [module for module in self.modules() if isinstance(module, Convolution)]

    def make_stem(self, norm: NormFactory, width: int, image_size: int) -> Stem:
        """From images [N, 3, S, S] to the maps that the first stage takes."""
        layer = norm(width, image_size)
        return Stem(convolution(3, width, 3), layer, relu_after(layer))

    def _check_image_size(self, image_size: int, num_halvings: int) -> None:
        smallest = 2 ** (num_halvings - 1) + 1
        if image_size < smallest:
            raise UserError(
                f"--backbone {self.name} halves its maps {num_halvings} times and needs images of at least {smallest} "
                f"pixels a side, those of this --dataset have {image_size}; choose another backbone or dataset"
            )

    def drop_last_relu(self, stage: str) -> None:
        """Leave the last sum of a stage as it is, so that its maps have both signs (Hou et al., CVPR 2019).

        Args:
            stage: `layer1`, `layer2`, … by its number, or `final`.

        Raises:
            UserError: the network has no such stage.
        """
        stages = {f"layer{number}": blocks for number, blocks in enumerate(self.stages, start=1)}
        stages["final"] = self.stages[-1]
        if stage not in stages:
            raise UserError(f"--backbone {self.name} has no stage {stage}; choose among {', '.join(stages)}")
        last_block(stages[stage]).last_relu = False

    def arrange(self, memory_format: torch.memory_format) -> None:
        """Lay out the weights of convolutions in a memory format, which the maps follow.

        On the CPU, stages of small maps stay contiguous: their weights are many times their maps, and oneDNN transposes
        each gradient of channels-last weights, which takes longer there than the convolutions save.
        """
        if next(self.parameters()).device.type == "cpu":
            self.num_arranged = self.num_large
        for module in (self.stem, *self.stages[: self.num_arranged]):
            module.to(memory_format=memory_format)

    def rounded_weights(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Round the weights of all convolutions that learn at once, for the forwards within."""
        return rounded_weights(self._convolutions, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, D] of images [N, 3, S, S]."""
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features [N, D], and the map [N, C, side, side] after each stage; features are the last map's average."""
        maps = []
        with weights_on_branch(self._convolutions):
            x = self.stem(x)
            for number, stage in enumerate(self.stages):
                x = stage(x.contiguous() if number == self.num_arranged else x)
                maps.append(x)
        return x.mean(dim=(2, 3)), maps


def last_block(stage: nn.Module) -> BasicBlock:
    """The block at the end of a stage."""
    *_, block = (module for module in stage.children() if isinstance(module, BasicBlock))
    return block


def draw_kaiming_normal(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 2 / fan-out) (He et al., ICCV 2015).

    Those without memory stay as they are: PyTorch takes a second to find out that there is nothing to draw.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def zero_last_scales(network: nn.Module) -> None:
    """Make every block the identity at first: scale 0 in its last norm layer (Goyal et al., 2017, section 5.1).

    A norm layer without a trainable scale stays as it is.
    """
    for module in network.modules():
        scale = getattr(module.norm2, "weight", None) if isinstance(module, BasicBlock) else None
        if scale is not None:
            nn.init.zeros_(scale)
