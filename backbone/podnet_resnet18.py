"""The ResNet-18 that PODNet and AFC train on ImageNet-100 (Douillard et al., ECCV 2020; Kang et al., CVPR 2022)."""

from torch import nn

from backbone.blocks import (
    WIDTH_OPTION,
    NormFactory,
    ResidualNetwork,
    Stem,
    draw_kaiming_normal,
    last_block,
    zero_last_scales,
)
from utils.config.registry import BACKBONES


@BACKBONES.register()
class PODNetResNet18(ResidualNetwork):
    """A 3x3 stem of stride 1, 3x3 max-pooling of stride 2, four stages of two blocks, of nf, 2 nf, 4 nf, 8 nf channels.

    Of the two sums of a stage only the first is rectified, so that maps and features have both signs. Convolutions are
    drawn from N(0, 2 / fan-out) (He et al., ICCV 2015), the last scale of every block starts at zero.

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps.
        image_size: side of the images, in pixels; at least 9.
        nf: base width; the features are 8 nf.
    """

    options = (WIDTH_OPTION,)
    num_stem_halvings = 1
    ends_stages_in_relu = False

    def __init__(self, norm: NormFactory, *, image_size: int, nf: int = WIDTH_OPTION.default) -> None:
        super().__init__(norm, image_size=image_size, widths=(nf, 2 * nf, 4 * nf, 8 * nf), num_blocks=(2, 2, 2, 2))
        for stage in self.stages:
            last_block(stage).last_relu = False
        draw_kaiming_normal(self)
        zero_last_scales(self)

    def make_stem(self, norm: NormFactory, width: int, image_size: int) -> Stem:
        return Stem(*super().make_stem(norm, width, image_size), nn.MaxPool2d(3, stride=2, padding=1))
