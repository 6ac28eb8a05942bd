"""What the residual networks share: the basic block, and a stem with stages of such blocks."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import UserError
from utils.options import Option

NormFactory = Callable[[int, int], nn.Module]  # norm(num_features, spatial_size), the side of its maps in pixels


def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that gives ⌈side / stride⌉ pixels a side, without a bias because a norm layer follows it."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), two 3x3 convolutions (He et al., CVPR 2016, section 3).

    The shortcut is the identity where stride and width stay as they are, a 1x1 convolution with its norm elsewhere.

    Args:
        in_channels, out_channels: widths of the incoming and the outgoing maps.
        stride: of the first convolution and the shortcut.
        norm: makes the norm layers.
        side: of the outgoing maps, in pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormFactory, side: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm1 = norm(out_channels, side)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.norm2 = norm(out_channels, side)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(convolution(in_channels, out_channels, 1, stride), norm(out_channels, side))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        # In place only on the sum: a norm layer may keep its own output for the backward pass, a sum never does.
        return F.relu_(residual + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """A 3x3 stem and stages of basic blocks, every stage after the first halving the maps; no classifier.

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps; draws no random numbers.
        image_size: side of the images, in pixels.
        widths: channels of each stage; the stem has those of the first.
        num_blocks: basic blocks of each stage.

    Attributes:
        num_features: D, the channels of the last map.

    Raises:
        UserError: a stage would have to halve a map of a single pixel.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()

    def __init__(self, norm: NormFactory, *, image_size: int, widths: Sequence[int], num_blocks: int) -> None:
        super().__init__()
        self._check_image_size(image_size, num_halvings=len(widths) - 1)
        self.num_features = widths[-1]
        self.stem = nn.Sequential(convolution(3, widths[0], 3), norm(widths[0], image_size), nn.ReLU())
        self.stages = nn.ModuleList()
        side, channels = image_size, widths[0]
        for width in widths:
            stride = 2 if self.stages else 1
            side = -(-side // stride)
            blocks = [BasicBlock(channels, width, stride, norm, side)]
            blocks += [BasicBlock(width, width, 1, norm, side) for _ in range(num_blocks - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width

    def _check_image_size(self, image_size: int, num_halvings: int) -> None:
        smallest = 2 ** (num_halvings - 1) + 1
        if image_size < smallest:
            raise UserError(
                f"--backbone {self.name} halves its maps {num_halvings} times and needs images of at least {smallest} "
                f"pixels a side, those of this --dataset have {image_size}; choose another backbone or dataset"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, D] of images [N, 3, S, S]."""
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features [N, D], and the map [N, C, side, side] after each stage; features are the last map's average."""
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return x.mean(dim=(2, 3)), maps
