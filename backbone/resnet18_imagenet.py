"""ResNet-18 for the images of ImageNet (He et al., CVPR 2016, table 1), in torchvision's layout."""

from torch import nn

from backbone.blocks import (
    WIDTH_OPTION,
    NormFactory,
    ResidualNetwork,
    Stem,
    convolution,
    draw_kaiming_normal,
    halved,
    relu_after,
)
from utils.config.registry import BACKBONES


@BACKBONES.register()
class ResNet18ImageNet(ResidualNetwork):
    """A 7x7 stem of stride 2, 3x3 max-pooling of stride 2, four stages of two blocks, of nf, 2 nf, 4 nf, 8 nf channels.

    Convolutions are drawn from N(0, 2 / fan-out) (He et al., ICCV 2015); no scale starts at zero.

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps.
        image_size: side of the images, in pixels; at least 17, and from 33 on the last map has more than one pixel.
        nf: base width; the features are 8 nf.
    """

    options = (WIDTH_OPTION,)
    num_stem_halvings = 2

    def __init__(self, norm: NormFactory, *, image_size: int, nf: int = WIDTH_OPTION.default) -> None:
        super().__init__(norm, image_size=image_size, widths=(nf, 2 * nf, 4 * nf, 8 * nf), num_blocks=(2, 2, 2, 2))
        draw_kaiming_normal(self)

    def make_stem(self, norm: NormFactory, width: int, image_size: int) -> Stem:
        layer, pooling = norm(width, halved(image_size)), nn.MaxPool2d(3, stride=2, padding=1)
        return Stem(convolution(3, width, 7, stride=2), layer, relu_after(layer), pooling)
