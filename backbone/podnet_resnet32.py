"""The ResNet-32 that PODNet and AFC train on CIFAR-100 (Douillard et al., ECCV 2020; Kang et al., CVPR 2022)."""

from torch import nn

from backbone.blocks import (
    BasicBlock,
    NormFactory,
    ResidualNetwork,
    ZeroPaddedShortcut,
    draw_kaiming_normal,
    zero_last_scales,
)
from utils.config.registry import BACKBONES


class LinearSumBlock(BasicBlock):
    """norm(conv(relu(norm(conv(x))))) + shortcut(x), where the shortcut has no parameters and no ReLU follows."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormFactory, side: int) -> None:
        super().__init__(in_channels, out_channels, stride, norm, side)
        self.last_relu = False

    def make_shortcut(
        self, in_channels: int, out_channels: int, stride: int, norm: NormFactory, side: int
    ) -> nn.Module:
        return ZeroPaddedShortcut(out_channels - in_channels, stride)


@BACKBONES.register()
class PODNetResNet32(ResidualNetwork):
    """Stages of 5, 5, 4 and 1 blocks, of 16, 32, 64 and 64 channels, without a ReLU after any sum.

    This is the network of iCaRL (Rebuffi et al., CVPR 2017), its last block counted as a stage of its own. Convolutions
    are drawn from N(0, 2 / fan-out) (He et al., ICCV 2015), the last scale of every block starts at zero.

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps.
        image_size: side of the images, in pixels; at least 3.
    """

    block = LinearSumBlock
    ends_stages_in_relu = False

    def __init__(self, norm: NormFactory, *, image_size: int) -> None:
        super().__init__(norm, image_size=image_size, widths=(16, 32, 64, 64), num_blocks=(5, 5, 4, 1))
        draw_kaiming_normal(self)
        zero_last_scales(self)
