"""The basic residual block (He et al., CVPR 2016) that the backbones are made of."""

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int, int], nn.Module]  # (num_features, spatial_size) -> layer


def halve(size: int) -> int:
    """Side of a map after a 3x3 convolution of stride 2 with padding 1, or a 1x1 one of stride 2 without."""
    return (size + 1) // 2


def pool(maps: Tensor) -> Tensor:
    """Mean over the whole map, [N, C, H, W] -> [N, C]."""
    return maps.mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """ReLU(shortcut(x) + norm(conv(ReLU(norm(conv(x)))))), both convolutions 3x3.

    The shortcut is a 1x1 convolution with a norm layer where stride or width change, otherwise the identity.

    Args:
        norm: builds a norm layer from (num_features, spatial_size).
        in_channels, channels: channels of input and output.
        size: side of the output map.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, norm: Norm, in_channels: int, channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(channels, size)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm(channels, size)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(channels, size))

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(inputs)))
        out = self.norm2(self.conv2(out))
        return self.relu(out + self.shortcut(inputs))
